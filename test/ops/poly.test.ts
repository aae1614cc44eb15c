import { createHash } from 'node:crypto'
import { afterEach, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { type PolyNormOptions, polyNorm, polyNormGlu, polyRelu } from '../../lib/ops/poly.ts'
import { transpose } from '../../lib/ops/view.ts'
import type { Dtype, Tensor } from '../../lib/tensor.ts'
import { expectClose, expectSums, golden, leaf, numbers as list, type Values } from '../golden.ts'
import * as reference from '../reference.ts'

const threads = native.threads()
afterEach(() => native.setThreads(threads))

const number = (v: number): Values => ({ data: Float64Array.of(v), shape: [1] })
const numbers = (t: Tensor): Float64Array => Float64Array.from(list(t))

/** 16-bit results: one rounding away from the exact value, give or take float32 arithmetic. */
function expectOneRounding(actual: Tensor, expected: Values, what: string): void {
  const got = numbers(actual)
  const [bits, least] = actual.dtype === 'bfloat16' ? [7, -126] : [10, -14]
  const largest = expected.data.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
  expected.data.forEach((want, i) => {
    const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(want) || 1e-300)), least!) - bits!)
    const error = Math.abs(got[i]! - want)
    if (!(error <= 0.5 * unit + 4e-6 * largest))
      expect.fail(`${what} element ${i} is ${got[i]}, should be ${want} (unit ${unit})`)
  })
}

type Which = 'polyRelu' | 'polyNorm' | 'polyNormGlu'
const applied = (
  which: Which,
  x: Tensor,
  up: Tensor | undefined,
  weight: Tensor,
  bias: Tensor,
  options: PolyNormOptions = {},
): Tensor => {
  if (which === 'polyRelu') return polyRelu(x, weight, bias, options)
  return which === 'polyNorm' ? polyNorm(x, weight, bias, options) : polyNormGlu(x, up!, weight, bias, options)
}
interface Case {
  which: Which
  x: Values
  up?: Values
  weight: Values
  bias: number
  dy: Values
  eps?: number
}

/** Value and all gradients of one case in one dtype, against the definition. */
function check(c: Case, dtype: Dtype, tolerance?: number): void {
  const small = dtype === 'float64' ? 'float64' : 'float32'
  const of = (v: Values, type: Dtype = dtype): Values => reference.rounded(v, type)
  const x = of(c.x)
  const dy = of(c.dy)
  const weight = of(c.weight, small)
  const bias = of(number(c.bias), small)
  const up = c.up && of(c.up)
  const options = { eps: c.eps ?? 1e-6 }
  const want =
    c.which === 'polyRelu'
      ? reference.polyRelu(x, weight, bias.data[0]!, dy)
      : reference.polyNorm(x, weight, bias.data[0]!, dy, { ...options, ...(up && { up }) })
  const [tx, tw, tb] = [leaf(x, dtype), leaf(weight, small), leaf(bias, small)]
  const tup = up && leaf(up, dtype)
  const y = applied(c.which, tx, tup, tw, tb, options)
  backward(y, tensor(dy.data, { shape: dy.shape, dtype }))
  const what = `${c.which} order ${weight.data.length} of ${x.shape} ${dtype}`
  const close = (t: Tensor | null, v: Values, name: string): void => {
    expect(t!.dtype).toBe(dtype)
    if (dtype === 'bfloat16' || dtype === 'float16') expectOneRounding(t!, v, `${what} ${name}`)
    else expectClose(t, v, tolerance, `${what} ${name}`)
  }
  close(y, want.y, 'y')
  close(tx.grad, want.dx, 'dx')
  if (tup) close(tup.grad, want.dup, 'dup')
  expectSums(tw.grad, want.dweight, want.terms.weight, `${what} dweight`)
  expectSums(tb.grad, want.dbias, [want.terms.bias], `${what} dbias`)
}

const some = (which: Which, order: number, shape: number[], seed = 1, scale = 1): Case => ({
  which,
  x: reference.normals(shape, seed, scale),
  up: which === 'polyNormGlu' ? reference.normals(shape, seed + 1) : undefined!,
  weight: { shape: [order], data: Float64Array.from({ length: order }, (_, i) => 1 / order + 0.3 * Math.cos(3 * i)) },
  bias: 0.1,
  dy: reference.normals(shape, seed + 2),
})
const all: Which[] = ['polyRelu', 'polyNorm', 'polyNormGlu']

for (const which of ['polyrelu', 'polynorm'] as const)
  for (const order of [1, 2, 3, 4, 5])
    for (const size of ['7x33', '3x1536', '4x1024'])
      test(`${which} of order ${order}, ${size}, as PyTorch computes it`, () => {
        const { values: v, settings } = golden(`${which}_r${order}_${size}`)
        for (const dtype of ['float64', 'float32'] as const) {
          const [x, weight, bias] = [leaf(v.x!, dtype), leaf(v.weight!, dtype), leaf(v.bias!, dtype)]
          const eps = Number(settings.eps)
          const y = which === 'polyrelu' ? polyRelu(x, weight, bias) : polyNorm(x, weight, bias, { eps })
          backward(y, tensor(v.dy!.data, { shape: v.dy!.shape, dtype }))
          expectClose(y, v.y!)
          expectClose(x.grad, v.dx!)
          const { terms } =
            which === 'polyrelu'
              ? reference.polyRelu(v.x!, v.weight!, v.bias!.data[0]!, v.dy!)
              : reference.polyNorm(v.x!, v.weight!, v.bias!.data[0]!, v.dy!, { eps })
          expectSums(weight.grad, v.dweight!, terms.weight, 'dweight')
          expectSums(bias.grad, v.dbias!, [terms.bias], 'dbias')
          if (dtype === 'float32') continue
          expectClose(weight.grad, v.dweight!, undefined, 'dweight')
          expectClose(bias.grad, v.dbias!, undefined, 'dbias')
        }
      })

for (const which of all)
  test(`${which}: orders 1 to 8, values and gradients, in every dtype`, () => {
    for (let order = 1; order <= 8; order++)
      // relu(x)^8 of normal values passes float16's largest number.
      for (const shape of [
        [5, 33],
        [2, 3, 100],
        [4, 512],
      ])
        for (const dtype of ['float64', 'float32', 'bfloat16', 'float16'] as const)
          check(some(which, order, shape, order, which === 'polyRelu' && order > 5 ? 0.5 : 1), dtype)
  })

for (const cols of [1, 7, 33, 100, 512, 1536, 4096, 8256, 13824, 16384, 32768, 65536])
  test(`rows of ${cols}`, () => {
    const rows = cols > 10000 ? 2 : 3
    for (const which of all)
      for (const order of cols > 5000 ? [3] : [2, 3, 4, 6]) {
        check(some(which, order, [rows, cols], cols + order), 'float32')
        // Short rows cancel: what is left of dy - n mean(dy n) in a row of one is a millionth of dy, in the oracle too.
        check(some(which, order, [rows, cols], cols + order), 'float64', cols < 8 ? 1e-9 : 1e-12)
      }
    check(some('polyNorm', 3, [rows, cols], cols), 'bfloat16')
  })

const bytes = (a: Float32Array): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength)

test('results larger than the cache are the same as small ones', () => {
  // On the CPU above half the last cache results are written round it, on another path. On a GPU more rows than blocks
  // are enough; there the packs of 16 bytes that a thread sums depend on where a row starts, so these start alike.
  const onGpu = process.env.POLYGRAD_TEST_DEVICE === 'cuda'
  const cols = onGpu ? 4100 : 4099
  const rows = onGpu ? 700 : Math.ceil(2 ** 26 / 4 / cols)
  const c = some('polyNormGlu', 3, [7, cols])
  const repeated = (v: Values): Float32Array => {
    const data = new Float32Array(rows * cols)
    for (let r = 0; r < rows; r++) for (let j = 0; j < cols; j++) data[r * cols + j] = v.data[(r % 7) * cols + j]!
    return data
  }
  const weight = tensor([0.2, -0.3, 0.4], { requiresGrad: true })
  const bias = tensor([0.1], { requiresGrad: true })
  for (const which of all) {
    const results = [7, rows].map((n) => {
      const of = (v: Values): Tensor =>
        tensor(n === 7 ? Float32Array.from(v.data) : repeated(v), { shape: [n, cols], requiresGrad: true })
      const [x, up, dy] = [of(c.x), of(c.up!), of(c.dy)]
      const y = applied(which, x, up, weight, bias)
      backward(y, dy)
      return [y, x.grad!, ...(which === 'polyNormGlu' ? [up.grad!] : [])].map((t) => {
        const data = t.dataSync() as Float32Array
        t.dispose()
        return data
      })
    })
    results[0]!.forEach((small, i) => {
      const large = results[1]![i]!
      for (const r of [0, 1, 500, rows - 1])
        expect(
          Buffer.compare(
            bytes(large.subarray(r * cols, r * cols + cols)),
            bytes(small.subarray((r % 7) * cols, (r % 7) * cols + cols)),
          ),
        ).toBe(0)
    })
  }
})

test('large, tiny and outlying values', () => {
  for (const [order, scale] of [
    [4, 3000],
    [8, 30],
    [8, 3000],
    [3, 1e5],
    [2, 1e8],
    [3, 1e-4],
    [8, 1e-2],
  ] as const)
    for (const which of ['polyNorm', 'polyNormGlu'] as const) {
      const c = some(which, order, [3, 1024], 5, scale)
      check(c, 'float64')
      check(c, 'float32')
    }
  for (const order of [3, 4, 6, 8]) {
    const c = some('polyNorm', order, [3, 1024])
    check({ ...c, x: reference.normals([3, 1024], 7, 1, 256, 1000) }, 'float32')
    check({ ...c, x: reference.normals([3, 1024], 7, 1e-3, 256, -1000) }, 'float32')
  }
  // Without eps a row's scale does not matter.
  for (const scale of [1e-3, 1e-12, 1e-30, 1e12, 1e30])
    for (const order of [2, 3, 4]) {
      const c = some('polyNorm', order, [2, 512], 3)
      const want = reference.polyNorm(c.x, c.weight, c.bias, c.dy, { eps: 0 })
      const x = tensor(
        Float32Array.from(c.x.data, (v) => v * scale),
        { shape: [2, 512], requiresGrad: true },
      )
      const weight = tensor(Float32Array.from(c.weight.data))
      const y = polyNorm(x, weight, tensor([c.bias]), { eps: 0 })
      backward(y, tensor(Float32Array.from(c.dy.data), { shape: [2, 512] }))
      expectClose(y, want.y, 4e-6, `eps 0, scale ${scale}`)
      const dx = { ...want.dx, data: want.dx.data.map((v) => v / scale) }
      if (scale < 1e20) expectClose(x.grad, dx, 4e-6, `eps 0, scale ${scale}, dx`)
    }
})

test('the sums of a row: sum_k w_k r_k S_k + bias sum(dy) = sum(dy y)', () => {
  for (const order of [1, 2, 3, 4, 5, 8])
    for (const which of all) {
      const c = some(which, order, [1, 1000], 11)
      const [x, weight, bias] = [leaf(c.x), leaf(c.weight), leaf(number(c.bias))]
      const up = which === 'polyNormGlu' ? leaf(c.up!) : undefined
      const y = applied(which, x, up, weight, bias)
      backward(y, tensor(c.dy.data, { shape: c.dy.shape }))
      const dw = numbers(weight.grad!)
      const left = c.weight.data.reduce((s, w, i) => s + w * dw[i]!, 0) + c.bias * numbers(bias.grad!)[0]!
      const values = numbers(y)
      const right = c.dy.data.reduce((s, d, i) => s + d * values[i]!, 0)
      expect(Math.abs(left - right)).toBeLessThan(1e-10)
    }
})

test('a set of coefficients for each expert', () => {
  const D = 48
  const counts = [3, 0, 5, 1]
  const ends = counts.map((_, e) => counts.slice(0, e + 1).reduce((a, b) => a + b))
  const offsets = tensor(Int32Array.of(0, ...ends))
  const rows = ends.at(-1)!
  for (const which of all)
    for (const order of [2, 3, 6])
      for (const dtype of ['float64', 'float32'] as const) {
        const c = some(which, order, [rows, D], 21)
        const weight = reference.rounded(reference.normals([4, order], 5), dtype)
        const bias = reference.rounded(reference.normals([4], 6), dtype)
        const [x, tw, tb] = [leaf(c.x, dtype), leaf(weight, dtype), leaf(bias, dtype)]
        const up = which === 'polyNormGlu' ? leaf(c.up!, dtype) : undefined
        const y = applied(which, x, up, tw, tb, { offsets })
        backward(y, tensor(c.dy.data, { shape: c.dy.shape, dtype }))
        const got = { y: numbers(y), dx: numbers(x.grad!), dw: numbers(tw.grad!), db: numbers(tb.grad!) }
        for (let e = 0; e < 4; e++) {
          const [from, to] = [(ends[e]! - counts[e]!) * D, ends[e]! * D]
          const part = (v: Values): Values => ({
            shape: [counts[e]!, D],
            data: reference.rounded(v, dtype).data.slice(from, to),
          })
          const w = { shape: [order], data: weight.data.slice(e * order, (e + 1) * order) }
          const want =
            which === 'polyRelu'
              ? reference.polyRelu(part(c.x), w, bias.data[e]!, part(c.dy))
              : reference.polyNorm(part(c.x), w, bias.data[e]!, part(c.dy), up ? { up: part(c.up!) } : {})
          const as = (data: Float64Array, shape: number[]): Tensor => tensor(data, { shape, dtype })
          expectClose(as(got.y.slice(from, to), [counts[e]!, D]), want.y, undefined, `expert ${e} y`)
          expectClose(as(got.dx.slice(from, to), [counts[e]!, D]), want.dx, undefined, `expert ${e} dx`)
          expectSums(as(got.dw.slice(e * order, (e + 1) * order), [order]), want.dweight, want.terms.weight, 'dweight')
          expectSums(as(got.db.slice(e, e + 1), [1]), want.dbias, [want.terms.bias], 'dbias')
        }
      }
})

test('offsets that do not fit are reported at the next wait', async () => {
  const x = tensor(new Float32Array(12), { shape: [4, 3] })
  const weight = tensor(new Float32Array(6), { shape: [2, 3] })
  const bias = tensor([0, 0])
  const run = (...at: number[]): Promise<unknown> =>
    polyNorm(x, weight, bias, { offsets: tensor(Int32Array.from(at)) }).data()
  await expect(run(0, 3, 2)).rejects.toThrow('polyNorm: offsets[2] is 2, but the one before it is 3')
  await expect(run(0, 3, 5)).rejects.toThrow(
    'polyNorm: offsets run from 0 to 5, but should run from 0 to the number of rows, 4',
  )
  await expect(run(0, 3, 4)).resolves.toBeDefined()
})

test('a NaN in x stays one', () => {
  for (const dtype of ['float32', 'float64', 'bfloat16', 'float16'] as const)
    for (const order of [1, 2, 3, 4, 8]) {
      const values = reference.normals([3, 40], 2).data
      values[45] = Number.NaN
      const x = tensor(values, { shape: [3, 40], dtype })
      const weight = tensor(new Float64Array(order).fill(0.3), { dtype: dtype === 'float64' ? dtype : 'float32' })
      const bias = tensor([0], { dtype: dtype === 'float64' ? dtype : 'float32' })
      const spots = (t: Tensor): number[] => [...numbers(t)].flatMap((v, i) => (Number.isNaN(v) ? [i] : []))
      expect(spots(polyRelu(x, weight, bias))).toEqual([45])
      const row = Array.from({ length: 40 }, (_, j) => 40 + j)
      expect(spots(polyNorm(x, weight, bias))).toEqual(row)
      expect(spots(polyNormGlu(x, x, weight, bias))).toEqual(row)
    }
})

const bits = (all: Float64Array[]): string => {
  const hash = createHash('sha256')
  for (const one of all) hash.update(one)
  return hash.digest('hex')
}

test('the same bits with one thread and with two', () => {
  const shape = [300, 1000]
  for (const which of all)
    for (const order of [3, 5]) {
      const run = (count: number): Float64Array[] => {
        native.setThreads(count)
        const c = some(which, order, shape)
        const [x, weight, bias] = [leaf(c.x, 'float32'), leaf(c.weight, 'float32'), leaf(number(0.2), 'float32')]
        const up = which === 'polyNormGlu' ? leaf(c.up!, 'float32') : undefined
        const y = applied(which, x, up, weight, bias)
        backward(y, tensor(c.dy.data, { shape, dtype: 'float32' }))
        return [y, x.grad!, weight.grad!, bias.grad!, ...(up ? [up.grad!] : [])].map(numbers)
      }
      expect(bits(run(1))).toBe(bits(run(2)))
    }
})

test('views that are not contiguous', () => {
  const c = some('polyNorm', 3, [6, 20])
  const want = reference.polyNorm(c.x, c.weight, c.bias, c.dy)
  // The same rows, stored as columns.
  const turned = (v: Values): Tensor => {
    const t = tensor(
      Float64Array.from({ length: 120 }, (_, i) => v.data[(i % 6) * 20 + Math.floor(i / 6)]!),
      { shape: [20, 6] },
    )
    return transpose(t)
  }
  const x = turned(c.x)
  const leafOfX = x.detach()
  leafOfX.requiresGrad = true
  const y = polyNorm(leafOfX, leaf(c.weight), leaf(number(c.bias)))
  backward(y, turned(c.dy))
  expectClose(y, want.y)
  expectClose(leafOfX.grad, want.dx)
})

test('empty tensors', () => {
  for (const shape of [[0, 4], [3, 0], [0]]) {
    const x = tensor([], { shape, requiresGrad: true })
    const weight = tensor([1, 2], { requiresGrad: true })
    const bias = tensor([1], { requiresGrad: true })
    for (const y of [polyRelu(x, weight, bias), polyNorm(x, weight, bias), polyNormGlu(x, x, weight, bias)]) {
      expect(y.shape).toEqual(shape)
      backward(y, tensor([], { shape }))
      expect([...numbers(weight.grad!), ...numbers(bias.grad!)]).toEqual([0, 0, 0])
    }
  }
})

test('coefficients of another float type get gradients of their own', () => {
  const x = tensor([1, 2, 3], { dtype: 'bfloat16', requiresGrad: true })
  const weight = tensor([0.5, 0.25], { dtype: 'bfloat16', requiresGrad: true })
  const bias = tensor([0], { dtype: 'float64', requiresGrad: true })
  backward(polyRelu(x, weight, bias), tensor([1, 1, 1], { dtype: 'bfloat16' }))
  expect(numbers(weight.grad!)).toEqual(Float64Array.of(14, 6))
  expect([weight.grad!.dtype, bias.grad!.dtype]).toEqual(['bfloat16', 'float64'])
})

test('shapes and types that do not fit are named', () => {
  const x = tensor(new Float32Array(6), { shape: [2, 3] })
  const [weight, bias] = [tensor([1, 1, 1]), tensor([0])]
  expect(() => polyNorm(x, tensor([[1, 1]]), bias)).toThrow('polyNorm: weight is [1, 2], but should be [order]')
  expect(() => polyNorm(x, tensor(new Float32Array(9)), bias)).toThrow(
    'weight has 9 coefficients, but the order should be 1 to 8',
  )
  expect(() => polyRelu(x, weight, tensor([0, 0]))).toThrow('polyRelu: bias is [2], but should be [1]')
  expect(() => polyRelu(tensor(Int32Array.of(1, 2)), weight, bias)).toThrow(
    'x is int32, but should be a floating-point tensor',
  )
  expect(() => polyNormGlu(x, tensor([1, 2, 3]), weight, bias)).toThrow('polyNormGlu: up is [3] but gate is [2, 3]')
  expect(() => polyNorm(x, weight, bias, { eps: -1 })).toThrow('polyNorm: eps is -1, but should be at least 0')
  const offsets = tensor(Int32Array.of(0, 1, 2))
  expect(() => polyNorm(x, weight, bias, { offsets })).toThrow('weight is [3], but should be [2, order] for 2 experts')
  expect(() => polyNorm(x, weight, bias, { offsets: tensor([0, 2]) })).toThrow(
    'offsets is float32 [2], but should be int32 [experts + 1]',
  )
})
