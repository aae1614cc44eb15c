// The matrix products of one training step, as shapes: what the step could not do without.
import type { ModelConfig } from '../nn/config.ts'

/** transposeA, transposeB, m, n, k, how many. Row-major. */
export type Product = [transposeA: boolean, transposeB: boolean, m: number, n: number, k: number, count: number]

// y = x W^T, dx = dy W, dW = dy^T x, for x [rows, from] and W [to, from].
const linear = (rows: number, from: number, to: number, count: number): Product[] => [
  [false, true, rows, to, from, count],
  [false, false, rows, from, to, count],
  [true, false, to, from, rows, count],
]

/** The products of the linear layers, forward and backward, of a step over `batch` rows of `seq` tokens. */
export function linearProducts(c: ModelConfig, batch: number, seq: number): Product[] {
  const rows = batch * seq
  const d = c.hidden_size
  const queries = c.num_attention_heads * c.head_dim
  const keys = c.num_key_value_heads * c.head_dim
  const gated = c.hidden_act === 'swiglu' || c.hidden_act === 'polynorm_glu' ? 1 : 0
  const moe = c.num_experts > 0
  const hidden = moe ? c.moe_intermediate_size : c.intermediate_size
  const experts = moe ? c.num_experts : 1
  // Experts get equal shares: what a balanced router gives them.
  const each = moe ? (rows * c.num_experts_per_tok) / experts : rows
  const layers = c.num_hidden_layers
  return [
    ...linear(rows, d, queries, layers),
    ...linear(rows, d, keys, 2 * layers),
    ...linear(rows, queries, d, layers),
    ...linear(each, d, hidden, (1 + gated) * layers * experts),
    ...linear(each, hidden, d, layers * experts),
    ...(moe ? linear(rows, d, experts, layers) : []),
    ...linear(rows, d, c.vocab_size, 1),
  ]
}

/**
 * The products inside attention, forward (2) and backward (4), the recomputation not counted. They are listed whole; a
 * causal kernel needs about half of them.
 */
export function attentionProducts(c: ModelConfig, batch: number, seq: number): Product[] {
  const count = batch * c.num_attention_heads * c.num_hidden_layers
  const d = c.head_dim
  return [
    [false, true, seq, seq, d, 2 * count], // scores; dP
    [false, false, seq, d, seq, 2 * count], // outputs; dq
    [true, false, seq, d, seq, 2 * count], // dk; dv
  ]
}

/** Floating-point operations, a multiplication and an addition counted as two. */
export const operations = (products: readonly Product[]): number =>
  products.reduce((sum, [, , m, n, k, count]) => sum + 2 * m * n * k * count, 0)
