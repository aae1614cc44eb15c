// Dropout: in training each element is 0 with probability p, and the others are scaled to keep the mean.
import { dropout } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import { Module } from './module.ts'

/** In training mode: `x / (1 - p)` or 0, the latter with probability `p`. In evaluation mode: `x`. */
export class Dropout extends Module {
  readonly p: number

  constructor(p: number) {
    super()
    if (!(p >= 0 && p < 1)) throw new RangeError(`Dropout: p is ${p} but should be at least 0 and below 1`)
    this.p = p
  }

  forward(x: Tensor): Tensor {
    return this.training && this.p > 0 ? dropout(x, { p: this.p }) : x
  }
}
