// Other shapes of the same elements. Views share their tensor's memory; only concat, stack, and reshape of what does not
// lie in order copy.
import { native } from '../native.ts'
import { type Dtype, dtypeCode, isFloating, record, recordAll, type Shape, Tensor } from '../tensor.ts'
import { type Axis, axisFrom } from './axis.ts'

/**
 * The same elements in row-major order under another shape; one axis may be -1, which is worked out.
 * A view where the memory allows it, else a copy.
 * @throws Error if the number of elements differs
 */
export function reshape(x: Tensor, shape: Shape): Tensor {
  return record('reshape', native.reshape(x.handle, shape), [x], (dy) => [
    new Tensor(native.reshape(dy.handle, x.shape)),
  ])
}

/** The axes in another order: `y.shape[i] = x.shape[axes[i]]`. A view. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  return record('permute', native.permute(x.handle, axes), [x], (dy) => {
    const back = axes.map(() => 0)
    axes.forEach((axis, i) => {
      back[axis < 0 ? axis + axes.length : axis] = i
    })
    return [new Tensor(native.permute(dy.handle, back))]
  })
}

/** Two axes exchanged; by default the last two. A view. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  return record('transpose', native.transpose(x.handle, a, b), [x], (dy) => [
    new Tensor(native.transpose(dy.handle, a, b)),
  ])
}

/** Start (inclusive), end (exclusive; default the length) and step (default 1); negative positions count from the end. */
export type Range = readonly [start: number, end?: number, step?: number]

// Beyond every axis; native code cuts it to the length.
const toEnd = 2 ** 53 - 1

/**
 * The elements `start, start + step, ...` before `end` along an axis: Python's `x[:, start:end:step]` for axis 1. Negative
 * positions count from the end, positions beyond it are cut; `step` is positive. Or a list of ranges, one for each of the
 * first axes, null for a whole axis: `slice(x, [[0, 2], null, [1]])`. A view.
 */
export function slice(
  x: Tensor,
  axis: number | readonly (Range | null)[],
  start = 0,
  end: number = toEnd,
  step = 1,
): Tensor {
  if (typeof axis !== 'number') {
    if (axis.length > x.rank) throw new RangeError(`slice: ${axis.length} ranges for a tensor of ${x.rank} axes`)
    return axis.reduce((y: Tensor, range, i) => (range ? slice(y, i, ...range) : y), x)
  }
  return record('slice', native.slice(x.handle, axis, start, end, step), [x], (dy) => [
    new Tensor(native.sliceGrad(dy.handle, x.shape, axis, start, end, step)),
  ])
}

/**
 * Tensors one after another along an axis (default 0). As a method: `a.concat([b, c], axis)`.
 * @throws Error if shapes differ on another axis, or dtypes differ
 */
export function concat(tensors: readonly Tensor[], axis?: Axis): Tensor
export function concat(first: Tensor, others: Tensor | readonly Tensor[], axis?: Axis): Tensor
export function concat(...given: Listed): Tensor {
  const [tensors, axis] = listed(...given)
  const handle = native.concat(
    tensors.map((t) => t.handle),
    axis,
  )
  return record('concat', handle, tensors, (dy) => {
    let at = 0
    return tensors.map((t) => {
      const start = at
      at += t.shape.at(axis)!
      return t.tracked ? new Tensor(native.slice(dy.handle, axis, start, at, 1)) : null
    })
  })
}

/**
 * Tensors of one shape along a new axis (default 0). As a method: `a.stack([b, c], axis)`.
 */
export function stack(tensors: readonly Tensor[], axis?: Axis): Tensor
export function stack(first: Tensor, others: Tensor | readonly Tensor[], axis?: Axis): Tensor
export function stack(...given: Listed): Tensor {
  const [tensors, axis] = listed(...given)
  return concat(
    tensors.map((t) => unsqueeze(t, axis)),
    axis,
  )
}

// (list, axis) or (first, others, axis)
type Listed = [first: Tensor | readonly Tensor[], second?: Tensor | readonly Tensor[] | Axis, third?: Axis]
function listed(...[first, second, third]: Listed): [tensors: readonly Tensor[], axis: number] {
  if (!(first instanceof Tensor)) return [first, axisFrom(second as Axis | undefined, 0)]
  const others = second instanceof Tensor ? [second] : Array.isArray(second) ? (second as readonly Tensor[]) : []
  return [[first, ...others], axisFrom(third, 0)]
}

/**
 * Cuts an axis (default 0) into parts: of `size` elements each (the last may be shorter), or of the listed sizes. Views.
 * @throws RangeError if the listed sizes do not add up to the length of the axis
 */
export function split(x: Tensor, sizes: number | readonly number[], axis: Axis = 0): Tensor[] {
  const along = axisFrom(axis, 0)
  const length = x.shape.at(along)
  if (length === undefined) throw new RangeError(`split: axis ${along} is out of range for a tensor of ${x.rank} axes`)
  const list = typeof sizes === 'number' ? evenly(length, sizes) : sizes
  if (list.reduce((n, size) => n + size, 0) !== length)
    throw new RangeError(`split: the parts [${list.join(', ')}] do not add up to ${length}`)
  let at = 0
  const handles = list.map((size) => {
    at += size
    return native.slice(x.handle, along, at - size, at, 1)
  })
  return recordAll('split', handles, [x], (...dys) => {
    const parts = dys.map((dy, i) => {
      if (dy) return dy
      const shape = [...x.shape]
      shape[along < 0 ? along + shape.length : along] = list[i]!
      return new Tensor(native.full(shape, 0, native.dtypeOf(x.handle), native.deviceOf(x.handle)))
    })
    const handles = parts.map((part) => part.handle)
    return [new Tensor(native.concat(handles, along))]
  })
}

function evenly(length: number, size: number): number[] {
  if (!(Number.isInteger(size) && size > 0)) throw new RangeError(`split: the size is ${size}, but should be positive`)
  const list: number[] = []
  for (let rest = length; rest > 0; rest -= size) list.push(Math.min(size, rest))
  return list.length ? list : [0]
}

/** Repeats axes of length 1, and new ones in front, to reach `shape`. A view: the repeats share their memory. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  return record('broadcastTo', native.broadcastTo(x.handle, shape), [x], (dy) => [
    new Tensor(native.sumTo(dy.handle, x.shape)),
  ])
}

/** The same elements in order in memory: a view if they are already, else a copy. */
export function contiguous(x: Tensor): Tensor {
  return record('contiguous', native.contiguous(x.handle), [x], (dy) => [new Tensor(native.alias(dy.handle))])
}

/** A copy in another dtype. Floats become integers by truncation; to bool by comparing with 0. */
export function cast<D extends Dtype>(x: Tensor, dtype: D): Tensor<D> {
  if (!isFloating(dtype)) return new Tensor<D>(native.cast(x.handle, dtypeCode(dtype)))
  return record('cast', native.cast(x.handle, dtypeCode(dtype)), [x], (dy) => [
    new Tensor(native.cast(dy.handle, dtypeCode(x.dtype))),
  ]) as Tensor<D>
}

/** A new axis of length 1 at the position. A view. */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const at = axis < 0 ? axis + x.rank + 1 : axis
  if (!(Number.isInteger(at) && at >= 0 && at <= x.rank))
    throw new RangeError(`unsqueeze: axis ${axis} is out of range for a tensor of ${x.rank} axes`)
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)])
}

/** Without an axis of length 1, or without all of them. A view. */
export function squeeze(x: Tensor, axis?: number): Tensor {
  if (axis === undefined)
    return reshape(
      x,
      x.shape.filter((d) => d !== 1),
    )
  const at = axis < 0 ? axis + x.rank : axis
  if (x.shape[at] !== 1)
    throw new RangeError(`squeeze: axis ${axis} of [${x.shape.join(', ')}] should have the length 1`)
  return reshape(
    x,
    x.shape.filter((_, i) => i !== at),
  )
}
