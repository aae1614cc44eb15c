// What results are compared with before a number is printed: one row at a time, in float64, from the definitions
// (arXiv 2411.03884 for the activations).

/** Coefficients, highest power first, and the bias. */
export interface Polynomial {
  weight: readonly number[]
  bias: number
}

const powers = (x: number, order: number): number[] => Array.from({ length: order }, (_, i) => x ** (order - i))

/** The polynomial of max(x, 0). */
export const polyRelu = (x: ArrayLike<number>, { weight, bias }: Polynomial): Float64Array =>
  Float64Array.from(x, (v) => powers(Math.max(v, 0), weight.length).reduce((sum, p, i) => sum + weight[i]! * p, bias))

export const polyReluGrad = (x: ArrayLike<number>, dy: ArrayLike<number>, { weight }: Polynomial): Float64Array =>
  Float64Array.from(x, (v, j) => {
    const order = weight.length
    const slope = weight.reduce((sum, w, i) => sum + w * (order - i) * Math.max(v, 0) ** (order - i - 1), 0)
    return v > 0 ? slope * dy[j]! : 0
  })

// 1 / sqrt(mean x^(2k) + eps) for each power k, highest first.
const scales = (x: ArrayLike<number>, order: number, eps: number): number[] =>
  Array.from({ length: order }, (_, i) => {
    let sum = 0
    for (let j = 0; j < x.length; j++) sum += x[j]! ** (2 * (order - i))
    return 1 / Math.sqrt(sum / x.length + eps)
  })

/** The sum of the normalised powers of a row. */
export function polyNorm(x: ArrayLike<number>, { weight, bias }: Polynomial, eps = 1e-6): Float64Array {
  const r = scales(x, weight.length, eps)
  return Float64Array.from(x, (v) => powers(v, weight.length).reduce((sum, p, i) => sum + weight[i]! * r[i]! * p, bias))
}

/** dx_j = sum_k k w_k r_k x_j^(k-1) (dy_j - n_kj mean(dy n_k)), n_k = r_k x^k. */
export function polyNormGrad(
  x: ArrayLike<number>,
  dy: ArrayLike<number>,
  { weight }: Polynomial,
  eps = 1e-6,
): Float64Array {
  const order = weight.length
  const r = scales(x, order, eps)
  const means = r.map((scale, i) => {
    let sum = 0
    for (let j = 0; j < x.length; j++) sum += dy[j]! * scale * x[j]! ** (order - i)
    return sum / x.length
  })
  return Float64Array.from(x, (v, j) =>
    weight.reduce((sum, w, i) => {
      const k = order - i
      return sum + k * w * r[i]! * v ** (k - 1) * (dy[j]! - r[i]! * v ** k * means[i]!)
    }, 0),
  )
}

/** x / sqrt(mean x^2 + eps) * weight. */
export const rmsNorm = (x: ArrayLike<number>, weight: ArrayLike<number>, eps: number): Float64Array => {
  let sum = 0
  for (let j = 0; j < x.length; j++) sum += x[j]! ** 2
  const r = 1 / Math.sqrt(sum / x.length + eps)
  return Float64Array.from(x, (v, j) => v * r * weight[j]!)
}

/** dx of rmsNorm: r (g - h mean(g h)), h = x r, g = dy weight. */
export function rmsNormGrad(
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  dy: ArrayLike<number>,
  eps: number,
): Float64Array {
  let squares = 0
  for (let j = 0; j < x.length; j++) squares += x[j]! ** 2
  const r = 1 / Math.sqrt(squares / x.length + eps)
  let mean = 0
  for (let j = 0; j < x.length; j++) mean += (dy[j]! * weight[j]! * x[j]! * r) / x.length
  return Float64Array.from(x, (v, j) => r * (dy[j]! * weight[j]! - v * r * mean))
}

/** Softmax of a row. */
export function softmax(x: ArrayLike<number>): Float64Array {
  let top = Number.NEGATIVE_INFINITY
  for (let j = 0; j < x.length; j++) top = Math.max(top, x[j]!)
  const p = Float64Array.from(x, (v) => Math.exp(v - top))
  const sum = p.reduce((s, v) => s + v, 0)
  return p.map((v) => v / sum)
}
