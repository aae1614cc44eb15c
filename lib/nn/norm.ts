// Normalisation over the last axis, with trained weights.
import { ones, zeros } from '../ops/create.ts'
import { addLayerNorm, addRmsNorm, layerNorm, rmsNorm } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import type { TensorKind } from './init.ts'
import { Module, parameter, vectorDtype } from './module.ts'

export interface NormOptions extends TensorKind {
  /** Added to the mean square (the variance) under the root. Default 1e-5. */
  eps?: number
}

const vector = ({ dtype = 'float32', device }: TensorKind) => ({ dtype: vectorDtype(dtype), device })

/** `x * rsqrt(mean(x^2) + eps) * weight` over the last axis (Zhang and Sennrich, arXiv 1910.07467). */
export class RMSNorm extends Module {
  weight: Tensor // [dim]
  readonly eps: number

  constructor(dim: number, options: NormOptions = {}) {
    super()
    this.weight = parameter(ones([dim], vector(options)))
    this.eps = options.eps ?? 1e-5
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, { eps: this.eps })
  }

  /** The norm of `x + residual`, and that sum, in one pass. */
  addForward(x: Tensor, residual: Tensor): { sum: Tensor; y: Tensor } {
    return addRmsNorm(x, residual, this.weight, { eps: this.eps })
  }
}

/** `(x - mean(x)) * rsqrt(var(x) + eps) * weight + bias` over the last axis (Ba et al., arXiv 1607.06450). */
export class LayerNorm extends Module {
  weight: Tensor // [dim]
  bias: Tensor | null // [dim]
  readonly eps: number

  /** @param options.bias default true */
  constructor(dim: number, options: NormOptions & { bias?: boolean } = {}) {
    super()
    this.weight = parameter(ones([dim], vector(options)))
    this.bias = (options.bias ?? true) ? parameter(zeros([dim], vector(options))) : null
    this.eps = options.eps ?? 1e-5
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, { eps: this.eps })
  }

  /** The norm of `x + residual`, and that sum, in one pass. */
  addForward(x: Tensor, residual: Tensor): { sum: Tensor; y: Tensor } {
    return addLayerNorm(x, residual, this.weight, this.bias, { eps: this.eps })
  }
}
