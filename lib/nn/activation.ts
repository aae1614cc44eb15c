// The activation of a feed-forward layer: one of ModelConfig's `hidden_act`, with its coefficients where it has some.
import { full, zeros } from '../ops/create.ts'
import { gelu, polyNorm, polyNormGlu, polyNormMlp, polyRelu, polyReluMlp, relu, relu2, swiglu } from '../ops/index.ts'
import type { Tensor } from '../tensor.ts'
import { type HiddenAct, isGated, isPolynomial } from './config.ts'
import type { TensorKind } from './init.ts'
import { Module, parameter, vectorDtype } from './module.ts'

export interface ActivationOptions extends TensorKind {
  /** Order of the polynomial ones, 1 to 8. Default 3. */
  order?: number
  /** PolyNorm's eps. Default 1e-6. */
  eps?: number
}

/**
 * An activation by its name in config.json. The polynomial ones have the coefficients `weight` [order], highest power
 * first and 1 / order at first, and `bias` [1], 0 at first (Polynomial Composition Activations, arXiv 2411.03884).
 */
export class Activation extends Module {
  readonly act: HiddenAct
  readonly eps: number
  weight: Tensor | null = null // [order]
  bias: Tensor | null = null // [1]

  constructor(act: HiddenAct, options: ActivationOptions = {}) {
    super()
    const { order = 3, eps = 1e-6, dtype = 'float32', device } = options
    this.act = act
    this.eps = eps
    if (!isPolynomial(act)) return
    const kind = { dtype: vectorDtype(dtype), device }
    this.weight = parameter(full([order], 1 / order, kind))
    this.bias = parameter(zeros([1], kind))
  }

  /**
   * @param up the hidden row, or what a gated activation's gate is multiplied with
   * @param gate for the gated ones, of the shape of `up`
   */
  forward(up: Tensor, gate?: Tensor): Tensor {
    return activate(this.act, up, gate, this.weight, this.bias, { eps: this.eps })
  }
}

/**
 * The feed-forward layer `down(act(up(x)))` with a polynomial activation as one op, or null where that gains nothing: on
 * a CPU, where a pass over the hidden rows costs little beside the products, and in 32 or 64 bits. @internal
 */
export function joined(
  x: Tensor,
  up: Tensor,
  down: Tensor,
  { act, eps, weight, bias }: { act: HiddenAct; eps: number; weight: Tensor | null; bias: Tensor | null },
  offsets?: Tensor,
): Tensor | null {
  if (x.device === 'cpu' || (x.dtype !== 'bfloat16' && x.dtype !== 'float16')) return null
  if (act === 'polyrelu') return polyReluMlp(x, { up, down, weight: weight!, bias: bias! }, { offsets })
  if (act === 'polynorm') return polyNormMlp(x, { up, down, weight: weight!, bias: bias! }, { offsets, eps })
  return null
}

/** @internal */
export function activate(
  act: HiddenAct,
  up: Tensor,
  gate: Tensor | undefined,
  weight: Tensor | null,
  bias: Tensor | null,
  options: { eps: number; offsets?: Tensor },
): Tensor {
  if (isGated(act) !== (gate !== undefined))
    throw new TypeError(`${act}: ${gate ? 'a gate was given, but it has none' : 'needs a gate'}`)
  switch (act) {
    case 'polynorm':
      return polyNorm(up, weight!, bias!, options)
    case 'polyrelu':
      return polyRelu(up, weight!, bias!, options)
    case 'polynorm_glu':
      return polyNormGlu(gate!, up, weight!, bias!, options)
    case 'swiglu':
      return swiglu(gate!, up)
    case 'gelu':
      return gelu(up)
    case 'gelu_tanh':
      return gelu(up, { approximate: 'tanh' })
    case 'relu':
      return relu(up)
    case 'relu2':
      return relu2(up)
  }
}
