// The dense feed-forward layer: up, activation, down.
import type { LinearOptions as Epilogue } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import { Activation, joined } from './activation.ts'
import { type HiddenAct, isGated } from './config.ts'
import type { Init, TensorKind } from './init.ts'
import { Linear } from './linear.ts'
import { Module } from './module.ts'

/** A feed-forward layer without experts. */
export interface DenseConfig {
  kind: 'dense'
  hidden: number
  /** Width between the two products. */
  intermediate: number
  act: HiddenAct
  /** Order of a polynomial activation. Default 3. */
  order?: number
  /** PolyNorm's eps. Default 1e-6. */
  eps?: number
}

// The activations that the product before them applies as it stores its result.
const fused: Partial<Record<HiddenAct, Epilogue['activation']>> = {
  relu: 'relu',
  relu2: 'relu2',
  gelu: 'gelu',
  gelu_tanh: 'geluTanh',
}

/** `down(act(up(x)))`, or with a gated activation `down(act(gate(x)) * up(x))`. No biases. */
export class Mlp extends Module {
  up_proj: Linear
  gate_proj: Linear | null
  down_proj: Linear
  act_fn: Activation

  /** @param act_fn an activation to share; default: one of its own */
  constructor(config: DenseConfig, options: TensorKind & { init?: Init } = {}, act_fn?: Activation) {
    super()
    const { hidden, intermediate, act, order, eps } = config
    const { init: _, ...kind } = options
    this.up_proj = new Linear(hidden, intermediate, { bias: false, ...options })
    this.gate_proj = isGated(act) ? new Linear(hidden, intermediate, { bias: false, ...options }) : null
    this.down_proj = new Linear(intermediate, hidden, { bias: false, ...options })
    this.act_fn = act_fn ?? new Activation(act, { order, eps, ...kind })
  }

  forward(x: Tensor): { y: Tensor } {
    const activation = fused[this.act_fn.act]
    if (activation) return { y: this.down_proj.forward(this.up_proj.forward(x, { activation })) }
    const whole = joined(x, this.up_proj.weight, this.down_proj.weight, this.act_fn)
    if (whole) return { y: whole }
    const up = this.up_proj.forward(x) // (..., F)
    return { y: this.down_proj.forward(this.act_fn.forward(up, this.gate_proj?.forward(x))) }
  }
}
