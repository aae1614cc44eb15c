// Causal self-attention with rotary positions, grouped key and value heads, and a cache for generation.
import { native } from '../native.ts'
import { attention, reshape, rope, slice, transpose } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import type { Init, TensorKind } from './init.ts'
import { Linear } from './linear.ts'
import { Module } from './module.ts'
import { RMSNorm } from './norm.ts'

export interface AttentionConfig {
  hidden: number
  heads: number
  /** Heads of keys and values, a divisor of `heads`. Default `heads`. */
  kvHeads?: number
  /** Length of one head, even. Default `hidden / heads`. */
  headDim?: number
  /** Base of the rotary frequencies. Default 10000. */
  ropeTheta?: number
  /** Normalise the projected queries and keys, over the whole row, before the heads are split (OLMoE). Default false. */
  qkNorm?: boolean
  /** Eps of that norm. Default 1e-5. */
  eps?: number
}

/** Keys and values of the positions so far, of one layer. */
export interface LayerCache {
  k: Tensor // (B, K, capacity, Dh)
  v: Tensor // (B, K, capacity, Dh)
  /** Positions filled. */
  length: number
}

/** Causal attention over [B, T, hidden]. RoPE as Hugging Face's Llama (rotate-half), scale 1 / sqrt(headDim), no biases. */
export class Attention extends Module {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly ropeTheta: number
  q_proj: Linear
  k_proj: Linear
  v_proj: Linear
  o_proj: Linear
  q_norm: RMSNorm | null
  k_norm: RMSNorm | null

  constructor(config: AttentionConfig, options: TensorKind & { init?: Init } = {}) {
    super()
    const { hidden, heads, kvHeads = heads, headDim = hidden / heads, qkNorm = false, eps } = config
    if (!Number.isInteger(headDim) || headDim % 2)
      throw new RangeError(`Attention: headDim is ${headDim} but should be an even integer`)
    if (heads % kvHeads) throw new RangeError(`Attention: kvHeads is ${kvHeads} but should divide heads, ${heads}`)
    const { init: _, ...kind } = options
    const projection = (from: number, to: number) => new Linear(from, to, { bias: false, ...options })
    this.heads = heads
    this.kvHeads = kvHeads
    this.headDim = headDim
    this.ropeTheta = config.ropeTheta ?? 10000
    this.q_proj = projection(hidden, heads * headDim)
    this.k_proj = projection(hidden, kvHeads * headDim)
    this.v_proj = projection(hidden, kvHeads * headDim)
    this.o_proj = projection(heads * headDim, hidden)
    this.q_norm = qkNorm ? new RMSNorm(heads * headDim, { eps, ...kind }) : null
    this.k_norm = qkNorm ? new RMSNorm(kvHeads * headDim, { eps, ...kind }) : null
  }

  /**
   * @param x [B, T, hidden]
   * @param cache the positions before x, to which those of x are added. No gradient flows through it.
   */
  forward(x: Tensor, cache?: LayerCache): Tensor {
    const [B, T] = x.shape as [number, number]
    const at = cache?.length ?? 0
    const split = (rows: Tensor, heads: number) => transpose(reshape(rows, [B, T, heads, this.headDim]), 1, 2)
    const turn = (rows: Tensor, heads: number) => rope(split(rows, heads), { theta: this.ropeTheta, offset: at })
    const q = this.q_proj.forward(x)
    const k = this.k_proj.forward(x)
    const qs = turn(this.q_norm ? this.q_norm.forward(q) : q, this.heads) // (B, H, T, Dh)
    let ks = turn(this.k_norm ? this.k_norm.forward(k) : k, this.kvHeads) // (B, K, T, Dh)
    let vs = split(this.v_proj.forward(x), this.kvHeads) // (B, K, T, Dh)
    if (cache) {
      ks = append(cache.k, ks, at)
      vs = append(cache.v, vs, at)
    }
    const y = attention(qs, ks, vs, { causal: true }) // (B, H, T, Dh)
    return this.o_proj.forward(reshape(transpose(y, 1, 2), [B, T, this.heads * this.headDim]))
  }
}

// Writes into the cache and returns its filled part.
function append(cache: Tensor, fresh: Tensor, at: number): Tensor {
  const [, , capacity] = cache.shape as [number, number, number, number]
  const end = at + fresh.shape[2]!
  if (end > capacity) throw new RangeError(`the cache holds ${capacity} positions but should hold ${end}`)
  native.assign(fresh.handle, slice(cache, 2, at, end).handle)
  return slice(cache, 2, 0, end)
}
