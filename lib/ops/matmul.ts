// Matrix products.
import { native } from '../native.ts'
import { gradientInPlace, record, Tensor } from '../tensor.ts'
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

/**
 * x @ weight^T + bias, as torch.nn.functional.linear: x (..., in), weight (out, in), bias (out) give (..., out).
 * @throws if the shapes or dtypes do not fit
 */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null): Tensor {
  const inputs = bias ? [x, weight, bias] : [x, weight]
  return record('linear', native.linear(x.handle, weight.handle, bias?.handle ?? null), inputs, (dy) => [
    x.tracked ? new Tensor(native.linearGradX(dy.handle, weight.handle)) : null,
    weight.tracked ? weightGradient(x, dy, weight) : null,
    ...(bias ? [bias.tracked ? sumTo(dy, bias.shape) : null] : []),
  ])
}

// In place, where there is a gradient already: the product adds to it as it goes.
function weightGradient(x: Tensor, dy: Tensor, weight: Tensor): Tensor | null {
  const sum = gradientInPlace(weight, x.dtype)
  const handle = native.linearGradWeight(x.handle, dy.handle, sum?.handle ?? null)
  if (!sum) return new Tensor(handle)
  native.release(handle)
  return null
}
