// The product on Hopper (cuda/gemm_sm90.cu): tiles copied by the copy engine, multiplied by warpgroups. Operands are
// sixteenths, which bf16 and f16 hold exactly, so float32 results are held to float32's precision.
import { afterAll, describe, expect, test } from 'vitest'
import { type Handle, native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { type Dtype, Tensor } from '../../lib/tensor.ts'
import { expectClose, numbers, uniforms } from '../check.ts'
import { unary } from '../reference.ts'

/** Of a tile, in the test that runs. */
let width = 0

interface Call {
  alpha?: number
  beta?: number
  bias?: Tensor
  pre?: Tensor
  residual?: Tensor
  activation?: number
  parts?: number
  grouped?: 1 | 2
  offsets?: Tensor
}
type TestProduct = (a: Handle, b: Handle, y: Handle, ...rest: (number | Handle | null)[]) => boolean

/** y in place; whether the kernel makes such a product at all. */
const product = (a: Tensor, b: Tensor, y: Tensor, c: Call = {}): boolean =>
  (native as unknown as { testProduct: TestProduct }).testProduct(
    a.handle,
    b.handle,
    y.handle,
    c.alpha ?? 1,
    c.beta ?? 0,
    c.bias?.handle ?? null,
    c.pre?.handle ?? null,
    c.residual?.handle ?? null,
    c.activation ?? -1,
    c.parts ?? 1,
    c.grouped ?? 0,
    c.offsets?.handle ?? null,
    width,
  )

const activation = (name: string): number => (native as unknown as { testUnary(name: string): number }).testUnary(name)

const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)
/** Sixteenths in [-2, 2]. */
const sixteenths = (shape: readonly number[], seed: number): Float64Array => {
  const next = uniforms(seed)
  return Float64Array.from({ length: count(shape) }, () => (Math.floor(next() * 65) - 32) / 16)
}

/** A matrix (or several) of these values; turned: in memory its columns lie in order. */
const matrix = (data: Float64Array, shape: readonly number[], dtype: Dtype, turned = false): Tensor => {
  if (!turned) return tensor(data, { shape: [...shape], dtype })
  const [rows, cols] = shape.slice(-2) as [number, number]
  const flipped = new Float64Array(data.length)
  data.forEach((v, i) => {
    const inner = i % (rows * cols)
    flipped[i - inner + (inner % cols) * rows + Math.floor(inner / cols)] = v
  })
  return new Tensor(native.transpose(matrix(flipped, [...shape.slice(0, -2), cols, rows], dtype).handle, -1, -2))
}

/** Adds a (m, k) @ b (k, n), which begin at these elements, to y (m, n). */
function add(y: Float64Array, a: Float64Array, b: Float64Array, [m, n, k]: readonly number[], at = [0, 0, 0]): void {
  for (let i = 0; i < m!; i++)
    for (let l = 0; l < k!; l++) {
      const v = a[at[0]! + i * k! + l]!
      for (let j = 0; j < n!; j++) y[at[2]! + i * n! + j]! += v * b[at[1]! + l * n! + j]!
    }
}
const known = new Map<string, { a: Float64Array; b: Float64Array; y: Float64Array }>()
/** Operands and their product, made once. */
function plain(m: number, n: number, k: number) {
  const key = `${m} ${n} ${k}`
  const made = known.get(key) ?? {
    a: sixteenths([m, k], 1),
    b: sixteenths([k, n], 2),
    y: new Float64Array(m * n),
  }
  if (!known.has(key)) add(made.y, made.a, made.b, [m, n, k])
  known.set(key, made)
  return made
}
const nan = (shape: readonly number[]): Float64Array => new Float64Array(count(shape)).fill(Number.NaN)

const exact = 2 ** -22
const tolerance = { float32: exact, bfloat16: 2 ** -8, float16: 2 ** -11 }
type Out = keyof typeof tolerance

const here = process.env.CUDA_ON_CPU_CAPABILITY === '90'
const order = process.env.CUDA_ON_CPU_ORDER
afterAll(() => {
  if (order === undefined) delete process.env.CUDA_ON_CPU_ORDER
  else process.env.CUDA_ON_CPU_ORDER = order
})

describe.runIf(here).each([
  ['forward', 256],
  ['forward', 128],
  ['reversed', 256],
  ['reversed', 128],
] as const)('%s, tiles of %i columns', (direction, cols) => {
  const run = (name: string, body: () => void) =>
    test(name, () => {
      process.env.CUDA_ON_CPU_ORDER = direction
      width = cols
      body()
    })

  const shapes: [number, number, number][] = [
    [64, 64, 16], // less than a tile, and than a stage
    [128, 128, 64],
    [256, 512, 128], // tiles of 256 columns
    [200, 328, 136], // ragged everywhere
    [136, 264, 616], // more stages of depth than the ring has
    [392, 776, 72], // more tiles than blocks
  ]
  for (const [turnA, turnB] of [
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ])
    for (const [m, n, k] of shapes)
      run(`(${m}, ${k}) @ (${k}, ${n})${turnA ? ', a turned' : ''}${turnB ? ', b turned' : ''}`, () => {
        const { a, b, y } = plain(m, n, k)
        for (const [dtype, out] of [
          ['bfloat16', 'float32'],
          ['bfloat16', 'bfloat16'],
          ['float16', 'float16'],
        ] as [Dtype, Out][]) {
          if (dtype === 'float16' && (turnA !== turnB || m > 200)) continue
          const to = matrix(nan([m, n]), [m, n], out)
          expect(product(matrix(a, [m, k], dtype, turnA), matrix(b, [k, n], dtype, turnB), to)).toBe(true)
          expectClose(to, { shape: [m, n], data: y }, tolerance[out], `${dtype}, ${out}`)
        }
      })

  run('rows of y that the copy engine cannot write', () => {
    const [m, n, k] = [150, 331, 72]
    const a = sixteenths([m, k], 3)
    const b = sixteenths([k, n], 4)
    const y = new Float64Array(m * n)
    add(y, a, b, [m, n, k])
    for (const out of ['float32', 'bfloat16'] as const) {
      const to = matrix(nan([m, n]), [m, n], out)
      expect(product(matrix(a, [m, k], 'bfloat16'), matrix(b, [k, n], 'bfloat16', true), to)).toBe(true)
      expectClose(to, { shape: [m, n], data: y }, tolerance[out], out)
    }
  })

  run('operands that the copy engine cannot read are left to others', () => {
    const y = matrix(nan([64, 64]), [64, 64], 'bfloat16')
    const declined = (a: Tensor, b: Tensor) => expect(product(a, b, y)).toBe(false)
    const even = matrix(sixteenths([64, 64], 5), [64, 64], 'bfloat16')
    const odd = (rows: number, cols: number) => matrix(sixteenths([rows, cols], 6), [rows, cols], 'bfloat16')
    declined(odd(64, 60), odd(60, 64))
    const shifted = new Tensor(native.slice(odd(64, 72).handle, 1, 3, 67, 1))
    declined(shifted, even)
    declined(even, shifted)
  })

  run('alpha and beta', () => {
    const [m, n, k] = [136, 200, 72]
    const a = sixteenths([m, k], 7)
    const b = sixteenths([k, n], 8)
    const before = sixteenths([m, n], 9)
    const ab = new Float64Array(m * n)
    add(ab, a, b, [m, n, k])
    for (const out of ['float32', 'bfloat16', 'float16'] as const)
      for (const [alpha, beta] of [
        [1, 1],
        [0.5, 1],
        [-1.5, 0],
        [2, -0.5],
      ] as const) {
        const dtype = out === 'float32' ? 'bfloat16' : out
        const to = matrix(before, [m, n], out)
        product(matrix(a, [m, k], dtype), matrix(b, [k, n], dtype), to, { alpha, beta })
        const expected = ab.map((v, i) => alpha * v + beta * before[i]!)
        expectClose(to, { shape: [m, n], data: expected }, tolerance[out], `${out} ${alpha} ${beta}`)
      }
  })

  run('bias, activation, what was before it, residual', () => {
    for (const [m, n] of [
      [136, 200],
      [130, 331],
      [256, 512],
    ] as const) {
      const k = 72
      const a = sixteenths([m, k], 10)
      const b = sixteenths([k, n], 11)
      const bias = sixteenths([n], 12)
      const residual = sixteenths([m, n], 13)
      const y = new Float64Array(m * n)
      add(y, a, b, [m, n, k])
      for (const out of ['float32', 'bfloat16'] as const) {
        const operands = [matrix(a, [m, k], 'bfloat16'), matrix(b, [k, n], 'bfloat16', true)] as const
        const withBias = y.map((v, i) => v + bias[i % n]!)
        const plain = matrix(nan([m, n]), [m, n], out)
        const add32 = matrix(bias, [n], 'float32')
        product(...operands, plain, { bias: add32 })
        expectClose(plain, { shape: [m, n], data: withBias }, tolerance[out], `${out} bias`)
        const to = matrix(nan([m, n]), [m, n], out)
        const pre = matrix(nan([m, n]), [m, n], out)
        product(...operands, to, {
          bias: add32,
          pre,
          residual: matrix(residual, [m, n], out),
          activation: activation('relu'),
        })
        expectClose(pre, { shape: [m, n], data: withBias }, tolerance[out], `${out} pre`)
        const full = withBias.map((v, i) => Math.max(v, 0) + residual[i]!)
        expectClose(to, { shape: [m, n], data: full }, tolerance[out], `${out} full`)
      }
    }
  })

  run('every activation', () => {
    const [m, n, k] = [64, 72, 32]
    const a = sixteenths([m, k], 22)
    const b = sixteenths([k, n], 23)
    const y = new Float64Array(m * n)
    add(y, a, b, [m, n, k])
    for (const name of ['relu', 'relu2', 'silu', 'gelu', 'geluTanh']) {
      const to = matrix(nan([m, n]), [m, n], 'float32')
      const of = [matrix(a, [m, k], 'bfloat16'), matrix(b, [k, n], 'bfloat16', true)] as const
      product(...of, to, { alpha: 0.25, activation: activation(name) })
      const expected = y.map((v) => unary[name]!.f(v / 4))
      expectClose(to, { shape: [m, n], data: expected }, 4e-6, name)
    }
  })

  run('batches: of both, of one repeated operand, of matrices in other orders', () => {
    const [batch, m, n, k] = [3, 136, 72, 80]
    const a = sixteenths([batch, m, k], 14)
    const b = sixteenths([batch, k, n], 15)
    for (const turned of [false, true]) {
      const y = new Float64Array(batch * m * n)
      for (let i = 0; i < batch; i++) add(y, a, b, [m, n, k], [i * m * k, i * k * n, i * m * n])
      const to = matrix(nan([batch, m, n]), [batch, m, n], 'float32')
      const of = [matrix(a, [batch, m, k], 'bfloat16', turned), matrix(b, [batch, k, n], 'bfloat16', turned)] as const
      expect(product(...of, to)).toBe(true)
      expectClose(to, { shape: [batch, m, n], data: y }, exact, 'both')
    }
    const y = new Float64Array(batch * m * n)
    for (let i = 0; i < batch; i++) add(y, a, b, [m, n, k], [i * m * k, 0, i * m * n])
    const one = new Tensor(native.broadcastTo(matrix(b.slice(0, k * n), [1, k, n], 'bfloat16').handle, [batch, k, n]))
    const to = matrix(nan([batch, m, n]), [batch, m, n], 'float32')
    expect(product(matrix(a, [batch, m, k], 'bfloat16'), one, to)).toBe(true)
    expectClose(to, { shape: [batch, m, n], data: y }, exact, 'repeated')
  })

  run('a sum over a batch, in parts too', () => {
    const [batch, m, n, k] = [3, 136, 264, 88]
    const a = sixteenths([batch, m, k], 16)
    const b = sixteenths([batch, k, n], 17)
    const y = new Float64Array(m * n)
    for (let i = 0; i < batch; i++) add(y, a, b, [m, n, k], [i * m * k, i * k * n, 0])
    const of = [matrix(a, [batch, m, k], 'bfloat16'), matrix(b, [batch, k, n], 'bfloat16')] as const
    const to = matrix(nan([m, n]), [m, n], 'float32')
    expect(product(...of, to)).toBe(true)
    expectClose(to, { shape: [m, n], data: y }, exact, 'sum')
    for (const parts of [2, 4, 6]) {
      const split = matrix(nan([parts, m, n]), [parts, m, n], 'float32')
      expect(product(...of, split, { parts })).toBe(true)
      const all = numbers(split)
      const joined = new Float64Array(m * n)
      for (let i = 0; i < all.length; i++) joined[i % (m * n)]! += all[i]!
      expectClose(tensor(joined, { shape: [m, n], dtype: 'float64' }), { shape: [m, n], data: y }, exact, `${parts}`)
      expect(
        all.subarray(0, m * n).some((v, i) => v !== y[i]),
        'the first part is not all',
      ).toBe(true)
    }
  })

  const groups = [0, 70, 70, 210, 338, 341, 470]
  const offsets = () => tensor(groups, { dtype: 'int32' })

  run('groups of rows', () => {
    const [m, n, k] = [470, 200, 136]
    const experts = groups.length - 1
    const a = sixteenths([m, k], 18)
    const w = sixteenths([experts, k, n], 19)
    const y = new Float64Array(m * n)
    for (let e = 0; e < experts; e++) {
      const rows = groups[e + 1]! - groups[e]!
      add(y, a, w, [rows, n, k], [groups[e]! * k, e * k * n, groups[e]! * n])
    }
    for (const turned of [false, true])
      for (const out of ['float32', 'bfloat16'] as const) {
        const to = matrix(nan([m, n]), [m, n], out)
        const of = [matrix(a, [m, k], 'bfloat16'), matrix(w, [experts, k, n], 'bfloat16', turned)] as const
        expect(product(...of, to, { grouped: 1, offsets: offsets() })).toBe(true)
        expectClose(to, { shape: [m, n], data: y }, tolerance[out], `${out}${turned ? ' turned' : ''}`)
      }
  })

  run('groups of the depth: what follows a group does not reach into it', () => {
    const [m, n, k] = [136, 264, 470]
    const experts = groups.length - 1
    const a = sixteenths([k, m], 20) // rows of the groups, as they lie
    const b = sixteenths([k, n], 21)
    const y = new Float64Array(experts * m * n)
    for (let e = 0; e < experts; e++)
      for (let l = groups[e]!; l < groups[e + 1]!; l++)
        for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) y[(e * m + i) * n + j]! += a[l * m + i]! * b[l * n + j]!
    // The third group is not finite, in both operands: nobody else may notice.
    const bad = [2 * m * n, 3 * m * n] as const
    a.fill(Number.POSITIVE_INFINITY, groups[2]! * m, groups[3]! * m)
    b.fill(Number.POSITIVE_INFINITY, groups[2]! * n, groups[3]! * n)
    for (const out of ['float32', 'bfloat16'] as const) {
      const to = matrix(nan([experts, m, n]), [experts, m, n], out)
      const of = [
        new Tensor(native.transpose(matrix(a, [k, m], 'bfloat16').handle, 0, 1)),
        matrix(b, [k, n], 'bfloat16'),
      ] as const
      expect(product(...of, to, { grouped: 2, offsets: offsets() })).toBe(true)
      const got = numbers(to)
      expect(got.subarray(...bad).every((v) => v === Number.POSITIVE_INFINITY)).toBe(true)
      got.fill(0, ...bad)
      const expected = y.slice().fill(0, ...bad)
      const shape = [experts, m, n]
      expectClose(tensor(got, { shape, dtype: 'float64' }), { shape, data: expected }, tolerance[out], out)
    }
  })
})
