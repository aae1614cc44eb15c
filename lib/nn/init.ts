// Initial values of parameters.
import { full } from '../ops/create.ts'
import { rand, randn, truncatedNormal } from '../ops/random.ts'
import type { Device, Dtype, Shape, Tensor } from '../tensor.ts'

/** What a tensor is made as. */
export interface TensorKind {
  /** Default float32. */
  dtype?: Dtype
  device?: Device
}

/** Makes the initial value of a parameter. Random ones draw from the generator of `seed()`. */
export type Init = (shape: Shape, kind?: TensorKind) => Tensor

/**
 * Normal with mean 0.
 * @param std standard deviation, before the cut
 * @param cutoff values further from 0 than this many standard deviations are drawn again; null: none is
 */
export const normal =
  (std: number, cutoff: number | null = null): Init =>
  (shape, kind = {}) =>
    cutoff === null ? randn(shape, { ...kind, std }) : truncatedNormal(shape, { ...kind, std, cutoff })

/** Uniform between -`bound` and `bound`. */
export const uniform =
  (bound: number): Init =>
  (shape, kind = {}) =>
    rand(shape, { ...kind, low: -bound, high: bound })

/** All elements alike. */
export const constant =
  (value: number): Init =>
  (shape, kind = {}) =>
    full(shape, value, kind)
