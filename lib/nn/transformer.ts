// The language model: embedding, blocks, norm, output matrix.
//
// Shape letters, here and in every file of nn: B sequences, T positions, N = B T tokens, D hidden size, H heads,
// K heads of keys and values, Dh length of a head, F feed-forward width, V vocabulary, E experts, k experts a token,
// R = N k rows of tokens at their experts, L layers.
import { zeros } from '../ops/create.ts'
import { add, linear, linearCrossEntropy, mul, slice, stack } from '../ops/index.ts'
import { type Device, type Dtype, keep, noGrad, type Tensor } from '../tensor.ts'
import type { LayerCache } from './attention.ts'
import { addNorm, Block, norm } from './block.ts'
import { type ModelConfig, type ModelConfigInput, modelConfig } from './config.ts'
import { Embedding } from './embedding.ts'
import { type FfnConfig, ffnConfig } from './ffn.ts'
import { type Init, normal, type TensorKind } from './init.ts'
import { Linear } from './linear.ts'
import { Module } from './module.ts'
import type { Routing } from './moe.ts'
import type { LayerNorm, RMSNorm } from './norm.ts'

export interface TransformerOptions {
  /** Storage type of the matrices. Default float32. */
  dtype?: Dtype
  device?: Device
  /** The feed-forward layer of each block, when they are not all alike. Default: what the configuration says. */
  ffn?: (layer: number) => FfnConfig
  /** Initial matrices and embeddings. Default: normal, as the configuration says. */
  init?: Init
}

/** The part of the model below the output matrix. */
export class Decoder extends Module {
  embed_tokens: Embedding
  layers: Block[]
  norm: RMSNorm | LayerNorm

  constructor(config: ModelConfig, options: TransformerOptions & { init: Init }) {
    super()
    const { ffn = () => ffnConfig(config), ...kind } = options
    const { init: _, ...plain } = kind
    const eps = config.rms_norm_eps
    this.embed_tokens = new Embedding(config.vocab_size, config.hidden_size, kind)
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, layer) =>
        new Block(
          {
            attention: {
              hidden: config.hidden_size,
              heads: config.num_attention_heads,
              kvHeads: config.num_key_value_heads,
              headDim: config.head_dim,
              ropeTheta: config.rope_theta,
              qkNorm: config.qk_norm,
              eps,
            },
            ffn: ffn(layer),
            norm: config.norm_type,
            eps,
            dropout: config.hidden_dropout,
          },
          kind,
        ),
    )
    this.norm = norm(config.norm_type, config.hidden_size, { eps, ...plain })
  }

  /** @param ids [B, T], integers. @returns hidden states [B, T, D] behind the last norm, and the routing of each MoE layer */
  forward(ids: Tensor, cache?: KvCache): { hidden: Tensor; routings: Routing[] } {
    const routings: Routing[] = []
    let x = this.embed_tokens.forward(ids) // (B, T, D)
    let branch: Tensor | null = null // what is still to be added to x
    for (const [i, layer] of this.layers.entries()) {
      const step = layer.step(x, branch, cache?.layers[i])
      if (step.routing) routings.push(step.routing)
      x = step.sum
      branch = step.branch
    }
    return { hidden: addNorm(this.norm, x, branch).y, routings }
  }
}

/** What `loss` gives; each a tensor of one element, unless said otherwise. */
export interface Losses {
  /** Mean cross-entropy over the targets, in nats. */
  loss: Tensor
  /** Load-balancing loss, averaged over the MoE layers, without its coefficient; null without experts. */
  aux: Tensor | null
  /** The router's z-loss, averaged over the MoE layers, without its coefficient; null without experts. */
  z: Tensor | null
  /** What the gradient is taken of: `loss` and the router's losses times their coefficients. */
  total: Tensor
  /** The share of the assignments that went to each expert, [MoE layers, E]; null without experts. */
  expertLoad: Tensor | null
}

/**
 * A decoder-only language model, dense or of experts. The paths of its parameters are the names in Hugging Face's files,
 * but that experts are stacked: `model.layers.0.mlp.experts.up_proj.weight` is [E, F, D].
 */
export class Transformer extends Module {
  readonly config: ModelConfig
  model: Decoder
  /** null when the output matrix is the embedding. */
  lm_head: Linear | null

  /**
   * Makes a model with random weights, drawn from the generator of `seed()`: normal with standard deviation
   * `initializer_range`, cut at `initializer_cutoff`; norms 1; activation coefficients 1 / order and 0.
   * @param config checked as by `modelConfig`; a preset by name: `{ preset: 'polycom-dense-1b' }`
   * @throws ConfigError naming the field that is wrong
   */
  constructor(config: ModelConfigInput, options: TransformerOptions = {}) {
    super()
    this.config = modelConfig(config)
    const { initializer_range, initializer_cutoff } = this.config
    const init = options.init ?? normal(initializer_range, initializer_cutoff)
    const { vocab_size, hidden_size, tie_word_embeddings } = this.config
    this.model = new Decoder(this.config, { ...options, init })
    const { ffn: _, ...kind } = { ...options, init }
    this.lm_head = tie_word_embeddings ? null : new Linear(hidden_size, vocab_size, { bias: false, ...kind })
  }

  /** The output matrix, [V, D]. */
  get head(): Tensor {
    return (this.lm_head ?? this.model.embed_tokens).weight
  }

  /**
   * @param ids [B, T], integers
   * @param options.cache positions before these, to which these are added
   * @param options.last only the last position's logits: [B, 1, V]
   * @returns logits [B, T, V]
   */
  forward(ids: Tensor, options: { cache?: KvCache; last?: boolean } = {}): { logits: Tensor } {
    const { cache, last = false } = options
    const T = checkIds(ids)
    cache?.expect(ids.shape[0]!, T)
    const { hidden } = this.model.forward(ids, cache)
    cache?.advance(T)
    return { logits: linear(last ? slice(hidden, 1, T - 1) : hidden, this.head) }
  }

  /**
   * The training loss; the logits never exist as a whole.
   * @param ids [B, T]. @param targets [B, T], the ids that should follow; -100 is passed over
   */
  loss(ids: Tensor, targets: Tensor): Losses {
    checkIds(ids)
    if (ids.shape.join() !== targets.shape.join())
      throw new Error(`loss: targets are [${targets.shape.join(', ')}] but should be as ids, [${ids.shape.join(', ')}]`)
    const { hidden, routings } = this.model.forward(ids)
    const loss = linearCrossEntropy(hidden, this.head, targets)
    if (!routings.length) return { loss, aux: null, z: null, total: loss, expertLoad: null }
    const mean = (terms: Tensor[]) => mul(terms.reduce(add), 1 / terms.length)
    const aux = mean(routings.map((r) => r.aux))
    const z = mean(routings.map((r) => r.z))
    const { router_aux_loss_coef, router_z_loss_coef } = this.config
    const total = add(add(loss, mul(aux, router_aux_loss_coef)), mul(z, router_z_loss_coef))
    return { loss, aux, z, total, expertLoad: noGrad(() => stack(routings.map((r) => r.shares))) }
  }

  /** An empty cache for `batch` sequences of up to `capacity` positions. */
  cache(batch: number, capacity: number): KvCache {
    const { num_key_value_heads, head_dim } = this.config
    const { dtype, device } = this.model.embed_tokens.weight
    return new KvCache(this.model.layers.length, [batch, num_key_value_heads, capacity, head_dim], { dtype, device })
  }
}

function checkIds(ids: Tensor): number {
  if (ids.rank !== 2) throw new Error(`Transformer: ids are [${ids.shape.join(', ')}] but should be [B, T]`)
  return ids.shape[1]!
}

/** Keys and values of the positions that a model has seen, for generation. Dispose of it when done. */
export class KvCache {
  readonly layers: LayerCache[]
  readonly batch: number
  readonly capacity: number

  /** @internal */
  constructor(layers: number, shape: readonly [number, number, number, number], kind: TensorKind) {
    this.batch = shape[0]
    this.capacity = shape[2]
    const part = () => keep(zeros(shape, kind))
    this.layers = Array.from({ length: layers }, () => ({ k: part(), v: part(), length: 0 }))
  }

  /** How many positions it holds. */
  get length(): number {
    return this.layers[0]!.length
  }

  /** @internal */
  expect(batch: number, fresh: number): void {
    if (batch !== this.batch) throw new Error(`the cache is for ${this.batch} sequences but there are ${batch}`)
    if (this.length + fresh > this.capacity)
      throw new RangeError(`the cache has ${this.capacity} positions but needs ${this.length + fresh}`)
  }

  /** @internal */
  advance(fresh: number): void {
    for (const layer of this.layers) layer.length += fresh
  }

  /** Forgets all positions. */
  reset(): void {
    for (const layer of this.layers) layer.length = 0
  }

  dispose(): void {
    for (const { k, v } of this.layers) {
      k.dispose()
      v.dispose()
    }
  }
}
