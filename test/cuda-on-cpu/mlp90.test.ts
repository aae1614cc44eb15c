// Products with a polynomial activation on Hopper (cuda/gemm_poly_sm90.cu). Operands are sixteenths, so products are
// exact in float32, and what is computed from them is rounded in one place each.
import { afterAll, describe, expect, test } from 'vitest'
import { type Handle, native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { Tensor } from '../../lib/tensor.ts'
import { expectClose, numbers, uniforms } from '../check.ts'

type Step = 'relu' | 'reluGrad' | 'squares' | 'normInside'
type Half = 'bfloat16' | 'float16'
type TestProduct = (kernel: string, step: Step, ...rest: (number | Handle | null)[]) => boolean

interface Call {
  order?: number
  weight?: Tensor
  bias?: Tensor
  beside?: Tensor
  norms?: Tensor
  kept?: Tensor
  sums?: Tensor
  offsets?: Tensor
}
/** y in place; whether there is a kernel for such a product. */
const product = (step: Step, a: Tensor, b: Tensor, y: Tensor, c: Call): boolean =>
  (native as unknown as { testPolyProduct: TestProduct }).testPolyProduct(
    'sm_90',
    step,
    a.handle,
    b.handle,
    y.handle,
    c.order ?? 3,
    ...[c.weight, c.bias, c.beside, c.norms, c.kept, c.sums, c.offsets].map((t) => t?.handle ?? null),
  )

const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)
/** Sixteenths in [-1, 1]. */
const sixteenths = (shape: readonly number[], seed: number): Float64Array => {
  const next = uniforms(seed)
  return Float64Array.from({ length: count(shape) }, () => (Math.floor(next() * 33) - 16) / 16)
}
const of = (data: Float64Array, shape: readonly number[], dtype: Half | 'float32'): Tensor =>
  tensor(data, { shape, dtype })
const nan = (shape: readonly number[], dtype: Half | 'float32'): Tensor =>
  of(new Float64Array(count(shape)).fill(Number.NaN), shape, dtype)
const rounded = (data: Float64Array, dtype: Half): Float64Array => numbers(of(data, [data.length], dtype))
const tolerance = { bfloat16: 2 ** -8, float16: 2 ** -11 }
// Rows of a band, and of what a warpgroup has of it; columns of a tile.
const band128 = 128
const half = 64
const tileCols = 256

/** Rows offsets[g] to offsets[g + 1] of a (m, k) times matrix g of b (groups, k, n). */
function multiplied(a: Float64Array, b: Float64Array, [m, n, k]: readonly number[], offsets: readonly number[]) {
  const y = new Float64Array(m! * n!)
  for (let g = 0; g + 1 < offsets.length; g++)
    for (let i = offsets[g]!; i < offsets[g + 1]!; i++)
      for (let l = 0; l < k!; l++) {
        const v = a[i * k! + l]!
        for (let j = 0; j < n!; j++) y[i * n! + j]! += v * b[(g * k! + l) * n! + j]!
      }
  return y
}

interface Made {
  a: Float64Array
  b: Float64Array
  y: Float64Array
  h: Float64Array
  offsets: readonly number[]
  groupOf: (row: number) => number
}
const known = new Map<string, Made>()
/** Operands, their product and an h, made once. A depth of tiny numbers, so that powers of y stay near 1. */
function made(shape: readonly [number, number, number], offsets: readonly number[]): Made {
  const key = `${shape} ${offsets}`
  const found = known.get(key)
  if (found) return found
  const [m, n, k] = shape
  const a = sixteenths([m, k], 1)
  const b = sixteenths([offsets.length - 1, k, n], 2).map((v) => v / 8)
  const groupOf = (row: number): number => offsets.findIndex((_, g) => row < offsets[g + 1]!)
  const all = { a, b, y: multiplied(a, b, shape, offsets), h: sixteenths([m, n], 3), offsets, groupOf }
  known.set(key, all)
  return all
}

/** b (groups, k, n) as its kernel wants it: columns in order for relu, squares and normInside, else rows. */
function operand(b: Float64Array, groups: number, [, n, k]: readonly number[], turned: boolean, dtype: Half): Tensor {
  const shape = groups > 1 ? [groups, k!, n!] : [k!, n!]
  if (!turned) return of(b, shape, dtype)
  const flipped = new Float64Array(b.length)
  for (const [i, v] of b.entries()) {
    const inner = i % (n! * k!)
    flipped[i - inner + (inner % n!) * k! + Math.floor(inner / n!)] = v
  }
  const lies = groups > 1 ? [groups, n!, k!] : [n!, k!]
  return new Tensor(native.transpose(of(flipped, lies, dtype).handle, -1, -2))
}

/** Coefficients of each set, highest power first as files have them. */
const weights = (sets: number, order: number, seed: number): Float64Array =>
  sixteenths([sets, order], seed).map((v) => v / 2 + 0.25)
/** w[0] + w[1] x + ... */
const polynomial = (x: number, w: readonly number[]): number => w.reduceRight((sum, c) => sum * x + c, 0)
/** By power. */
const byPower = (weight: Float64Array, bias: Float64Array, order: number, set: number): number[] => [
  bias[set]!,
  ...weight.subarray(set * order, (set + 1) * order).toReversed(),
]

const here = process.env.CUDA_ON_CPU_CAPABILITY === '90'
const before = process.env.CUDA_ON_CPU_ORDER
afterAll(() => {
  if (before === undefined) delete process.env.CUDA_ON_CPU_ORDER
  else process.env.CUDA_ON_CPU_ORDER = before
})

type Shape = [number, number, number]
const cases: [Shape, number[] | undefined, number, Half, number][] = [
  // (m, n, k), offsets, order, dtype, sets
  [[64, 64, 16], undefined, 3, 'bfloat16', 1], // less than a tile, and than a stage
  [[128, 128, 64], undefined, 2, 'bfloat16', 1],
  [[200, 328, 136], undefined, 3, 'bfloat16', 1], // ragged everywhere, an odd number of stages
  [[200, 328, 136], undefined, 3, 'float16', 1],
  [[136, 264, 616], undefined, 4, 'bfloat16', 1], // more stages of depth than the ring has
  [[392, 776, 72], undefined, 3, 'bfloat16', 1], // more tiles than blocks
  [[8, 8, 8], undefined, 3, 'bfloat16', 1],
  [[470, 200, 72], [0, 70, 70, 71, 210, 340, 470], 3, 'bfloat16', 6],
  [[470, 136, 72], [0, 70, 70, 71, 210, 340, 470], 2, 'bfloat16', 1], // one set for all groups
  [[300, 264, 40], [0, 0, 300, 300], 3, 'float16', 3],
]

describe.runIf(here).each(['forward', 'reversed'])('%s', (direction) => {
  for (const [shape, groups, order, dtype, sets] of cases) {
    const [m, n, k] = shape
    const offsets = groups ?? [0, m]
    const given = () => (groups ? tensor(groups, { dtype: 'int32' }) : undefined)
    const title = `(${m}, ${k}) @ (${k}, ${n}), order ${order}, ${dtype}${groups ? `, ${groups.length - 1} groups` : ''}`
    const run = (name: string, body: () => void) =>
      test(`${name}: ${title}`, () => {
        process.env.CUDA_ON_CPU_ORDER = direction
        body()
      })
    const setOf = (all: Made, row: number): number => (sets > 1 ? all.groupOf(row) : 0)
    const coefficients = () => {
      const weight = weights(sets, order, 4)
      const bias = weights(sets, 1, 5)
      const call = {
        order,
        weight: of(weight, sets > 1 ? [sets, order] : [order], 'float32'),
        bias: of(bias, [sets], 'float32'),
        offsets: given(),
      }
      return { weight, bias, call }
    }
    const columns = Math.ceil(n / tileCols)
    /** The sums of the even powers of each part of each row. */
    const rowSums = (y: Float64Array) => {
      const sums = new Float64Array(m * columns * order)
      for (let i = 0; i < m; i++)
        for (let j = 0; j < n; j++)
          for (let p = 0; p < order; p++)
            sums[(i * columns + Math.floor(j / tileCols)) * order + p]! += y[i * n + j]! ** (2 * p + 2)
      return sums
    }
    /** One power at a time: they are of different size. */
    const expectSums = (got: Tensor, expected: Float64Array, terms: number, allowed: number) => {
      const all = numbers(got)
      for (let p = 0; p < terms; p++) {
        const pick = (_: number, i: number) => i % terms === p
        const one = all.filter(pick)
        expectClose(
          tensor(one, { dtype: 'float64' }),
          { shape: [one.length], data: expected.filter(pick) },
          allowed,
          `sums ${p}`,
        )
      }
    }

    run('relu', () => {
      const all = made(shape, offsets)
      const { weight, bias, call } = coefficients()
      const h = rounded(all.y, dtype)
      const y = h.map((v, i) => polynomial(Math.max(v, 0), byPower(weight, bias, order, setOf(all, Math.floor(i / n)))))
      const operands = [of(all.a, [m, k], dtype), operand(all.b, offsets.length - 1, shape, true, dtype)] as const
      for (const keeps of [true, false]) {
        const [to, pre] = [nan([m, n], dtype), keeps ? nan([m, n], dtype) : undefined]
        expect(product('relu', ...operands, to, { ...call, beside: pre })).toBe(true)
        expectClose(to, { shape: [m, n], data: y }, tolerance[dtype], 'y')
        if (pre) expectClose(pre, { shape: [m, n], data: h }, 0, 'pre')
      }
    })

    run('reluGrad', () => {
      const all = made(shape, offsets)
      const { weight, bias, call } = coefficients()
      const h = all.h
      const dh = all.y.map((dy, i) => {
        const w = byPower(weight, bias, order, setOf(all, Math.floor(i / n)))
        const slopes = w.slice(1).map((c, p) => (p + 1) * c)
        return h[i]! > 0 ? dy * polynomial(h[i]!, slopes) : 0
      })
      // Bands of rows, of which every group begins one; in each the tiles of columns, of both warpgroups.
      const bands = offsets.slice(1).flatMap((end, g) => {
        const rows = end - offsets[g]!
        return Array.from({ length: Math.ceil(rows / band128) }, (_, b) => [
          offsets[g]! + b * band128,
          Math.min(end, offsets[g]! + (b + 1) * band128),
        ])
      })
      const sums = new Float64Array(bands.length * columns * 2 * (order + 1))
      for (const [band, [first, end]] of bands.entries())
        for (let i = first!; i < end!; i++)
          for (let j = 0; j < n; j++)
            for (let p = 0; p <= order; p++) {
              const part = (band * columns + Math.floor(j / tileCols)) * 2 + Math.floor((i - first!) / half)
              sums[part * (order + 1) + p]! += all.y[i * n + j]! * Math.max(h[i * n + j]!, 0) ** p
            }
      const operands = [of(all.a, [m, k], dtype), operand(all.b, offsets.length - 1, shape, false, dtype)] as const
      const [to, shares] = [nan([m, n], dtype), nan([bands.length, columns, 2, order + 1], 'float32')]
      expect(product('reluGrad', ...operands, to, { ...call, beside: of(h, [m, n], dtype), sums: shares })).toBe(true)
      expectClose(to, { shape: [m, n], data: dh }, tolerance[dtype], 'dh')
      expectSums(shares, sums, order + 1, 1e-5)
    })

    run('squares', () => {
      const all = made(shape, offsets)
      const y = rounded(all.y, dtype)
      const sums = rowSums(y)
      const operands = [of(all.a, [m, k], dtype), operand(all.b, offsets.length - 1, shape, true, dtype)] as const
      const [to, rows] = [nan([m, n], dtype), nan([m, columns, order], 'float32')]
      expect(product('squares', ...operands, to, { order, offsets: given(), sums: rows })).toBe(true)
      expectClose(to, { shape: [m, n], data: y }, 0, 'y')
      expectSums(rows, sums, order, 1e-5)
    })

    run('normInside', () => {
      const all = made(shape, offsets)
      const { weight, bias, call } = coefficients()
      const next = uniforms(6)
      // The scale, then an inverse norm for each power.
      const norms = Float64Array.from({ length: m * (order + 1) }, (_, i) =>
        i % (order + 1) ? (Math.floor(next() * 16) + 1) / 8 : 2 ** -(Math.floor(i / (order + 1)) % 3),
      )
      const values = all.a.map((x, at) => {
        const i = Math.floor(at / k)
        const own = norms.subarray(i * (order + 1), (i + 1) * (order + 1))
        const w = byPower(weight, bias, order, setOf(all, i)).map((c, p) => (p ? c * own[p]! : c))
        return polynomial(own[0]! * x, w)
      })
      const y = multiplied(rounded(values, dtype), all.b, shape, offsets)
      const to = nan([m, n], dtype)
      const operands = [of(all.a, [m, k], dtype), operand(all.b, offsets.length - 1, shape, true, dtype)] as const
      const kept = nan([m, k], dtype)
      const given = { ...call, norms: of(norms, [m, order + 1], 'float32') }
      expect(product('normInside', ...operands, to, { ...given, kept })).toBe(true)
      expectClose(to, { shape: [m, n], data: y }, 1.5 * tolerance[dtype], 'y')
      expectClose(kept, { shape: [m, k], data: values }, tolerance[dtype], 'polyNorm(a)')
      const alone = nan([m, n], dtype)
      expect(product('normInside', ...operands, alone, given)).toBe(true)
      expectClose(alone, { shape: [m, n], data: numbers(to) }, 0, 'y where polyNorm(a) is not kept')
    })
  }

  const positive = (shape: readonly number[], seed: number): Float64Array =>
    sixteenths(shape, seed).map((v) => v * v + 1)
  const order = 3
  const weight = () => of(Float64Array.of(0.5, 0.25, 0.75), [order], 'float32')

  test('what lies beside the matrices has no part in anything, where numbers are not finite', () => {
    process.env.CUDA_ON_CPU_ORDER = direction
    const shape: Shape = [72, 136, 72]
    const [m, n, k] = shape
    const b = positive([k, n], 7)
    const a = positive([m, k], 8)
    const h = of(positive([m, n], 9), [m, n], 'bfloat16')
    const norms = of(new Float64Array(m * (order + 1)).fill(1), [m, order + 1], 'float32')
    const infinite = (t: Tensor) => expect(numbers(t).every((v) => v === Number.POSITIVE_INFINITY)).toBe(true)

    const y = nan([m, n], 'bfloat16')
    const bias = of(Float64Array.of(Number.POSITIVE_INFINITY), [1], 'float32')
    const turned = operand(b, 1, shape, true, 'bfloat16')
    expect(product('normInside', of(a, [m, k], 'bfloat16'), turned, y, { weight: weight(), bias, norms })).toBe(true)
    infinite(y)

    a.fill(Number.POSITIVE_INFINITY)
    const left = of(a, [m, k], 'bfloat16')
    let sums = nan([m, 1, order], 'float32')
    expect(product('squares', left, turned, y, { sums })).toBe(true)
    infinite(sums)
    const right = operand(b, 1, shape, false, 'bfloat16')
    sums = nan([1, 2, order + 1], 'float32')
    expect(product('reluGrad', left, right, y, { beside: h, weight: weight(), sums })).toBe(true)
    infinite(sums)
    // Rows that are not there are zeros times what is infinite.
    b.fill(Number.POSITIVE_INFINITY)
    const one = of(new Float64Array(m * k).fill(1), [m, k], 'bfloat16')
    sums = nan([1, 2, order + 1], 'float32')
    const beside = { beside: h, weight: weight(), sums }
    expect(product('reluGrad', one, operand(b, 1, shape, false, 'bfloat16'), y, beside)).toBe(true)
    infinite(sums)
  })

  test('a NaN stays one', () => {
    process.env.CUDA_ON_CPU_ORDER = direction
    const [m, n, k] = [64, 64, 64]
    const a = new Float64Array(m * k).fill(1)
    a[5 * k + 3] = Number.NaN
    const operands = [of(a, [m, k], 'bfloat16'), operand(positive([k, n], 7), 1, [m, n, k], true, 'bfloat16')] as const
    const bias = of(Float64Array.of(1), [1], 'float32')
    const [y, pre] = [nan([m, n], 'bfloat16'), nan([m, n], 'bfloat16')]
    expect(product('relu', ...operands, y, { weight: weight(), bias, beside: pre })).toBe(true)
    for (const t of [y, pre])
      expect(numbers(t).every((v, i) => Number.isNaN(v) === (Math.floor(i / n) === 5))).toBe(true)
  })

  test('what there is no kernel for', () => {
    const [m, n, k] = [64, 64, 64]
    const call = { bias: of(Float64Array.of(1), [1], 'float32') }
    const tried = (step: Step, dtype: Half, of: number, [rows, cols, depth] = [m, n, k], turned = true): boolean => {
      const b = operand(sixteenths([depth!, cols!], 2), 1, [rows!, cols!, depth!], turned, dtype)
      const y = nan([rows!, cols!], dtype)
      const w = tensor(new Float64Array(of), { dtype: 'float32' })
      const sums = nan([rows!, 1, of], 'float32')
      const a = tensor(sixteenths([rows!, depth!], 1), { shape: [rows!, depth!], dtype })
      return product(step, a, b, y, { ...call, order: of, weight: w, sums })
    }
    expect(tried('relu', 'bfloat16', 3)).toBe(true)
    expect(tried('relu', 'bfloat16', 5)).toBe(false)
    expect(tried('relu', 'float16', 2)).toBe(false)
    expect(tried('relu', 'bfloat16', 3, [m, 60, k])).toBe(false)
    expect(tried('relu', 'bfloat16', 3, [m, n, 60])).toBe(false)
    expect(tried('relu', 'bfloat16', 3, [m, n, k], false)).toBe(false)
    expect(tried('squares', 'bfloat16', 3, [m, n, k], false)).toBe(false)
  })
})
