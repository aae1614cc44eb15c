// Linear: a matrix product with a trained matrix.
import { type LinearOptions as Epilogue, linear } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import { type Init, type TensorKind, uniform } from './init.ts'
import { Module, parameter, vectorDtype } from './module.ts'

export interface LinearOptions extends TensorKind {
  /** Adds a trained vector. Default true. */
  bias?: boolean
  /** Initial weight. Default, as PyTorch's: uniform in 1 / sqrt(in) either way, as the bias is. */
  init?: Init
}

/** `x weight^T + bias` over the last axis: [..., in] to [..., out]. `weight` is [out, in]. */
export class Linear extends Module {
  weight: Tensor // [out, in]
  bias: Tensor | null // [out]

  constructor(inputs: number, outputs: number, options: LinearOptions = {}) {
    super()
    const { bias = true, init = uniform(1 / Math.sqrt(inputs)), ...kind } = options
    this.weight = parameter(init([outputs, inputs], kind))
    const vector = { ...kind, dtype: vectorDtype(kind.dtype ?? 'float32') }
    this.bias = bias ? parameter(uniform(1 / Math.sqrt(inputs))([outputs], vector)) : null
  }

  forward(x: Tensor, options: Epilogue = {}): Tensor {
    return linear(x, this.weight, this.bias, options)
  }
}
