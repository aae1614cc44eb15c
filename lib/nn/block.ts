// A transformer block: attention and a feed-forward layer, each behind a norm and added to its input.
import { add } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import { Attention, type AttentionConfig, type LayerCache } from './attention.ts'
import { Dropout } from './dropout.ts'
import { type FeedForward, type FfnConfig, feedForward } from './ffn.ts'
import type { Init, TensorKind } from './init.ts'
import { Module } from './module.ts'
import type { Routing } from './moe.ts'
import { LayerNorm, RMSNorm } from './norm.ts'

export interface BlockConfig {
  attention: AttentionConfig
  ffn: FfnConfig
  /** Default `rms`; `layer` is LayerNorm without bias. */
  norm?: 'rms' | 'layer'
  /** The norms' eps. Default 1e-5. */
  eps?: number
  /** Dropout after attention and after the feed-forward layer. Default 0. */
  dropout?: number
}

/** A norm by its name in config.json; without bias. */
export const norm = (
  kind: 'rms' | 'layer',
  dim: number,
  options: TensorKind & { eps?: number },
): RMSNorm | LayerNorm =>
  kind === 'layer' ? new LayerNorm(dim, { ...options, bias: false }) : new RMSNorm(dim, options)

/** `x += attention(norm(x)); x += ffn(norm(x))` */
export class Block extends Module {
  input_layernorm: RMSNorm | LayerNorm
  self_attn: Attention
  post_attention_layernorm: RMSNorm | LayerNorm
  mlp: FeedForward
  dropout: Dropout

  constructor(config: BlockConfig, options: TensorKind & { init?: Init } = {}) {
    super()
    const { init: _, ...kind } = options
    const dim = config.attention.hidden
    this.input_layernorm = norm(config.norm ?? 'rms', dim, { eps: config.eps, ...kind })
    this.self_attn = new Attention(config.attention, options)
    this.post_attention_layernorm = norm(config.norm ?? 'rms', dim, { eps: config.eps, ...kind })
    this.mlp = feedForward(config.ffn, options)
    this.dropout = new Dropout(config.dropout ?? 0)
  }

  /** @param x [B, T, D]. @param cache keys and values of earlier positions */
  forward(x: Tensor, cache?: LayerCache): { y: Tensor; routing?: Routing } {
    const { sum, branch, routing } = this.step(x, null, cache)
    return { y: add(sum, branch), routing }
  }

  /**
   * As `forward`, with the additions put off: `branch` is still to be added to `x`, as the returned one is to `sum`.
   * The next norm adds and normalises in one pass.
   */
  step(x: Tensor, branch: Tensor | null, cache?: LayerCache): { sum: Tensor; branch: Tensor; routing?: Routing } {
    const before = addNorm(this.input_layernorm, x, branch)
    const attended = this.dropout.forward(this.self_attn.forward(before.y, cache)) // (B, T, D)
    const after = addNorm(this.post_attention_layernorm, before.sum, attended)
    const { y, routing } = this.mlp.forward(after.y)
    return { sum: after.sum, branch: this.dropout.forward(y), routing }
  }
}

/** The norm of `x + branch`, and that sum. @internal */
export const addNorm = (by: RMSNorm | LayerNorm, x: Tensor, branch: Tensor | null): { sum: Tensor; y: Tensor } =>
  branch ? by.addForward(branch, x) : { sum: x, y: by.forward(x) }
