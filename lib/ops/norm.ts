// RMSNorm and LayerNorm over the last axis.
import { type Handle, native } from '../native.ts'
import { record, recordAll, recorded, Tensor } from '../tensor.ts'

export interface NormOptions {
  /** Added to the mean square (RMSNorm) or the variance (LayerNorm). Default 1e-5. */
  eps?: number
}

// What backward needs: kept if there will be one, else given back at once.
const saved = (inputs: readonly Tensor[], ...handles: Handle[]): Tensor[] => {
  if (recorded(inputs)) return handles.map((handle) => new Tensor(handle))
  for (const handle of handles) native.release(handle)
  return []
}

// Gradients of small parameters come in the compute type.
const parameterGradient = (handle: Handle, parameter: Tensor | null): Tensor[] => {
  const d = new Tensor(handle)
  if (!parameter) return []
  if (d.dtype === parameter.dtype) return [d]
  return [new Tensor(native.cast(handle, native.dtypeOf(parameter.handle)))]
}

const given = (...tensors: (Tensor | null)[]): Tensor[] => tensors.filter((t) => t !== null)

/**
 * `x * rsqrt(mean(x^2) + eps) * weight`, the mean over the last axis (Zhang and Sennrich, arXiv 1910.07467).
 * @param x (.., D)
 * @param weight (D), or null for 1
 * @throws Error if the weight does not have D elements
 */
export function rmsNorm(x: Tensor, weight: Tensor | null = null, options: NormOptions = {}): Tensor {
  const scale = weight?.handle ?? null
  const inputs = given(x, weight)
  const [y, rstd] = native.rmsNorm(x.handle, scale, options.eps ?? 1e-5)
  const stats = saved(inputs, rstd)
  return record(
    'rmsNorm',
    y,
    inputs,
    (dy) => {
      const want = weight?.tracked ?? false
      const [dx, dweight] = native.rmsNormGrad(x.handle, scale, stats[0]!.handle, dy.handle, null, want)
      return [new Tensor(dx), ...parameterGradient(dweight, want ? weight : null), ...(weight && !want ? [null] : [])]
    },
    stats,
  )
}

/**
 * A residual connection and the norm after it, in one pass: `sum = x + residual`, `y = rmsNorm(sum, weight)`.
 * @param x (.., D)
 * @param residual (.., D), of x's dtype
 * @param weight (D), or null for 1
 * @throws Error if the shapes do not fit
 */
export function addRmsNorm(
  x: Tensor,
  residual: Tensor,
  weight: Tensor | null = null,
  options: NormOptions = {},
): { sum: Tensor; y: Tensor } {
  const scale = weight?.handle ?? null
  const inputs = given(x, residual, weight)
  const [sumHandle, yHandle, rstd] = native.addRmsNorm(x.handle, residual.handle, scale, options.eps ?? 1e-5)
  const stats = saved(inputs, rstd)
  if (stats.length) stats.push(new Tensor(native.alias(sumHandle)))
  const [sum, y] = recordAll(
    'addRmsNorm',
    [sumHandle, yHandle] as const,
    inputs,
    (dsum, dy) => {
      const want = weight?.tracked ?? false
      const none = weight ? [null] : []
      if (!dy) return [dsum!, dsum!, ...none]
      const [rstd, normed] = stats
      const more = dsum?.handle ?? null
      const [dx, dweight] = native.rmsNormGrad(normed!.handle, scale, rstd!.handle, dy.handle, more, want)
      const d = new Tensor(dx)
      return [d, d, ...(want ? parameterGradient(dweight, weight) : none)]
    },
    stats,
  )
  return { sum, y }
}

/**
 * `(x - mean) * rsqrt(variance + eps) * weight + bias` over the last axis (Ba, Kiros and Hinton, arXiv 1607.06450).
 * @param x (.., D)
 * @param weight (D), or null for 1
 * @param bias (D), or null for 0
 * @throws Error if weight or bias do not have D elements
 */
export function layerNorm(
  x: Tensor,
  weight: Tensor | null = null,
  bias: Tensor | null = null,
  options: NormOptions = {},
): Tensor {
  const scale = weight?.handle ?? null
  const inputs = given(x, weight, bias)
  const [y, mean, rstd] = native.layerNorm(x.handle, scale, bias?.handle ?? null, options.eps ?? 1e-5)
  const stats = saved(inputs, mean, rstd)
  return record(
    'layerNorm',
    y,
    inputs,
    (dy) => {
      const [wantWeight, wantBias] = [weight?.tracked ?? false, bias?.tracked ?? false]
      const [m, r] = stats
      const [dx, dw, db] = native.layerNormGrad(x.handle, scale, m!.handle, r!.handle, dy.handle, wantWeight, wantBias)
      return [
        new Tensor(dx),
        ...(wantWeight ? parameterGradient(dw, weight) : weight ? [null] : []),
        ...(wantBias ? parameterGradient(db, bias) : bias ? [null] : []),
      ]
    },
    stats,
  )
}
