// Mixture of experts from its definition in interchange.md, in float64, token by token.
import type { Values } from '../golden.ts'

export interface Routed {
  p: number[][]
  experts: number[][]
  weights: number[][]
  aux: number
  z: number
  shares: number[]
}

/** Softmax over all experts, the k most probable (the lower index first among equals), and both router losses. */
export function route(logits: Values, topK: number, normalise: boolean): Routed {
  const [n, experts] = logits.shape as [number, number]
  const out: Routed = { p: [], experts: [], weights: [], aux: 0, z: 0, shares: new Array(experts).fill(0) }
  for (let i = 0; i < n; i++) {
    const row = Array.from(logits.data.subarray(i * experts, (i + 1) * experts))
    const sum = row.reduce((s, l) => s + Math.exp(l), 0)
    const p = row.map((l) => Math.exp(l) / sum)
    const chosen = row
      .map((_, e) => e)
      .sort((a, b) => row[b]! - row[a]! || a - b)
      .slice(0, topK)
    const total = normalise ? chosen.reduce((s, e) => s + p[e]!, 0) : 1
    out.p.push(p)
    out.experts.push(chosen)
    out.weights.push(chosen.map((e) => p[e]! / total))
    out.z += Math.log(sum) ** 2 / n
    for (const e of chosen) out.shares[e]! += 1 / (n * topK)
  }
  for (let e = 0; e < experts; e++) out.aux += (experts * out.shares[e]! * out.p.reduce((s, p) => s + p[e]!, 0)) / n
  return out
}

/** y[i] = w[e] x[i] for each group of rows, and the gradients of sum(y * dy). */
export function groupedMatmul(
  x: Values,
  w: Values,
  offsets: readonly number[],
  dy?: Values,
): { y: Values; dx: Values; dw: Values } {
  const [rows, ins] = x.shape as [number, number]
  const [count, outs] = w.shape as [number, number]
  const y = new Float64Array(rows * outs)
  const dx = new Float64Array(rows * ins)
  const dw = new Float64Array(count * outs * ins)
  for (let e = 0; e < count; e++)
    for (let i = offsets[e]!; i < offsets[e + 1]!; i++)
      for (let o = 0; o < outs; o++)
        for (let c = 0; c < ins; c++) {
          const d = dy?.data[i * outs + o] ?? 0
          y[i * outs + o]! += w.data[(e * outs + o) * ins + c]! * x.data[i * ins + c]!
          dx[i * ins + c]! += d * w.data[(e * outs + o) * ins + c]!
          dw[(e * outs + o) * ins + c]! += d * x.data[i * ins + c]!
        }
  return {
    y: { data: y, shape: [rows, outs] },
    dx: { data: dx, shape: x.shape },
    dw: { data: dw, shape: w.shape },
  }
}
