// Products with a polynomial activation in them (cuda/gemm_poly_sm80.cu), called directly: ragged tiles, groups, depths
// shorter than the ring. Operands are small sixteenths, so the sums of the product are exact and every rounding is known.
import { describe, expect, test } from 'vitest'
import { type Handle, native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { type Dtype, Tensor } from '../../lib/tensor.ts'
import { expectClose, numbers, uniforms } from '../check.ts'

type Step = 'relu' | 'reluGrad' | 'squares' | 'normInside'
interface Beside {
  order: number
  weight?: Tensor
  bias?: Tensor
  /** h, or what takes the product as it was before the activation. */
  beside?: Tensor
  norms?: Tensor
  kept?: Tensor
  sums?: Tensor
  offsets?: Tensor
}
type Call = (
  kernel: string,
  step: Step,
  a: Handle,
  b: Handle,
  y: Handle,
  ...rest: (number | Handle | null)[]
) => boolean
const multiply = (step: Step, a: Tensor, b: Tensor, y: Tensor, c: Beside): boolean =>
  (native as unknown as { testPolyProduct: Call }).testPolyProduct(
    'sm_80',
    step,
    a.handle,
    b.handle,
    y.handle,
    c.order,
    ...[c.weight, c.bias, c.beside, c.norms, c.kept, c.sums, c.offsets].map((t) => t?.handle ?? null),
  )

const partCols = 64
const tile = 128

const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)
/** Multiples of 1 / grain in [-most, most]. */
const grains = (shape: readonly number[], seed: number, most: number, grain = 16): Float64Array => {
  const next = uniforms(seed)
  const steps = 2 * most * grain + 1
  return Float64Array.from({ length: count(shape) }, () => Math.floor(next() * steps) / grain - most)
}
const nan = (shape: readonly number[], dtype: Dtype = 'float32'): Tensor =>
  tensor(new Float64Array(count(shape)).fill(Number.NaN), { shape: [...shape], dtype })
const of = (data: Float64Array, shape: readonly number[], dtype: Dtype = 'float32'): Tensor =>
  tensor(data, { shape: [...shape], dtype })
const rounded = (data: Float64Array, dtype: Dtype): Float64Array => numbers(tensor(data, { dtype }))

interface Case {
  m: number
  n: number
  k: number
  order: number
  dtype: 'bfloat16' | 'float16'
  /** Where the groups of rows begin. */
  groups?: number[]
  /** Each group has coefficients of its own. */
  sets?: boolean
}
const cases: Case[] = [
  { m: 128, n: 128, k: 64, order: 3, dtype: 'bfloat16' },
  { m: 72, n: 40, k: 8, order: 3, dtype: 'bfloat16' }, // less than a part, a tile and a stage
  { m: 131, n: 200, k: 40, order: 2, dtype: 'bfloat16' }, // ragged everywhere; two stages
  { m: 257, n: 136, k: 168, order: 4, dtype: 'bfloat16' }, // more stages than the ring has
  { m: 130, n: 264, k: 96, order: 3, dtype: 'float16' }, // as many as it holds
  { m: 1, n: 8, k: 128, order: 3, dtype: 'bfloat16' },
  { m: 300, n: 200, k: 72, order: 3, dtype: 'bfloat16', groups: [0, 70, 70, 71, 290, 300], sets: true },
  { m: 150, n: 72, k: 40, order: 2, dtype: 'bfloat16', groups: [0, 0, 133, 150] },
]
const title = (c: Case): string =>
  `(${c.m}, ${c.k}) @ (${c.k}, ${c.n}), order ${c.order}, ${c.dtype}${c.groups ? `, groups ${c.groups}` : ''}`

/** Everything a case is about: operands, their exact product, the group of each row, the coefficients by power. */
function problem(c: Case, seed: number) {
  const { m, n, k, order } = c
  const experts = c.groups ? c.groups.length - 1 : 1
  const group = (row: number): number => (c.groups ? c.groups.findLastIndex((start) => start <= row) : 0)
  const a = grains([m, k], seed, 1)
  const b = grains([experts, k, n], seed + 1, 1, 8)
  const product = (left: Float64Array): Float64Array => {
    const y = new Float64Array(m * n)
    for (let i = 0; i < m; i++)
      for (let l = 0; l < k; l++) {
        const v = left[i * k + l]!
        for (let j = 0; j < n; j++) y[i * n + j]! += v * b[(group(i) * k + l) * n + j]!
      }
    return y
  }
  const sets = c.sets ? experts : 1
  const weight = grains([sets, order], seed + 2, 2)
  const bias = grains([sets], seed + 3, 2)
  /** Coefficients of a row, from the bias on. */
  const w = (row: number): number[] => {
    const s = c.sets ? group(row) : 0
    return [bias[s]!, ...Array.from({ length: order }, (_, i) => weight[s * order + order - 1 - i]!)]
  }
  const given = {
    order,
    weight: of(weight, c.sets ? [sets, order] : [order]),
    bias: of(bias, [sets]),
    ...(c.groups && { offsets: tensor(c.groups, { dtype: 'int32' }) }),
  }
  /** b as the kernel has it: its columns in order, or its rows. */
  const operand = (turned: boolean): Tensor => {
    const shape = c.groups ? [experts, k, n] : [k, n]
    if (!turned) return of(b, shape, c.dtype)
    const flipped = new Float64Array(b.length)
    b.forEach((v, i) => {
      const inner = i % (k * n)
      flipped[i - inner + (inner % n) * k + Math.floor(inner / n)] = v
    })
    return new Tensor(native.transpose(of(flipped, [...shape.slice(0, -2), n, k], c.dtype).handle, -1, -2))
  }
  return { a, product, w, given, operand, group, experts }
}
const polynomial = (w: readonly number[], x: number): number => w.reduce((sum, c, i) => sum + c * x ** i, 0)
const exact = (got: Tensor, data: Float64Array, shape: readonly number[], what: string): void =>
  expectClose(got, { shape, data }, 0, what)
/** A value of the type's may round either way where the sum in float lies close to the middle. */
const ulp = { bfloat16: 2 ** -8, float16: 2 ** -11 }

describe.each(cases.map((c) => [title(c), c] as const))('%s', (_, c) => {
  const { m, n, k, dtype } = c
  const R = c.order
  const shape = [m, n]
  const parts = Math.ceil(n / partCols)

  test('relu', () => {
    const { a, product, w, given, operand } = problem(c, 1)
    const h = rounded(product(a), dtype)
    const y = h.map((v, i) => polynomial(w(Math.floor(i / n)), Math.max(v, 0)))
    const [to, pre] = [nan(shape, dtype), nan(shape, dtype)]
    expect(multiply('relu', of(a, [m, k], dtype), operand(true), to, { ...given, beside: pre })).toBe(true)
    exact(pre, h, shape, 'pre')
    expectClose(to, { shape, data: y }, ulp[dtype], 'y')
    const alone = nan(shape, dtype)
    expect(multiply('relu', of(a, [m, k], dtype), operand(true), alone, given)).toBe(true)
    exact(alone, numbers(to), shape, 'y without pre')
  })

  test('reluGrad', () => {
    const { a, product, w, given, operand, group, experts } = problem(c, 11)
    const h = grains(shape, 15, 2, 8)
    const dy = product(a)
    const dh = dy.map((d, i) => {
      const slope = w(Math.floor(i / n)).map((v, p) => p * v)
      return h[i]! <= 0 ? 0 : d * polynomial(slope.slice(1), h[i]!)
    })
    const across = Math.ceil(n / tile)
    const starts = c.groups ?? [0, m]
    const bandsOf = (g: number) => Math.ceil((starts[g + 1]! - starts[g]!) / tile)
    const bands = Array.from({ length: experts }, (_, g) => bandsOf(g)).reduce((p, q) => p + q)
    const sums = new Float64Array(bands * across * (R + 1))
    const sizes = new Float64Array(sums.length)
    for (let i = 0; i < m; i++) {
      const g = group(i)
      let band = Math.floor((i - starts[g]!) / tile)
      for (let e = 0; e < g; e++) band += bandsOf(e)
      for (let j = 0; j < n; j++)
        for (let p = 0; p <= R; p++) {
          const at = (band * across + Math.floor(j / tile)) * (R + 1) + p
          const term = dy[i * n + j]! * Math.max(h[i * n + j]!, 0) ** p
          sums[at]! += term
          sizes[at]! += Math.abs(term)
        }
    }
    const to = nan(shape, dtype)
    const all = [Math.floor(m / tile) + experts, across, R + 1]
    const got = nan(all)
    const beside = of(h, shape, dtype)
    expect(multiply('reluGrad', of(a, [m, k], dtype), operand(false), to, { ...given, beside, sums: got })).toBe(true)
    expectClose(to, { shape, data: dh }, ulp[dtype], 'dh')
    expectSums(numbers(got).subarray(0, sums.length), sums, sizes)
    // Slots of tiles that there are none of stay as they were.
    expect(numbers(got).subarray(sums.length).every(Number.isNaN)).toBe(true)
  })

  test('squares', () => {
    const { a, product, given, operand } = problem(c, 21)
    const y = rounded(product(a), dtype)
    const to = nan(shape, dtype)
    const got = nan([m, parts, R])
    expect(multiply('squares', of(a, [m, k], dtype), operand(true), to, { ...given, sums: got })).toBe(true)
    exact(to, y, shape, 'y')
    const sums = rowSums(c, (i, p) => y[i]! ** (2 * p + 2))
    expectSums(numbers(got), sums.sums, sums.sizes)
  })

  test('normInside', () => {
    const { a, product, w, given, operand } = problem(c, 41)
    const norms = grains([m, R + 1], 45, 2, 4).map((v, i) => (i % (R + 1) ? 0.25 + Math.abs(v) : 2 ** Math.round(v)))
    const y = a.map((x, i) => {
      const row = Math.floor(i / k)
      const [scale, ...inverse] = [...norms.subarray(row * (R + 1), (row + 1) * (R + 1))]
      return polynomial(
        w(row).map((v, p) => (p ? v * inverse[p - 1]! : v)),
        x * scale!,
      )
    })
    const to = nan(shape, dtype)
    const kept = nan([m, k], dtype)
    const call = { ...given, norms: of(norms, [m, R + 1]), kept }
    expect(multiply('normInside', of(a, [m, k], dtype), operand(true), to, call)).toBe(true)
    expectClose(to, { shape, data: product(rounded(y, dtype)) }, 2 * ulp[dtype], 'y')
    expectClose(kept, { shape: [m, k], data: y }, ulp[dtype], 'polyNorm(a)')
    const alone = nan(shape, dtype)
    expect(multiply('normInside', of(a, [m, k], dtype), operand(true), alone, { ...call, kept: undefined })).toBe(true)
    exact(alone, numbers(to), shape, 'y where polyNorm(a) is not kept')
  })
})

test('normInside: nothing lies beyond the depth, not even the bias', () => {
  const [m, n, order] = [9, 16, 3]
  for (const k of [8, 40, 72]) {
    const ones = (shape: number[]): Float64Array => new Float64Array(count(shape)).fill(1)
    const to = nan([m, n], 'bfloat16')
    const b = new Tensor(native.transpose(of(ones([n, k]), [n, k], 'bfloat16').handle, -1, -2))
    // Infinity times the zeros of b would be NaN.
    multiply('normInside', of(ones([m, k]), [m, k], 'bfloat16'), b, to, {
      order,
      weight: of(ones([order]), [order]),
      bias: tensor([Number.POSITIVE_INFINITY]),
      norms: of(ones([m, order + 1]), [m, order + 1]),
    })
    exact(to, ones([m, n]).fill(Number.POSITIVE_INFINITY), [m, n], `depth ${k}`)
  }
})

test('a NaN stays in its row, in every step', () => {
  const c: Case = { m: 40, n: 72, k: 16, order: 3, dtype: 'bfloat16' }
  const [shape, bad] = [[c.m, c.n], 33]
  const { a, given, operand } = problem(c, 51)
  a[bad * c.k + 5] = Number.NaN
  const inRow = (data: Float64Array, cols: number, what: string) =>
    data.forEach((v, i) => {
      if (Number.isNaN(v) !== (Math.floor(i / cols) === bad)) expect.fail(`${what}: element ${i} is ${v}`)
    })
  const operandA = of(a, [c.m, c.k], c.dtype)
  for (const step of ['relu', 'squares', 'normInside'] as const) {
    const [y, pre, sums] = [nan(shape, c.dtype), nan(shape, c.dtype), nan([c.m, 2, 3])]
    const norms = of(new Float64Array(c.m * 4).fill(1), [c.m, 4])
    multiply(step, operandA, operand(true), y, { ...given, norms, sums, ...(step === 'relu' && { beside: pre }) })
    inRow(numbers(y), c.n, step)
    if (step === 'relu') inRow(numbers(pre), c.n, 'pre')
    if (step === 'squares') inRow(numbers(sums), 2 * 3, 'sums')
  }
  const h = new Float64Array(c.m * c.n).fill(1)
  h.fill(Number.NaN, bad * c.n, (bad + 1) * c.n)
  const dh = nan(shape, c.dtype)
  const finite = of(problem(c, 51).a, [c.m, c.k], c.dtype)
  multiply('reluGrad', finite, operand(false), dh, { ...given, beside: of(h, shape, c.dtype), sums: nan([1, 1, 4]) })
  inRow(numbers(dh), c.n, 'dh')
})

test('what there is no kernel for is left to others', () => {
  const c: Case = { m: 16, n: 16, k: 16, order: 3, dtype: 'bfloat16' }
  const tried = (step: Step, n: number, k: number, dtype: Dtype, order: number, turned: boolean, shift = 0) => {
    const all = nan([k + 1, n], dtype)
    const flipped = new Tensor(native.transpose(nan([n, k], dtype).handle, -1, -2))
    const b = turned ? flipped : all.slice(0, 0, k)
    const a = nan([c.m, k + shift], dtype).slice(1, shift, k + shift)
    const [weight, bias] = [nan([order]), nan([1])]
    const beside = step === 'relu' ? undefined : nan([c.m, n], dtype)
    const [norms, sums] = [nan([c.m, order + 1]), nan([c.m, Math.ceil(n / partCols), order + 1])]
    return multiply(step, a, b, nan([c.m, n], dtype), { order, weight, bias, beside, norms, sums })
  }
  expect(tried('relu', 16, 16, 'bfloat16', 3, true)).toBe(true)
  expect(tried('reluGrad', 16, 16, 'bfloat16', 3, false)).toBe(true)
  expect(tried('relu', 16, 16, 'bfloat16', 3, false)).toBe(false)
  expect(tried('reluGrad', 16, 16, 'bfloat16', 3, true)).toBe(false)
  expect(tried('relu', 16, 16, 'float32', 3, true)).toBe(false)
  expect(tried('relu', 16, 16, 'float16', 2, true)).toBe(false)
  expect(tried('relu', 16, 16, 'bfloat16', 5, true)).toBe(false)
  expect(tried('relu', 16, 16, 'bfloat16', 1, true)).toBe(false)
  expect(tried('relu', 12, 16, 'bfloat16', 3, true)).toBe(false)
  expect(tried('relu', 16, 12, 'bfloat16', 3, true)).toBe(false)
  expect(tried('relu', 16, 16, 'bfloat16', 3, true, 1)).toBe(false)
  expect(tried('normInside', 16, 16, 'bfloat16', 3, true)).toBe(true)
})

/** Sums over each part of each row, and of the sizes of what is added. */
function rowSums({ m, n, order: powers }: Case, term: (at: number, power: number) => number) {
  const parts = Math.ceil(n / partCols)
  const sums = new Float64Array(m * parts * powers)
  const sizes = new Float64Array(sums.length)
  for (let i = 0; i < m * n; i++)
    for (let p = 0; p < powers; p++) {
      const at = (Math.floor(i / n) * parts + Math.floor((i % n) / partCols)) * powers + p
      sums[at]! += term(i, p)
      sizes[at]! += Math.abs(term(i, p))
    }
  return { sums, sizes }
}
/** float32's precision, of what was added. */
function expectSums(got: Float64Array, sums: Float64Array, sizes: Float64Array): void {
  expect(got.length).toBe(sums.length)
  for (let i = 0; i < sums.length; i++)
    if (!(Math.abs(got[i]! - sums[i]!) <= 2 ** -20 * sizes[i]!))
      expect.fail(`sum ${i} is ${got[i]}, expected ${sums[i]}`)
}
