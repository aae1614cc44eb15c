// What a run will need, from its configuration alone: parameters, FLOPs a token, and memory by kind.
import { isGated, isPolynomial, type ModelConfig } from '../nn/config.ts'
import type { RunConfig } from './config.ts'

/** Counts of parameters. */
export interface ParameterCounts {
  embedding: number
  attention: number
  /** Feed-forward matrices, experts and routers. */
  feedForward: number
  /** Norm weights and activation coefficients: what is never decayed. */
  vectors: number
  /** The output matrix; 0 when it is the embedding. */
  output: number
  total: number
  /** Those of the matrices that a token meets: of the experts, only the chosen ones; the output matrix also when tied. */
  active: number
}

/** What a run needs. Bytes, unless named otherwise. */
export interface Estimate {
  parameters: ParameterCounts
  /** Forward and backward, for one token in a row of `seq_len`. */
  flopsPerToken: number
  /** For all tokens of the run. */
  flops: number
  tokens: number
  memory: {
    parameters: number
    gradients: number
    /** AdamW's two moments, float32. */
    moments: number
    /** float32 copies of bfloat16 parameters. */
    masters: number
    /** What one micro-batch's forward pass keeps for the backward pass, and the largest temporaries. */
    activations: number
    total: number
  }
}

/** Counts a model's parameters without making it. */
export function countParameters(c: ModelConfig): ParameterCounts {
  const d = c.hidden_size
  const [q, kv] = [c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim]
  const matrices = isGated(c.hidden_act) ? 3 : 2
  const coefficients = isPolynomial(c.hidden_act) ? c.poly_order + 1 : 0
  const moe = c.num_experts > 0
  const expert = matrices * d * c.moe_intermediate_size
  const router = moe ? d * c.num_experts : 0
  const shared = moe ? c.num_shared_experts * expert : 0
  const always = moe ? router + shared : matrices * d * c.intermediate_size
  const acts = moe && c.act_per_expert ? c.num_experts + (c.num_shared_experts > 0 ? 1 : 0) : 1
  const layers = c.num_hidden_layers

  const embedding = c.vocab_size * d
  const attention = layers * (2 * d * q + 2 * d * kv)
  const feedForward = layers * (always + c.num_experts * expert)
  const vectors = layers * (2 * d + (c.qk_norm ? q + kv : 0) + acts * coefficients) + d
  const output = c.tie_word_embeddings ? 0 : embedding
  return {
    embedding,
    attention,
    feedForward,
    vectors,
    output,
    total: embedding + attention + feedForward + vectors + output,
    active: attention + layers * (always + (moe ? c.num_experts_per_tok * expert : 0)) + embedding,
  }
}

/**
 * Floating-point operations of forward and backward for one token: 6 for each active parameter of a matrix, and
 * 12 * layers * heads * head_dim * seq_len for attention (PaLM, arXiv 2204.02311, appendix B; not halved for causality).
 */
export const flopsPerToken = (c: ModelConfig, seqLen: number): number =>
  6 * countParameters(c).active + 12 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * seqLen

// Elements that one token keeps in one layer for the backward pass.
function keptPerToken(c: ModelConfig): number {
  const [q, kv] = [c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim]
  const ways = c.num_experts > 0 ? c.num_experts_per_tok + c.num_shared_experts : 1
  const width = c.num_experts > 0 ? c.moe_intermediate_size : c.intermediate_size
  const hidden = (isGated(c.hidden_act) ? 3 : 2) * width // before and after the activation
  const rows = c.num_experts > 0 ? 2 * c.hidden_size : 0 // gathered for the experts, and what they return
  const dropped = c.hidden_dropout > 0 ? 2 * c.hidden_size : 0
  // Two norms in and out, the projections, their heads side by side and after RoPE, the result and its projection.
  return 5 * c.hidden_size + (c.qk_norm ? 3 : 2) * (q + kv) + 2 * kv + 2 * q + ways * (hidden + rows) + dropped
}

/** What a run needs, before anything is allocated. */
export function estimate(run: Pick<RunConfig, 'model' | 'train'>): Estimate {
  const { model, train } = run
  const parameters = countParameters(model)
  const n = parameters.total
  const half = train.dtype === 'bfloat16'
  const size = half ? 2 : 4
  const rows = train.micro_batch_size * train.seq_len // tokens of a micro-batch
  const tokens = train.steps * train.grad_accum * rows
  // The cross-entropy works through the logits in blocks; backward needs about a layer's worth of temporaries.
  const logits = Math.min(rows, 1024) * model.vocab_size * 4 + rows * model.hidden_size * 3 * size
  const memory = {
    parameters: n * size,
    gradients: n * 4,
    moments: n * 8,
    masters: half ? n * 4 : 0,
    activations: rows * keptPerToken(model) * (model.num_hidden_layers + 1) * size + logits,
  }
  const perToken = flopsPerToken(model, train.seq_len)
  return {
    parameters,
    flopsPerToken: perToken,
    flops: perToken * tokens,
    tokens,
    memory: { ...memory, total: Object.values(memory).reduce((a, b) => a + b, 0) },
  }
}
