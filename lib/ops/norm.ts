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

// The gradient of a small parameter, if there is one: it comes in the compute type, and empty if it was not wanted.
const parameterGradient = (handle: Handle, parameter: Tensor | null): (Tensor | null)[] => {
  if (!parameter?.tracked) {
    native.release(handle)
    return parameter ? [null] : []
  }
  const d = new Tensor(handle)
  return [d.dtype === parameter.dtype ? d : new Tensor(native.cast(handle, native.dtypeOf(parameter.handle)))]
}

const given = (...tensors: (Tensor | null)[]): Tensor[] => tensors.filter((t) => t !== null)

// From dy behind the norm and dsum, what else arrived at what was normalised, to the gradients of that and the parameters.
type Backward = (normed: Tensor, stats: readonly Tensor[], dy: Tensor, dsum: Tensor | null) => (Tensor | null)[]

const rmsNormBackward =
  (weight: Tensor | null): Backward =>
  (normed, [rstd], dy, dsum) => {
    const [scale, more] = [weight?.handle ?? null, dsum?.handle ?? null]
    const [dx, dw] = native.rmsNormGrad(normed.handle, scale, rstd!.handle, dy.handle, more, weight?.tracked ?? false)
    return [new Tensor(dx), ...parameterGradient(dw, weight)]
  }

const layerNormBackward =
  (weight: Tensor | null, bias: Tensor | null): Backward =>
  (normed, [mean, rstd], dy, dsum) => {
    const [dx, dw, db] = native.layerNormGrad(
      normed.handle,
      weight?.handle ?? null,
      mean!.handle,
      rstd!.handle,
      dy.handle,
      dsum?.handle ?? null,
      weight?.tracked ?? false,
      bias?.tracked ?? false,
    )
    return [new Tensor(dx), ...parameterGradient(dw, weight), ...parameterGradient(db, bias)]
  }

const recordNorm = (
  name: string,
  [y, ...statistics]: readonly [Handle, ...Handle[]],
  x: Tensor,
  parameters: readonly Tensor[],
  backward: Backward,
): Tensor => {
  const inputs = [x, ...parameters]
  const stats = saved(inputs, ...statistics)
  return record(name, y, inputs, (dy) => backward(x, stats, dy, null), stats)
}

const recordSum = (
  name: string,
  [sumHandle, yHandle, ...statistics]: readonly [Handle, Handle, ...Handle[]],
  terms: readonly [Tensor, Tensor],
  parameters: readonly Tensor[],
  backward: Backward,
): { sum: Tensor; y: Tensor } => {
  const inputs = [...terms, ...parameters]
  const stats = saved(inputs, ...statistics)
  const normed = stats.length ? new Tensor(native.alias(sumHandle)) : null
  const [sum, y] = recordAll(
    name,
    [sumHandle, yHandle] as const,
    inputs,
    (dsum, dy) => {
      const [d, ...rest] = dy ? backward(normed!, stats, dy, dsum) : [dsum, ...parameters.map(() => null)]
      return [d!, d!, ...rest]
    },
    normed ? [...stats, normed] : [],
  )
  return { sum, y }
}

/**
 * `x * rsqrt(mean(x^2) + eps) * weight`, the mean over the last axis (Zhang and Sennrich, arXiv 1910.07467).
 * @param x (.., D)
 * @param weight (D), or null for 1
 * @throws Error if the weight does not have D elements
 */
export function rmsNorm(x: Tensor, weight: Tensor | null = null, options: NormOptions = {}): Tensor {
  const made = native.rmsNorm(x.handle, weight?.handle ?? null, options.eps ?? 1e-5)
  return recordNorm('rmsNorm', made, x, given(weight), rmsNormBackward(weight))
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
  const made = native.addRmsNorm(x.handle, residual.handle, weight?.handle ?? null, options.eps ?? 1e-5)
  return recordSum('addRmsNorm', made, [x, residual], given(weight), rmsNormBackward(weight))
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
  const made = native.layerNorm(x.handle, weight?.handle ?? null, bias?.handle ?? null, options.eps ?? 1e-5)
  return recordNorm('layerNorm', made, x, given(weight, bias), layerNormBackward(weight, bias))
}

/**
 * A residual connection and the norm after it, in one pass: `sum = x + residual`, `y = layerNorm(sum, weight, bias)`.
 * @param x (.., D)
 * @param residual (.., D), of x's dtype
 * @param weight (D), or null for 1
 * @param bias (D), or null for 0
 * @throws Error if the shapes do not fit
 */
export function addLayerNorm(
  x: Tensor,
  residual: Tensor,
  weight: Tensor | null = null,
  bias: Tensor | null = null,
  options: NormOptions = {},
): { sum: Tensor; y: Tensor } {
  const [scale, shift] = [weight?.handle ?? null, bias?.handle ?? null]
  const made = native.addLayerNorm(x.handle, residual.handle, scale, shift, options.eps ?? 1e-5)
  return recordSum('addLayerNorm', made, [x, residual], given(weight, bias), layerNormBackward(weight, bias))
}
