// A mixture of experts: each token goes to the top few of them, and none is dropped.
import { full, zeros } from '../ops/create.ts'
import { add, cast, combine, gatherRows, groupByExpert, groupedMatmul, linear, reshape, route } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import { Activation, type ActivationOptions, activate, joined } from './activation.ts'
import { type HiddenAct, isGated, isPolynomial } from './config.ts'
import { type Init, normal, type TensorKind } from './init.ts'
import { Linear } from './linear.ts'
import { type DenseConfig, Mlp } from './mlp.ts'
import { Module, parameter, vectorDtype } from './module.ts'

/** A feed-forward layer of experts. */
export interface MoeConfig {
  kind: 'moe'
  hidden: number
  /** Width of one expert. */
  intermediate: number
  act: HiddenAct
  /** Order of a polynomial activation. Default 3. */
  order?: number
  /** PolyNorm's eps. Default 1e-6. */
  eps?: number
  experts: number
  /** Experts a token goes to. */
  topK: number
  /** Scale the chosen experts' weights to a sum of 1. Default false. */
  normTopkProb?: boolean
  /** Experts that every token goes to: one layer of their joint width. Default 0. */
  sharedExperts?: number
  /** Each expert has activation coefficients of its own. Default false: one set, also for the shared expert. */
  actPerExpert?: boolean
}

/** How a layer sent its tokens to the experts. */
export interface Routing {
  /** The load-balancing loss, without its coefficient; one element. */
  aux: Tensor
  /** The z-loss, without its coefficient; one element. */
  z: Tensor
  /** The share of the assignments that went to each expert, [E]. */
  shares: Tensor
}

/** One matrix for each expert, in one tensor: [E, out, in]. In files each expert has its own. */
export class StackedLinear extends Module {
  override readonly stacked = true
  weight: Tensor // [E, out, in]

  constructor(experts: number, inputs: number, outputs: number, options: TensorKind & { init?: Init } = {}) {
    super()
    const { init = normal(0.02), ...kind } = options
    this.weight = parameter(init([experts, outputs, inputs], kind))
  }

  /** @param x rows grouped by expert, [R, in]. @param offsets where each expert's begin, [E + 1] */
  forward(x: Tensor, offsets: Tensor): Tensor {
    return groupedMatmul(x, this.weight, offsets)
  }
}

/** Activation coefficients of each expert: `weight` [E, order] and `bias` [E, 1]. In files each expert has its own. */
export class StackedActivation extends Module {
  override readonly stacked = true
  readonly eps: number
  weight: Tensor // [E, order]
  bias: Tensor // [E, 1]

  constructor(
    readonly act: HiddenAct,
    experts: number,
    options: ActivationOptions = {},
  ) {
    super()
    const { order = 3, eps = 1e-6, dtype = 'float32', device } = options
    if (!isPolynomial(act)) throw new TypeError(`${act} has no coefficients that each expert could have of its own`)
    this.eps = eps
    this.weight = parameter(full([experts, order], 1 / order, { dtype: vectorDtype(dtype), device }))
    this.bias = parameter(zeros([experts, 1], { dtype: vectorDtype(dtype), device }))
  }

  /** @param up rows grouped by expert, [R, F]. @param offsets where each expert's begin, [E + 1] */
  forward(up: Tensor, gate: Tensor | undefined, offsets: Tensor): Tensor {
    return activate(this.act, up, gate, this.weight, reshape(this.bias, [-1]), { eps: this.eps, offsets })
  }
}

/** The matrices of all experts, with their coefficients where each has its own. */
export class Experts extends Module {
  up_proj: StackedLinear
  gate_proj: StackedLinear | null
  down_proj: StackedLinear
  act_fn: StackedActivation | null

  constructor(config: MoeConfig, options: TensorKind & { init?: Init } = {}) {
    super()
    const { experts, hidden, intermediate, act } = config
    const { init: _, ...kind } = options
    this.up_proj = new StackedLinear(experts, hidden, intermediate, options)
    this.gate_proj = isGated(act) ? new StackedLinear(experts, hidden, intermediate, options) : null
    this.down_proj = new StackedLinear(experts, intermediate, hidden, options)
    this.act_fn = config.actPerExpert ? new StackedActivation(act, experts, { ...config, ...kind }) : null
  }
}

/**
 * Softmax over all experts of the router's float32 logits, the top few, their rows grouped by expert, the experts'
 * layers as grouped products, and the results weighted and added up (OLMoE, arXiv 2409.02060). No token is dropped.
 */
export class Moe extends Module {
  readonly experts_per_token: number
  readonly norm_topk_prob: boolean
  gate: Linear // the router
  experts: Experts
  act_fn: Activation | null
  shared_expert: Mlp | null

  constructor(config: MoeConfig, options: TensorKind & { init?: Init } = {}) {
    super()
    const { hidden, act, order, eps, experts, topK, sharedExperts = 0, actPerExpert = false } = config
    if (!(topK >= 1 && topK <= experts))
      throw new RangeError(`Moe: topK is ${topK} but should be from 1 to the number of experts, ${experts}`)
    const { init: _, ...kind } = options
    this.experts_per_token = topK
    this.norm_topk_prob = config.normTopkProb ?? false
    this.gate = new Linear(hidden, experts, { bias: false, ...options })
    this.experts = new Experts(config, options)
    this.act_fn = actPerExpert ? null : new Activation(act, { order, eps, ...kind })
    const joint: DenseConfig = { ...config, kind: 'dense', intermediate: sharedExperts * config.intermediate }
    this.shared_expert = sharedExperts > 0 ? new Mlp(joint, options, this.act_fn ?? undefined) : null
  }

  forward(x: Tensor): { y: Tensor; routing: Routing } {
    const tokens = reshape(x, [-1, x.shape[x.rank - 1]!]) // (N, D)
    const logits = linear(asFloat32(tokens), asFloat32(this.gate.weight)) // (N, E)
    const { weights, experts, aux, z, shares } = route(logits, {
      topK: this.experts_per_token,
      normTopkProb: this.norm_topk_prob,
    })
    const { order, offsets } = groupByExpert(experts, this.gate.weight.shape[0]!)
    const grouped = gatherRows(tokens, order) // (R, D)
    const { up_proj, gate_proj, down_proj, act_fn } = this.experts
    const { act, eps, weight, bias } = act_fn ?? this.act_fn!
    const coefficients = { act, eps, weight, bias: bias && reshape(bias, [-1]) }
    const whole = joined(grouped, up_proj.weight, down_proj.weight, coefficients, offsets)
    const apart = (): Tensor => {
      const up = up_proj.forward(grouped, offsets) // (R, F)
      const gate = gate_proj?.forward(grouped, offsets)
      const h = act_fn ? act_fn.forward(up, gate, offsets) : this.act_fn!.forward(up, gate)
      return down_proj.forward(h, offsets)
    }
    const chosen = reshape(combine(whole ?? apart(), order, weights), x.shape)
    const y = this.shared_expert ? add(chosen, this.shared_expert.forward(x).y) : chosen
    return { y, routing: { aux, z, shares } }
  }
}

const asFloat32 = (x: Tensor): Tensor => (x.dtype === 'bfloat16' || x.dtype === 'float16' ? cast(x, 'float32') : x)
