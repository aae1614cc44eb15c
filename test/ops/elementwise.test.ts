import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { arange, ops, type Tensor, tensor } from '../../lib/index.ts'
import { checkOp, numbers } from '../check.ts'
import { elementwise } from '../nd.ts'
import { activations, sigmoid } from '../reference/activation.ts'

const shapes = [[[3, 5]], [[0, 4]], [[]], [[1]], [[7, 33]], [[2, 3, 5]]]
const pairs = [
  [
    [3, 5],
    [3, 5],
  ],
  [[3, 5], [5]],
  [
    [4, 1, 3],
    [2, 1],
  ],
  [[], [2, 3]],
  [
    [0, 3],
    [1, 3],
  ],
  [[1], [1]],
  [
    [7, 33],
    [7, 1],
  ],
]
// Away from the kinks, where a central difference means nothing.
const smooth = (u: number): number => {
  const v = 4 * u - 2
  return Math.abs(v) < 0.05 ? v + 0.1 : v
}

const unary: Record<string, [(x: Tensor) => Tensor, (x: number) => number]> = {
  neg: [ops.neg, (x) => -x],
  exp: [ops.exp, Math.exp],
  sqrt: [ops.sqrt, Math.sqrt],
  log: [ops.log, Math.log],
  abs: [ops.abs, Math.abs],
  sign: [ops.sign, Math.sign],
  sin: [ops.sin, Math.sin],
  cos: [ops.cos, Math.cos],
  tanh: [ops.tanh, Math.tanh],
  sigmoid: [ops.sigmoid, sigmoid],
  relu: [ops.relu, activations.relu],
  relu2: [ops.relu2, activations.relu2],
  silu: [ops.silu, activations.silu],
  gelu: [ops.gelu, activations.gelu],
  geluTanh: [(x) => ops.gelu(x, { approximate: 'tanh' }), activations.geluTanh],
}
for (const [name, [op, oracle]] of Object.entries(unary))
  checkOp({
    name,
    op,
    oracle: elementwise(oracle),
    cases: shapes,
    values: name === 'log' || name === 'sqrt' ? (u) => 0.1 + 3 * u : smooth,
    // Of the approximation of tanh and sigmoid near 0 in float32, and of the 16-bit types' own rounding.
    tolerance: { bfloat16: 2 ** -7, float16: 2 ** -10 },
  })

const binary: Record<string, [(a: Tensor, b: Tensor) => Tensor, (a: number, b: number) => number]> = {
  add: [ops.add, (a, b) => a + b],
  sub: [ops.sub, (a, b) => a - b],
  mul: [ops.mul, (a, b) => a * b],
  div: [ops.div, (a, b) => a / b],
  pow: [ops.pow, (a, b) => (Number.isNaN(a) && b === 0 ? 1 : a ** b)],
  maximum: [ops.maximum, Math.max],
  minimum: [ops.minimum, Math.min],
}
for (const [name, [op, oracle]] of Object.entries(binary))
  checkOp({
    name,
    op,
    oracle: elementwise(oracle!),
    cases: pairs,
    values: (u, input) => (name === 'pow' && input === 0 ? 0.2 + 2 * u : name === 'div' && input ? 0.5 + u : 4 * u - 2),
  })

checkOp({
  name: 'where',
  op: (c, a, b) => ops.where(c!, a!, b!),
  oracle: elementwise((c, a, b) => (c ? a! : b!)),
  cases: [
    [
      [3, 5],
      [3, 5],
      [3, 5],
    ],
    [[5], [3, 1], []],
    [[2, 0], [2, 1], [1]],
  ],
  values: (u, input) => (input === 0 ? (u < 0.5 ? 0 : 1) : 4 * u - 2),
  integers: { 0: 'bool' },
  nan: false,
})
checkOp({
  name: 'clamp',
  op: (x) => ops.clamp(x, -0.7, 1.1),
  oracle: elementwise((x) => (x < -0.7 ? -0.7 : x > 1.1 ? 1.1 : x)),
  cases: shapes,
  tolerance: { bfloat16: 2 ** -7, float16: 2 ** -10 },
})

describe('with numbers', () => {
  const scalars: Record<string, [(x: Tensor) => Tensor, (x: number) => number]> = {
    'x + 2': [(x) => x.add(2), (x) => x + 2],
    '2 - x': [(x) => ops.sub(2, x), (x) => 2 - x],
    '0.3 x': [(x) => x.mul(0.3), (x) => 0.3 * x],
    'x / 3': [(x) => x.div(3), (x) => x / 3],
    '3 / x': [(x) => ops.div(3, x), (x) => 3 / x],
    'x ** 2': [(x) => x.pow(2), (x) => x ** 2],
    'x ** 3': [(x) => x.pow(3), (x) => x ** 3],
    '1.5 ** x': [(x) => ops.pow(1.5, x), (x) => 1.5 ** x],
    'max(x, 0.1)': [(x) => x.maximum(0.1), (x) => Math.max(x, 0.1)],
    'min(0.1, x)': [(x) => ops.minimum(0.1, x), (x) => Math.min(x, 0.1)],
  }
  for (const [name, [op, oracle]] of Object.entries(scalars))
    checkOp({
      name,
      op,
      oracle: elementwise(oracle),
      cases: [[[3, 5]], [[]], [[0]]],
      values: (u) => (u < 0.5 ? -2 : 0.3) + u,
      dtypes: ['float64', 'float32'],
    })
})

test('the gradients of integers, fractions and NaN in comparisons and promotions', () => {
  const i = arange(4)
  expect([i.add(1).dtype, i.add(0.5).dtype, i.div(2).dtype, i.mul(tensor([2], { dtype: 'bfloat16' })).dtype]).toEqual([
    'int32',
    'float32',
    'float32',
    'bfloat16',
  ])
  expect([...i.div(0).dataSync()]).toEqual([Number.NaN, Infinity, Infinity, Infinity])
  expect([...i.lt(1.5).dataSync()]).toEqual([1, 1, 0, 0])
  expect([...ops.lt(1, i).dataSync()]).toEqual([0, 0, 1, 1])
  const n = tensor([Number.NaN, 1])
  expect([...n.eq(n).dataSync()]).toEqual([0, 1])
  expect([...n.ne(n).dataSync()]).toEqual([1, 0])
  expect([...n.maximum(0).dataSync()]).toEqual([Number.NaN, 1])
  expect(() => i.log()).toThrow('log: x is int32')
  expect(() => ops.add(tensor([1, 2]), tensor([1, 2, 3]))).toThrow(
    'add: shapes [2] and [3] cannot be broadcast together',
  )
  expect(() => ops.add(1, 2 as never)).toThrow('at least one operand')
  const big = tensor([2n ** 60n], { dtype: 'int64' })
  expect(big.add(1).dataSync<'int64'>()[0]).toBe(2n ** 60n + 1n)
  expect(big.eq(2 ** 60).itemSync()).toBe(1)
})

test('pow has a gradient at 0', () => {
  const x = tensor([0, 0], { dtype: 'float64', requiresGrad: true })
  const e = tensor([0, 2], { dtype: 'float64', requiresGrad: true })
  ops.pow(x, e).sum().backward()
  expect([...numbers(x.grad!)]).toEqual([0, 0])
  expect([...numbers(e.grad!)]).toEqual([0, 0])
})

test('equal operands of maximum share the gradient', () => {
  const a = tensor([1, 2], { requiresGrad: true })
  const b = tensor([1, 1], { requiresGrad: true })
  a.maximum(b).sum().backward()
  expect([...numbers(a.grad!), ...numbers(b.grad!)]).toEqual([0.5, 1, 0.5, 0])
})

test('any two shapes that fit are broadcast as NumPy does', () => {
  const dims = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 5 })
  fc.assert(
    fc.property(dims, fc.array(fc.boolean(), { minLength: 10, maxLength: 10 }), fc.nat(5), (shape, ones, drop) => {
      const a = shape.map((d, i) => (ones[i] ? 1 : d))
      const b = shape.map((d, i) => (ones[i + 5] ? 1 : d)).slice(Math.min(drop, shape.length))
      const fill = (s: number[], from: number) => ({
        shape: s,
        data: Float64Array.from({ length: s.reduce((n, d) => n * d, 1) }, (_, i) => from + i),
      })
      const [x, y] = [fill(a, 1), fill(b, 100)]
      const got = ops.sub(
        tensor(x.data, { shape: a, dtype: 'float64' }),
        tensor(y.data, { shape: b, dtype: 'float64' }),
      )
      const expected = elementwise((u, v) => u! - v!)(x, y)
      expect(got.shape).toEqual(expected.shape)
      expect(numbers(got)).toEqual(expected.data)
    }),
    { numRuns: 300, seed: 1 },
  )
})
