// Gradients of parameters that several ops have.
import { type Handle, native } from '../native.ts'
import { type Dtype, dtypeCode, gradientInPlace, Tensor } from '../tensor.ts'

/**
 * Where the gradient of `weight` from operands of a dtype may be added to as it is computed: in that dtype, or unrounded
 * in float32.
 */
export const gradientSum = (weight: Tensor, dtype: Dtype): Tensor | null =>
  gradientInPlace(weight, dtype) ?? (dtype === 'float64' ? null : gradientInPlace(weight, 'float32'))

// Null where it was added to a gradient that is there already: the product does that as it goes.
function added(handle: Handle, sum: Tensor | null): Tensor | null {
  if (!sum) return new Tensor(handle)
  native.release(handle)
  return null
}

/** Of `weight` [out, in] in x @ weight^T. */
export function weightGradient(x: Tensor, dy: Tensor, weight: Tensor): Tensor | null {
  const sum = gradientSum(weight, x.dtype)
  return added(native.linearGradWeight(x.handle, dy.handle, sum?.handle ?? null), sum)
}

/** Of `weight` [E, out, in], each group of rows with its own. */
export function groupedWeightGradient(x: Tensor, dy: Tensor, weight: Tensor, offsets: Tensor): Tensor | null {
  const sum = gradientSum(weight, x.dtype)
  const into = sum?.handle ?? null
  return added(native.groupedMatmulGradWeight(x.handle, dy.handle, weight.handle, offsets.handle, into), sum)
}

/** Of coefficients: it comes in the type that x is computed in, and the parameter may be of another. */
export function coefficientGradient(d: Handle, parameter: Tensor): Tensor {
  const sum = new Tensor(d) // a handle that no Tensor holds would never be freed
  if (sum.dtype === parameter.dtype) return sum
  const cast = new Tensor(native.cast(d, dtypeCode(parameter.dtype)))
  sum.dispose()
  return cast
}
