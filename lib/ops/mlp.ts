// Feed-forward layers around a polynomial activation as one op each: the matrix products do the activation's work on
// their way, where the device can.
import { type Handle, native } from '../native.ts'
import { record, recorded, Tensor } from '../tensor.ts'
import { coefficientGradient, groupedWeightGradient, weightGradient } from './gradients.ts'

/** The matrices and coefficients of a feed-forward layer around a polynomial activation. */
export interface PolyMlpWeights {
  /** [H, in]; with offsets [E, H, in] */
  up: Tensor
  /** [out, H]; with offsets [E, out, H] */
  down: Tensor
  /** [order], highest power first, order 1 to 8; with offsets also [E, order], a set for each expert */
  weight: Tensor
  /** [1], or [E] beside a `weight` [E, order] */
  bias: Tensor
}

export interface PolyMlpOptions {
  /** Of experts: int32 [E + 1], from 0 to the number of rows of x; rows `offsets[e]` to `offsets[e + 1]` are expert e's. */
  offsets?: Tensor | null
}
export interface PolyNormMlpOptions extends PolyMlpOptions {
  /** Added to each mean square, inside the root. Default 1e-6. */
  eps?: number
  /**
   * Do not keep polyNorm(x @ up^T), but make it again in the backward pass: a tensor of [rows, H] less between the two,
   * for reading and writing one more. Default false.
   */
  recompute?: boolean
}

// Of rows that were multiplied with the transpose of `weight`.
const rowsGradient = (dy: Tensor, weight: Tensor, offsets: Tensor | null): Handle =>
  offsets
    ? native.groupedMatmulGradX(dy.handle, weight.handle, offsets.handle)
    : native.linearGradX(dy.handle, weight.handle)

// The gradients that every such layer has, from those of h = x @ up^T and of the coefficients.
function gradients(
  x: Tensor,
  { up, down, weight, bias }: PolyMlpWeights,
  offsets: Tensor | null,
  dout: Tensor,
  y: Tensor,
  dh: Tensor,
  coefficients: readonly [Handle, Handle],
): (Tensor | null)[] {
  const gradient = (of: Tensor, rows: Tensor, d: Tensor): Tensor | null => {
    if (!of.tracked) return null
    return offsets ? groupedWeightGradient(rows, d, of, offsets) : weightGradient(rows, d, of)
  }
  return [
    x.tracked ? new Tensor(rowsGradient(dh, up, offsets)) : null,
    gradient(up, x, dh),
    gradient(down, y, dout),
    coefficientGradient(coefficients[0], weight),
    coefficientGradient(coefficients[1], bias),
  ]
}

/**
 * `polyRelu(x @ up^T) @ down^T`, the feed-forward layer around PolyReLU (arXiv 2411.03884, equation 2); with `offsets`
 * that of experts, each with its own matrices. The same as `linear`, `polyRelu`, `linear`, or `groupedMatmul` for
 * experts. On a GPU, in 16 bits, the first product applies the activation as it stores its result, and the product of
 * the gradient applies its derivative and sums up the coefficients' gradients.
 *
 * @param x [..., in], float; with offsets [rows, in], expert by expert
 * @returns [..., out]
 * @throws Error if shapes or types do not fit; at the next wait, if `offsets` are not ascending from 0 to the rows of x
 */
export function polyReluMlp(x: Tensor, weights: PolyMlpWeights, options: PolyMlpOptions = {}): Tensor {
  const { up, down, weight, bias } = weights
  const offsets = options.offsets ?? null
  const inputs = [x, up, down, weight, bias]
  const kept = recorded(inputs)
  const groups = offsets?.handle ?? null
  const [made, before] = native.polyReluUp(x.handle, up.handle, weight.handle, bias.handle, groups, kept)
  const y = new Tensor(made)
  const h = kept ? new Tensor(before) : null
  if (!h) native.release(before)
  const out = offsets
    ? native.groupedMatmul(y.handle, down.handle, offsets.handle)
    : native.linear(y.handle, down.handle, null, null)
  if (!h) y.dispose()
  return record(
    'polyReluMlp',
    out,
    inputs,
    (dout) => {
      const [d, ...coefficients] = native.polyReluDownGrad(dout.handle, down.handle, weight.handle, groups, h!.handle)
      const dh = new Tensor(d)
      const all = gradients(x, weights, offsets, dout, y, dh, coefficients)
      dh.dispose()
      return all
    },
    [...(h ? [y, h] : []), ...(offsets ? [offsets] : [])],
  )
}

/**
 * `polyNorm(x @ up^T) @ down^T`, the feed-forward layer around PolyNorm (arXiv 2411.03884, equation 3); with `offsets`
 * that of experts, each with its own matrices. The same as `linear`, `polyNorm`, `linear`, or `groupedMatmul` for
 * experts. On a GPU, in 16 bits, the first product sums up each row as it stores it, and the second one applies the
 * activation to what it reads, so that nothing passes over memory in between.
 *
 * @param x [..., in], float; with offsets [rows, in], expert by expert
 * @returns [..., out]
 * @throws Error if shapes or types do not fit; at the next wait, if `offsets` are not ascending from 0 to the rows of x
 */
export function polyNormMlp(x: Tensor, weights: PolyMlpWeights, options: PolyNormMlpOptions = {}): Tensor {
  const { up, down, weight, bias } = weights
  const { offsets = null, eps = 1e-6, recompute = false } = options
  const groups = offsets?.handle ?? null
  const sets = weight.rank === 2 ? groups : null
  const inputs = [x, up, down, weight, bias]
  const taped = recorded(inputs)
  const kept = taped && !recompute
  const [before, sums] = native.polyNormUp(x.handle, up.handle, weight.shape.at(-1) ?? 0, groups, eps)
  const [h, norms] = [new Tensor(before), new Tensor(sums)]
  const [w, b] = [weight.handle, bias.handle]
  const [out, made] = native.polyNormDown(h.handle, norms.handle, w, b, down.handle, groups, eps, kept)
  const y = kept ? new Tensor(made) : null
  if (!y) native.release(made)
  norms.dispose()
  if (!taped) h.dispose()
  return record(
    'polyNormMlp',
    out,
    inputs,
    (dout) => {
      const dy = new Tensor(rowsGradient(dout, down, offsets))
      const [d, ...coefficients] = native.polyNormGrad(h.handle, w, sets, eps, dy.handle)
      dy.dispose()
      const dh = new Tensor(d)
      const again = y ? null : new Tensor(native.polyNorm(h.handle, w, b, sets, eps))
      const all = gradients(x, weights, offsets, dout, y ?? again!, dh, coefficients)
      again?.dispose()
      dh.dispose()
      return all
    },
    [...(taped ? [h] : []), ...(y ? [y] : []), ...(offsets ? [offsets] : [])],
  )
}
