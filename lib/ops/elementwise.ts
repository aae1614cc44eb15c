// Functions of one tensor, or of two with NumPy's broadcasting, element by element.
import { native } from '../native.ts'
import type { Ops } from '../signatures.ts'
import { record, Tensor } from '../tensor.ts'

/** Native functions of one tensor that have a `...Grad` twin. The compiler reads this list off the addon. */
type Unary = {
  [K in keyof Ops]: Parameters<Ops[K]>['length'] extends 1
    ? `${K}Grad` extends keyof Ops
      ? Parameters<Ops[`${K}Grad`]>['length'] extends 2
        ? K
        : never
      : never
    : never
}[keyof Ops]

const unary =
  (name: Unary) =>
  (x: Tensor): Tensor =>
    record(name, native[name](x.handle), [x], (dy) => [new Tensor(native[`${name}Grad`](x.handle, dy.handle))])

/** -x */
export const neg = unary('neg')
/** e to the power of x */
export const exp = unary('exp')
/** The natural logarithm. */
export const log = unary('log')
export const sqrt = unary('sqrt')
export const abs = unary('abs')
/** -1, 0 or 1. */
export const sign = unary('sign')
export const sin = unary('sin')
export const cos = unary('cos')
export const tanh = unary('tanh')
/** 1 / (1 + exp(-x)) */
export const sigmoid = unary('sigmoid')
/** max(x, 0); a NaN stays NaN. */
export const relu = unary('relu')
/** max(x, 0) squared. */
export const relu2 = unary('relu2')
/** x sigmoid(x) */
export const silu = unary('silu')
const geluErf = unary('gelu')
const geluTanh = unary('geluTanh')

/** x times the normal distribution function of x; with `approximate: 'tanh'` its usual approximation. */
export const gelu = (x: Tensor, options: { approximate?: 'none' | 'tanh' } = {}): Tensor =>
  options.approximate === 'tanh' ? geluTanh(x) : geluErf(x)
