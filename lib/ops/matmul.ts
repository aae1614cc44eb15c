// Matrix products.
import { native } from '../native.ts'
import { record, recorded, Tensor } from '../tensor.ts'
import { weightGradient } from './gradients.ts'
import { sumTo } from './reduce.ts'

/**
 * The matrix product, with PyTorch's meanings: a (..., m, k) @ b (..., k, n) is (..., m, n), the leading axes broadcast
 * against each other; a vector a is a row and a vector b a column, and that axis is missing in the result.
 * Transposed operands and repeated ones are read where they lie.
 * @throws if the columns of a are not as many as the rows of b, or the leading axes cannot be broadcast
 */
export const matmul = (a: Tensor, b: Tensor): Tensor =>
  record('matmul', native.matmul(a.handle, b.handle), [a, b], (dy) => [
    a.tracked ? new Tensor(native.matmulGradA(a.handle, b.handle, dy.handle)) : null,
    b.tracked ? new Tensor(native.matmulGradB(a.handle, b.handle, dy.handle)) : null,
  ])

/** What `linear` can do to a product before it is stored. */
export interface LinearOptions {
  /** `geluTanh` is gelu's tanh approximation. Default: none. */
  activation?: 'relu' | 'relu2' | 'gelu' | 'geluTanh' | 'silu'
  /** Added last, of the result's shape and dtype. */
  residual?: Tensor | null
}

/**
 * activation(x @ weight^T + bias) + residual: x (..., in), weight (out, in), bias (out) give (..., out). Without options
 * it is torch.nn.functional.linear.
 * @throws if the shapes or dtypes do not fit
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null, options: LinearOptions = {}): Tensor {
  const { activation, residual } = options
  const inputs = [x, weight]
  if (bias) inputs.push(bias)
  if (residual) inputs.push(residual)
  const gradients = (d: Tensor, dy: Tensor): (Tensor | null)[] => {
    const all = [
      x.tracked ? new Tensor(native.linearGradX(d.handle, weight.handle)) : null,
      weight.tracked ? weightGradient(x, d, weight) : null,
    ]
    if (bias) all.push(bias.tracked ? sumTo(d, bias.shape) : null)
    if (residual) all.push(dy)
    return all
  }
  const operands = [x.handle, weight.handle, bias?.handle ?? null, residual?.handle ?? null] as const
  if (!activation) return record('linear', native.linear(...operands), inputs, (dy) => gradients(dy, dy))

  // relu's gradient can be told from its result.
  const kept = recorded(inputs) && !(activation === 'relu' && !residual)
  const [handle, before] = native.linearActivation(...operands, activation, kept)
  const pre = kept ? new Tensor(before) : null
  if (!pre) native.release(before)
  const y: Tensor = record(
    'linear',
    handle,
    inputs,
    (dy) => {
      const d = new Tensor(native[`${activation}Grad`]((pre ?? y).handle, dy.handle))
      const all = gradients(d, dy)
      d.dispose()
      return all
    },
    pre ? [pre] : [],
  )
  return y
}
