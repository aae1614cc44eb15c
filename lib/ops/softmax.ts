// Softmax, its logarithm, and the logarithm of a sum of exponentials.
import { type Handle, native } from '../native.ts'
import { record, recorded, Tensor } from '../tensor.ts'
import type { ReduceOptions } from './reduce.ts'
import { permute, reshape, transpose } from './view.ts'

export interface SoftmaxOptions {
  /** Default -1, the last. Negative axes count from the end. */
  axis?: number
}

// An operation on the last axis whose gradient needs its result: saved as a second handle, because the caller may dispose
// of the first. Other axes are brought there and back as views.
const alongAxis = (name: 'softmax' | 'logSoftmax', gradient: (y: Handle, dy: Handle) => Handle) => {
  const onLast = (x: Tensor): Tensor => {
    const handle = native[name](x.handle)
    if (!recorded([x])) return new Tensor(handle)
    const y = new Tensor(native.alias(handle))
    return record(name, handle, [x], (dy) => [new Tensor(gradient(y.handle, dy.handle))], [y])
  }
  return (x: Tensor, { axis = -1 }: SoftmaxOptions = {}): Tensor =>
    axis === -1 || axis === x.rank - 1 ? onLast(x) : transpose(onLast(transpose(x, axis, -1)), axis, -1)
}

/**
 * `exp(x) / sum(exp(x))` along an axis, computed so that nothing overflows.
 * @throws Error if `x` is not floating-point or has no such axis
 */
export const softmax: (x: Tensor, options?: SoftmaxOptions) => Tensor = alongAxis('softmax', native.softmaxGrad)

/**
 * `x - logsumexp(x)` along an axis.
 * @throws Error if `x` is not floating-point or has no such axis
 */
export const logSoftmax: (x: Tensor, options?: SoftmaxOptions) => Tensor = alongAxis(
  'logSoftmax',
  native.logSoftmaxGrad,
)

/**
 * `log(sum(exp(x)))` over one or more axes, by default the last, computed so that nothing overflows; -infinity where there
 * is nothing to add.
 * @throws Error if `x` is not floating-point or has no such axis
 */
export function logsumexp(x: Tensor, options: ReduceOptions = {}): Tensor {
  const { axis = -1, keepdims = false } = options
  const axes = (typeof axis === 'number' ? [axis] : axis).map((a) => (a < 0 ? a + x.rank : a))
  const others = x.shape.map((_, i) => i).filter((i) => !axes.includes(i))
  const outer = others.map((i) => x.shape[i]!)
  let u = x
  if (axes.length !== 1 || axes[0] !== x.rank - 1) {
    const count = axes.reduce((n, a) => n * (x.shape[a] ?? 1), 1)
    u = reshape(permute(x, [...others, ...axes]), [...outer, count]) // permute sees to axes out of range or given twice
  }
  const handle = native.logsumexp(u.handle)
  const inputs = [u]
  let y: Tensor
  if (recorded(inputs)) {
    const saved = new Tensor(native.alias(handle))
    const back = (dy: Tensor) => [new Tensor(native.logsumexpGrad(u.handle, saved.handle, dy.handle))]
    y = record('logsumexp', handle, inputs, back, [saved])
  } else y = new Tensor(handle)
  return keepdims
    ? reshape(
        y,
        x.shape.map((d, i) => (axes.includes(i) ? 1 : d)),
      )
    : y
}
