// Functions of one tensor, or of two with NumPy's broadcasting, element by element.
import { type Handle, native } from '../native.ts'
import type { Ops } from '../signatures.ts'
import { dtypeCode, record, Tensor } from '../tensor.ts'
import { asTensor } from './create.ts'
import { sumTo } from './reduce.ts'

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

/** One or both operands of a binary operation are tensors; numbers take part in the other's dtype. */
export type Operand = Tensor | number

type Binary = 'add' | 'sub' | 'mul' | 'div' | 'pow' | 'maximum' | 'minimum'
type Comparison = 'eq' | 'ne' | 'lt' | 'le' | 'gt' | 'ge'

// A gradient in the shape and dtype of the operand it belongs to.
function fitted(d: Tensor, x: Tensor): Tensor {
  const summed = sumTo(d, x.shape)
  return summed.dtype === x.dtype ? summed : new Tensor(native.cast(summed.handle, dtypeCode(x.dtype)))
}

/** Gradients of the first and the second operand, in the shape of the result. */
type Slope = (a: Tensor, b: Tensor, dy: Tensor) => Tensor
const wrap = (handle: Handle): Tensor => new Tensor(handle)

function binary(name: Binary, byA?: Slope, byB?: Slope) {
  const slopeA: Slope = byA ?? ((a, b, dy) => wrap(native[`${name}Grad`](true, a.handle, b.handle, dy.handle)))
  const slopeB: Slope = byB ?? ((a, b, dy) => wrap(native[`${name}Grad`](false, a.handle, b.handle, dy.handle)))
  return (a: Operand, b: Operand): Tensor => {
    if (a instanceof Tensor) {
      if (b instanceof Tensor)
        return record(name, native[name](a.handle, b.handle), [a, b], (dy) => [
          a.tracked ? fitted(slopeA(a, b, dy), a) : null,
          b.tracked ? fitted(slopeB(a, b, dy), b) : null,
        ])
      return record(name, native[`${name}Scalar`](a.handle, b, false), [a], (dy) => [
        fitted(slopeA(a, asTensor(b, dy), dy), a),
      ])
    }
    if (b instanceof Tensor)
      return record(name, native[`${name}Scalar`](b.handle, a, true), [b], (dy) => [
        fitted(slopeB(asTensor(a, dy), b, dy), b),
      ])
    throw new TypeError(`${name}: at least one operand should be a tensor`)
  }
}
const same: Slope = (_a, _b, dy) => dy

/** a + b, with NumPy's broadcasting: shapes are aligned at the end, and axes of length 1 are repeated. */
export const add = binary('add', same, same)
/** a - b */
export const sub = binary('sub', same, (_a, _b, dy) => wrap(native.neg(dy.handle)))
/** a b, element by element */
export const mul = binary(
  'mul',
  (_a, b, dy) => wrap(native.mul(dy.handle, b.handle)),
  (a, _b, dy) => wrap(native.mul(dy.handle, a.handle)),
)
/** a / b; a quotient of integers is a float32. */
export const div = binary('div', (_a, b, dy) => wrap(native.div(dy.handle, b.handle)))
/** a to the power of b. The gradient by b is 0 where a is 0 and b is not negative. */
export const pow = binary('pow')
/** The larger of a and b; a NaN in either wins. Where they are equal, each gets half the gradient. */
export const maximum = binary('maximum')
/** The smaller of a and b; a NaN in either wins. Where they are equal, each gets half the gradient. */
export const minimum = binary('minimum')

const mirrored = { eq: 'eq', ne: 'ne', lt: 'gt', le: 'ge', gt: 'lt', ge: 'le' } as const
const comparison =
  (name: Comparison) =>
  (a: Operand, b: Operand): Tensor<'bool'> => {
    if (a instanceof Tensor)
      return new Tensor(b instanceof Tensor ? native[name](a.handle, b.handle) : native[`${name}Scalar`](a.handle, b))
    if (b instanceof Tensor) return new Tensor(native[`${mirrored[name]}Scalar`](b.handle, a))
    throw new TypeError(`${name}: at least one operand should be a tensor`)
  }
/** a == b, as bools. Comparisons with NaN are false, except `ne`. */
export const eq = comparison('eq')
/** a != b */
export const ne = comparison('ne')
/** a < b */
export const lt = comparison('lt')
/** a <= b */
export const le = comparison('le')
/** a > b */
export const gt = comparison('gt')
/** a >= b */
export const ge = comparison('ge')

/** a where the condition is true (not 0), else b; all three are broadcast together. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  const like = a instanceof Tensor ? a : b instanceof Tensor ? b : null
  const x = like ? asTensor(a, like) : asTensor(a, wrap(native.full([], 0, 0, 0)))
  const z = asTensor(b, x)
  return record(
    'where',
    native.where(condition.handle, x.handle, z.handle),
    [x, z],
    (dy) => {
      const zero = asTensor(0, dy)
      return [
        x.tracked ? fitted(wrap(native.where(condition.handle, dy.handle, zero.handle)), x) : null,
        z.tracked ? fitted(wrap(native.where(condition.handle, zero.handle, dy.handle)), z) : null,
      ]
    },
    [condition],
  )
}

/** x limited to [min, max]: `clamp(x, 0, 1)` or `clamp(x, { max: 1 })`; either may be left out. The gradient passes where x lies inside or on a bound. NaN stays. */
export function clamp(x: Tensor, min: number | { min?: number; max?: number } = {}, max?: number): Tensor {
  const bounds = typeof min === 'number' ? { min, max } : { max, ...min }
  const low = bounds.min ?? Number.NEGATIVE_INFINITY
  const high = bounds.max ?? Number.POSITIVE_INFINITY
  return record('clamp', native.clamp(x.handle, low, high), [x], (dy) => [
    wrap(native.clampGrad(x.handle, dy.handle, low, high)),
  ])
}
/**
 * SwiGLU: `silu(gate) * up`, computed in float32 (float64 for float64) with one rounding at the end.
 * @param gate any shape, float
 * @param up the shape of `gate`
 * @throws Error if the shapes differ
 */
export const swiglu = (gate: Tensor, up: Tensor): Tensor =>
  record('swiglu', native.swiglu(gate.handle, up.handle), [gate, up], (dy) =>
    native.swigluGrad(gate.handle, up.handle, dy.handle).map((d) => new Tensor(d)),
  )
