// Polynomial activations: PolyReLU, PolyNorm and PolyNorm(gate) * up.
import { native } from '../native.ts'
import { record, Tensor } from '../tensor.ts'
import { coefficientGradient } from './gradients.ts'

export interface PolyOptions {
  /**
   * A set of coefficients for each expert: int32 [E + 1], from 0 to the number of rows of x. Rows `offsets[e]` to
   * `offsets[e + 1]` use row e of `weight` [E, order] and element e of `bias` [E].
   */
  offsets?: Tensor
}
export interface PolyNormOptions extends PolyOptions {
  /** Added to each mean square, inside the root. Default 1e-6. */
  eps?: number
}

/**
 * PolyReLU: `sum_i weight[i] relu(x)^(order - i) + bias`, element by element.
 * "Polynomial Composition Activations", arXiv 2411.03884, equation 2.
 *
 * The powers are taken in float32 (float64 for float64) whatever x is stored in, with one rounding at the end; the
 * gradients of the coefficients are sums in a fixed order. A NaN in x stays one.
 *
 * @param x any shape, float; the last axis is a row where `offsets` are given
 * @param weight [order], highest power first, order 1 to 8 (with `offsets`: [E, order])
 * @param bias [1] (with `offsets`: [E])
 * @throws Error if shapes or types do not fit; at the next wait, if `offsets` are not ascending from 0 to the rows of x
 */
export function polyRelu(x: Tensor, weight: Tensor, bias: Tensor, options: PolyOptions = {}): Tensor {
  const offsets = options.offsets?.handle ?? null
  return record(
    'polyRelu',
    native.polyRelu(x.handle, weight.handle, bias.handle, offsets),
    [x, weight, bias],
    (dy) => {
      const [dx, dweight, dbias] = native.polyReluGrad(x.handle, weight.handle, offsets, dy.handle)
      return [new Tensor(dx), coefficientGradient(dweight, weight), coefficientGradient(dbias, bias)]
    },
    options.offsets ? [options.offsets] : [],
  )
}

/**
 * PolyNorm: `sum_i weight[i] norm(x^(order - i)) + bias`, where `norm(u) = u / sqrt(mean(u^2) + eps)` over the last axis.
 * "Polynomial Composition Activations", arXiv 2411.03884, equation 3, with the root mean square of its reference code.
 *
 * Computed in float32 (float64 for float64) whatever x is stored in, with one rounding at the end. Rows whose powers
 * would overflow are scaled by a power of two first. A NaN in x makes its whole row NaN.
 *
 * @param x [..., D], float
 * @param weight [order], highest power first, order 1 to 8 (with `offsets`: [E, order])
 * @param bias [1] (with `offsets`: [E])
 * @throws Error if shapes or types do not fit; at the next wait, if `offsets` are not ascending from 0 to the rows of x
 */
export function polyNorm(x: Tensor, weight: Tensor, bias: Tensor, options: PolyNormOptions = {}): Tensor {
  const offsets = options.offsets?.handle ?? null
  const eps = options.eps ?? 1e-6
  return record(
    'polyNorm',
    native.polyNorm(x.handle, weight.handle, bias.handle, offsets, eps),
    [x, weight, bias],
    (dy) => {
      const [dx, dweight, dbias] = native.polyNormGrad(x.handle, weight.handle, offsets, eps, dy.handle)
      return [new Tensor(dx), coefficientGradient(dweight, weight), coefficientGradient(dbias, bias)]
    },
    options.offsets ? [options.offsets] : [],
  )
}

/**
 * The gated form: `polyNorm(gate, weight, bias) * up`, the product taken before the one rounding.
 *
 * @param gate [..., D], float
 * @param up the shape of `gate`
 * @param weight [order], highest power first, order 1 to 8 (with `offsets`: [E, order])
 * @param bias [1] (with `offsets`: [E])
 * @throws Error as `polyNorm`
 */
export function polyNormGlu(
  gate: Tensor,
  up: Tensor,
  weight: Tensor,
  bias: Tensor,
  options: PolyNormOptions = {},
): Tensor {
  const offsets = options.offsets?.handle ?? null
  const eps = options.eps ?? 1e-6
  return record(
    'polyNormGlu',
    native.polyNormGlu(gate.handle, up.handle, weight.handle, bias.handle, offsets, eps),
    [gate, up, weight, bias],
    (dy) => {
      const [dgate, dup, dweight, dbias] = native.polyNormGluGrad(
        gate.handle,
        up.handle,
        weight.handle,
        bias.handle,
        offsets,
        eps,
        dy.handle,
      )
      return [
        new Tensor(dgate),
        coefficientGradient(dup, up),
        coefficientGradient(dweight, weight),
        coefficientGradient(dbias, bias),
      ]
    },
    options.offsets ? [options.offsets] : [],
  )
}
