// Attention from its definition, in float64: scores, softmax, weighted sum, and their gradients.

/** Heads as flat arrays: q, dy (B, H, T, D); k, v (B, K, S, D). */
export interface AttentionCase {
  B: number
  H: number
  K: number
  T: number
  S: number
  D: number
  causal: boolean
  scale?: number
}

export function attention(
  { B, H, K, T, S, D, causal, scale = 1 / Math.sqrt(D) }: AttentionCase,
  q: ArrayLike<number>,
  k: ArrayLike<number>,
  v: ArrayLike<number>,
  dy: ArrayLike<number>,
): { y: Float64Array; dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const y = new Float64Array(B * H * T * D)
  const dq = new Float64Array(B * H * T * D)
  const dk = new Float64Array(B * K * S * D)
  const dv = new Float64Array(B * K * S * D)
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let t = 0; t < T; t++) {
        const row = ((b * H + h) * T + t) * D
        const keys = (b * K + Math.floor((h * K) / H)) * S * D
        const seen = causal ? S - T + t + 1 : S
        const score = Array.from({ length: seen }, (_, s) => {
          let sum = 0
          for (let d = 0; d < D; d++) sum += q[row + d]! * k[keys + s * D + d]!
          return sum * scale
        })
        const top = Math.max(...score)
        const total = score.reduce((sum, x) => sum + Math.exp(x - top), 0)
        const p = score.map((x) => Math.exp(x - top) / total)
        const dp = p.map((_, s) => {
          let sum = 0
          for (let d = 0; d < D; d++) sum += dy[row + d]! * v[keys + s * D + d]!
          return sum
        })
        const mean = p.reduce((sum, x, s) => sum + x * dp[s]!, 0)
        for (let s = 0; s < seen; s++)
          for (let d = 0; d < D; d++) {
            const at = keys + s * D + d
            const ds = p[s]! * (dp[s]! - mean) * scale
            y[row + d]! += p[s]! * v[at]!
            dv[at]! += p[s]! * dy[row + d]!
            dq[row + d]! += ds * k[at]!
            dk[at]! += ds * q[row + d]!
          }
      }
  return { y, dq, dk, dv }
}
