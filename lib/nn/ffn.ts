// The slot of a block's feed-forward layer: dense or a mixture of experts, decided by its configuration.
import type { Tensor } from '../tensor.ts'
import type { ModelConfig } from './config.ts'
import type { Init, TensorKind } from './init.ts'
import { type DenseConfig, Mlp } from './mlp.ts'
import type { Module } from './module.ts'
import { Moe, type MoeConfig, type Routing } from './moe.ts'

/** What a block's feed-forward layer is. */
export type FfnConfig = DenseConfig | MoeConfig

/** A feed-forward layer: [..., hidden] to [..., hidden], and how it routed where it has experts. */
export interface FeedForward extends Module {
  forward(x: Tensor): { y: Tensor; routing?: Routing }
}

/** Makes the feed-forward layer that a configuration describes. */
export const feedForward = (config: FfnConfig, options: TensorKind & { init?: Init } = {}): FeedForward =>
  config.kind === 'moe' ? new Moe(config, options) : new Mlp(config, options)

/** The feed-forward layers of a model, which are all alike. */
export function ffnConfig(model: ModelConfig): FfnConfig {
  const both = { hidden: model.hidden_size, act: model.hidden_act, order: model.poly_order, eps: model.poly_eps }
  if (model.num_experts === 0) return { kind: 'dense', intermediate: model.intermediate_size, ...both }
  return {
    kind: 'moe',
    intermediate: model.moe_intermediate_size,
    ...both,
    experts: model.num_experts,
    topK: model.num_experts_per_tok,
    normTopkProb: model.norm_topk_prob,
    sharedExperts: model.num_shared_experts,
    actPerExpert: model.act_per_expert,
  }
}
