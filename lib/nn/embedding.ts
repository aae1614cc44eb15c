// Embedding: a trained row for each id.
import { embedding } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import { type Init, normal, type TensorKind } from './init.ts'
import { Module, parameter } from './module.ts'

/** Ids [...] to rows [..., dim] of `weight` [count, dim]. */
export class Embedding extends Module {
  weight: Tensor // [count, dim]

  /** @param options.init default: normal with standard deviation 1, as PyTorch's */
  constructor(count: number, dim: number, options: TensorKind & { init?: Init } = {}) {
    super()
    const { init = normal(1), ...kind } = options
    this.weight = parameter(init([count, dim], kind))
  }

  forward(ids: Tensor): Tensor {
    return embedding(ids, this.weight)
  }
}
