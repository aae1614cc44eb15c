// Activations from their definitions, in float64.

// A series that converges everywhere, unlike the implementation's.
export function erf(x: number): number {
  let term = x
  let sum = x
  for (let n = 1; n < 200; n++) {
    term *= (-x * x) / n
    sum += term / (2 * n + 1)
  }
  return (2 / Math.sqrt(Math.PI)) * sum
}
export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
export const positive = (x: number): number => (Number.isNaN(x) ? x : Math.max(x, 0))

/** Those that a product can apply to its result. */
export const activations = {
  relu: positive,
  relu2: (x: number): number => positive(x) ** 2,
  silu: (x: number): number => x * sigmoid(x),
  gelu: (x: number): number => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
}
