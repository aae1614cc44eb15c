// Elements chosen by index, ranked, and added up along an axis. Index tensors are int32, int64 or uint8; an index out of
// range is an error at the next wait, which names its position and value.
import { native } from '../native.ts'
import { type Dtype, dtypeCode, record, Tensor } from '../tensor.ts'
import { type Axis, axisFrom } from './axis.ts'
import { mul, sub } from './elementwise.ts'
import { mean, type ReduceOptions, sum } from './reduce.ts'

/**
 * Elements of x by their index along an axis: for axis 1, `y[i][j] = x[i][index[i][j]]`. The result has the shape of
 * `index`, which fits within that of x on the other axes (PyTorch's gather).
 * @throws Error if the shapes do not fit or `index` is not of an integer type
 */
export function gather(x: Tensor, axis: Axis, index: Tensor): Tensor {
  const at = axisFrom(axis, 0)
  return record(
    'gather',
    native.gather(x.handle, at, index.handle),
    [x],
    (dy) => [new Tensor(native.gatherGrad(dy.handle, at, index.handle, x.shape))],
    [index],
  )
}

/**
 * Whole slices of x by their index along an axis: for axis 0, `y[i] = x[ids[i]]`. `ids` has one axis.
 * @throws Error if `ids` has more axes or is not of an integer type
 */
export function indexSelect(x: Tensor, axis: Axis, ids: Tensor): Tensor {
  const at = axisFrom(axis, 0)
  return record(
    'indexSelect',
    native.indexSelect(x.handle, at, ids.handle),
    [x],
    (dy) => [new Tensor(native.indexSelectGrad(dy.handle, at, ids.handle, x.shape))],
    [ids],
  )
}

/** A new last axis of length `classes`: 1 at the index, else 0. float32 by default. */
export function oneHot<D extends Dtype = 'float32'>(
  ids: Tensor,
  classes: number,
  options: { dtype?: D } = {},
): Tensor<D> {
  return new Tensor<D>(native.oneHot(ids.handle, classes, dtypeCode(options.dtype ?? 'float32')))
}

/** The sums of the elements up to each one along an axis, by default the last; int64 for integers. */
export function cumsum(x: Tensor, axis: Axis = -1): Tensor {
  const at = axisFrom(axis, -1)
  return record('cumsum', native.cumsum(x.handle, at, false), [x], (dy) => [
    new Tensor(native.cumsum(dy.handle, at, true)),
  ])
}

function ranked(name: string, x: Tensor, axis: number, descending: boolean, count: number) {
  const handles = native.sort(x.handle, axis, descending, count)
  const indices = new Tensor<'int32'>(handles[1])
  const back = (dy: Tensor): Tensor[] => [new Tensor(native.gatherGrad(dy.handle, axis, indices.handle, x.shape))]
  return { values: record(name, handles[0], [x], back, [indices]), indices }
}

/**
 * The elements in ascending order along an axis (by default the last), and the index (int32) each came from. Equal ones
 * keep their order; a NaN counts as the largest number.
 */
export const sort = (
  x: Tensor,
  options: { axis?: number; descending?: boolean } = {},
): { values: Tensor; indices: Tensor<'int32'> } =>
  ranked('sort', x, options.axis ?? -1, options.descending ?? false, -1)

/**
 * The `k` largest elements along an axis (by default the last), largest first, and the index (int32) each came from; of
 * equal ones the first. With `largest: false` the smallest, smallest first. A NaN counts as the largest number.
 * @throws Error if the axis has fewer than k elements
 */
export const topk = (
  x: Tensor,
  k: number,
  options: { axis?: number; largest?: boolean } = {},
): { values: Tensor; indices: Tensor<'int32'> } => {
  if (!(Number.isInteger(k) && k >= 0)) throw new RangeError(`topk: k is ${k}, but should be an integer from 0`)
  return ranked('topk', x, options.axis ?? -1, options.largest ?? true, k)
}

/**
 * The variance: the mean of the squared distances from the mean, with n - `correction` for n; 1 by default, as in PyTorch.
 * @throws Error if x is not floating-point
 */
function variance(x: Tensor, options: ReduceOptions & { correction?: number } = {}): Tensor {
  const { axis, keepdims, correction = 1 } = options
  const centered = sub(x, mean(x, { axis, keepdims: true }))
  const total = sum(mul(centered, centered), { axis, keepdims })
  const n = x.size / total.size
  return mul(total, 1 / Math.max(0, n - correction))
}

export { variance as var }
