// The matrix product from its definition, in float64, for any strides of broadcasting.
import type { Values } from '../golden.ts'

const product = (dims: readonly number[]): number => dims.reduce((n, d) => n * d, 1)

// The element of x (broadcast to `batch`) that batch index i and (row, col) mean.
function reader(x: Values, batch: readonly number[]): (i: number, row: number, col: number) => number {
  const [rows, cols] = x.shape.slice(-2) as [number, number]
  const lead = x.shape.slice(0, -2)
  return (i, row, col) => {
    let at = 0
    let step = 1
    for (let axis = batch.length - 1, rest = i; axis >= 0; axis--) {
      const here = rest % batch[axis]!
      rest = Math.floor(rest / batch[axis]!)
      const own = lead[axis - (batch.length - lead.length)] ?? 1
      if (own > 1) at += here * step
      step *= own
    }
    return at * rows * cols + row * cols + col
  }
}

/** a (..., m, k) @ b (..., k, n), and the gradients of sum(y * dy); both operands with at least two axes. */
export function matmul(a: Values, b: Values, dy?: Values): { y: Values; da: Values; db: Values } {
  const [m, k] = a.shape.slice(-2) as [number, number]
  const n = b.shape[b.shape.length - 1]!
  const rank = Math.max(a.shape.length, b.shape.length) - 2
  const batch = Array.from({ length: rank }, (_, axis) =>
    Math.max(...[a, b].map((x) => x.shape[axis - rank + x.shape.length - 2] ?? 1)),
  )
  for (const x of [a, b]) if (x.shape.slice(0, -2).includes(0)) batch[x.shape.slice(0, -2).indexOf(0)] = 0
  const atA = reader(a, batch)
  const atB = reader(b, batch)
  const y = new Float64Array(product(batch) * m * n)
  const da = new Float64Array(a.data.length)
  const db = new Float64Array(b.data.length)
  for (let i = 0; i < product(batch); i++)
    for (let r = 0; r < m; r++)
      for (let c = 0; c < n; c++) {
        const to = (i * m + r) * n + c
        const d = dy?.data[to] ?? 0
        for (let l = 0; l < k; l++) {
          y[to]! += a.data[atA(i, r, l)]! * b.data[atB(i, l, c)]!
          da[atA(i, r, l)]! += d * b.data[atB(i, l, c)]!
          db[atB(i, l, c)]! += d * a.data[atA(i, r, l)]!
        }
      }
  return {
    y: { data: y, shape: [...batch, m, n] },
    da: { data: da, shape: a.shape },
    db: { data: db, shape: b.shape },
  }
}
