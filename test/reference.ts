// Oracles in float64, each written from its definition and slow; nothing here comes from src/math.

/** Rows of `n` elements of a flat array. */
export const rowsOf = (x: ArrayLike<number>, n: number): number[][] =>
  Array.from({ length: x.length / n }, (_, r) => Array.from({ length: n }, (_, i) => x[r * n + i]!))

const sumOf = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0)

/** The gradient of `sum(dy * fn(x))` by central differences. */
export function differences(fn: (x: Float64Array) => ArrayLike<number>, x: Float64Array, dy: ArrayLike<number>) {
  const dot = (y: ArrayLike<number>) => Array.from(y).reduce((s, v, i) => s + v * dy[i]!, 0)
  return x.map((v, i) => {
    const h = 1e-5 * Math.max(1, Math.abs(v))
    const [up, down] = [x.slice(), x.slice()]
    up[i] = v + h
    down[i] = v - h
    return (dot(fn(up)) - dot(fn(down))) / (2 * h)
  })
}

/** x (rows, weight.length) */
export const rmsNorm = (x: ArrayLike<number>, weight: ArrayLike<number>, eps: number): Float64Array =>
  Float64Array.from(
    rowsOf(x, weight.length).flatMap((row) => {
      const scale = 1 / Math.sqrt(sumOf(row.map((v) => v * v)) / row.length + eps)
      return row.map((v, i) => v * scale * weight[i]!)
    }),
  )

export const layerNorm = (
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  bias: ArrayLike<number>,
  eps: number,
): Float64Array =>
  Float64Array.from(
    rowsOf(x, weight.length).flatMap((row) => {
      const mean = sumOf(row) / row.length
      const variance = sumOf(row.map((v) => (v - mean) ** 2)) / row.length
      return row.map((v, i) => ((v - mean) / Math.sqrt(variance + eps)) * weight[i]! + bias[i]!)
    }),
  )

/** logsumexp of one row. */
export function logsumexp(row: readonly number[]): number {
  const top = Math.max(...row)
  return Number.isFinite(top) ? top + Math.log(sumOf(row.map((v) => Math.exp(v - top)))) : top
}
export function softmax(row: readonly number[]): number[] {
  const all = logsumexp(row)
  return row.map((v) => Math.exp(v - all))
}

/** Mean over the rows whose target is not `ignore`. */
export function crossEntropy(logits: ArrayLike<number>, targets: ArrayLike<number>, ignore = -100): number {
  const rows = rowsOf(logits, logits.length / targets.length)
  const losses = rows.flatMap((row, i) => (targets[i] === ignore ? [] : [logsumexp(row) - row[targets[i]!]!]))
  return losses.length ? sumOf(losses) / losses.length : 0
}

/** x (.., length, size): pairs (i, i + size / 2) as complex numbers, times exp(i angle). */
export const rope = (x: ArrayLike<number>, length: number, size: number, theta = 10000, offset = 0): Float64Array =>
  Float64Array.from(
    rowsOf(x, size).flatMap((row, r) => {
      const angle = (i: number) => (offset + (r % length)) / theta ** ((2 * i) / size)
      const half = size / 2
      return row.map((v, i) =>
        i < half
          ? v * Math.cos(angle(i)) - row[i + half]! * Math.sin(angle(i))
          : v * Math.cos(angle(i - half)) + row[i - half]! * Math.sin(angle(i - half)),
      )
    }),
  )
