// Sums, means and extremes over some axes, or over all.
import { native } from '../native.ts'
import { record, type Shape, Tensor } from '../tensor.ts'

export interface ReduceOptions {
  /** The axis or axes to reduce, negative ones counted from the end. Default: all. */
  axis?: number | readonly number[]
  /** Leave the reduced axes in the shape, with length 1. Default false. */
  keepdims?: boolean
}

const axesOf = ({ axis }: ReduceOptions): readonly number[] | null =>
  axis === undefined || axis === null ? null : typeof axis === 'number' ? [axis] : axis

/**
 * The sum of the elements. Sums of integers and bools are int64; float sums are accumulated in double precision.
 * @throws Error if an axis is out of range or given twice
 */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  const axes = axesOf(options)
  return record('sum', native.sum(x.handle, axes, options.keepdims ?? false), [x], (dy) => [
    new Tensor(native.spread(dy.handle, x.shape, axes)),
  ])
}

/**
 * The mean of the elements; NaN where there are none.
 * @throws Error if `x` is not floating-point
 */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  const axes = axesOf(options)
  return record('mean', native.mean(x.handle, axes, options.keepdims ?? false), [x], (dy) => {
    const share = new Tensor(native.mulScalar(dy.handle, x.size ? dy.size / x.size : 0, false))
    return [new Tensor(native.spread(share.handle, x.shape, axes))]
  })
}

const extreme =
  (name: 'max' | 'min') =>
  (x: Tensor, options: ReduceOptions = {}): Tensor => {
    const axes = axesOf(options)
    const y: Tensor = record(name, native[name](x.handle, axes, options.keepdims ?? false), [x], (dy) => [
      new Tensor(native.extremeGrad(x.handle, y.handle, dy.handle, axes)),
    ])
    return y
  }

/** The largest element; a NaN wins. Elements that are equally large share the gradient evenly. */
export const max = extreme('max')
/** The smallest element; a NaN wins. Elements that are equally small share the gradient evenly. */
export const min = extreme('min')

/**
 * The index (int32) of the largest element along one axis, the first of several; a NaN counts as largest.
 * Without an axis: the index into the elements in row-major order.
 */
export function argmax(x: Tensor, options: { axis?: number; keepdims?: boolean } = {}): Tensor<'int32'> {
  return new Tensor(native.argmax(x.handle, options.axis ?? null, options.keepdims ?? false))
}

/** The sum over the axes along which `shape` was repeated to become the shape of `d`: the gradient of broadcasting. */
export function sumTo(d: Tensor, shape: Shape): Tensor {
  const from = d.shape
  if (from.length === shape.length && from.every((n, i) => n === shape[i])) return d
  return record('sumTo', native.sumTo(d.handle, shape), [d], (dy) => [new Tensor(native.broadcastTo(dy.handle, from))])
}
