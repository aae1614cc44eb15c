// What the walk over strided views in cuda/ treats in its own ways: whole packs, repeated elements, tails, tensors that
// begin anywhere, more packs than the grid has threads, copies that turn squares, and every pair of dtypes.
import { describe, expect, test } from 'vitest'
import { type Dtype, full, ops, type Tensor as TensorType, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import { Tensor } from '../../lib/tensor.ts'
import { numbers } from '../check.ts'
import { build, position, size } from '../nd.ts'

// Whole numbers that float16 and uint8 hold, different from their neighbours in every direction.
const value = (i: number) => (i * 37 + Math.floor(i / 64) * 11 + Math.floor(i / 4096) * 5) % 251
const filled = (shape: number[], dtype: Dtype, offset = 0) => {
  const flat = tensor(
    Float64Array.from({ length: size(shape) + offset }, (_, i) => value(i - offset)),
    { dtype },
  )
  return new Tensor(native.windowOf(flat.handle, shape, offset))
}
const list = (t: TensorType) => [...numbers(t)]

describe('copies that turn squares', () => {
  for (const dtype of ['uint8', 'bfloat16', 'float32', 'float64'] as const)
    for (const [shape, axes] of [
      [
        [70, 130],
        [1, 0],
      ],
      [
        [64, 64],
        [1, 0],
      ],
      [
        [3, 40, 65],
        [0, 2, 1],
      ],
      [
        [3, 40, 65],
        [2, 1, 0],
      ],
      [
        [2, 9, 3, 33],
        [0, 3, 2, 1],
      ],
      [
        [200, 8],
        [1, 0],
      ],
    ])
      test(`${dtype} [${shape}] by [${axes}]`, () => {
        const y = ops.contiguous(filled(shape!, dtype).permute(axes!))
        const steps = shape!.map((_, i) => size(shape!.slice(i + 1)))
        const turned = axes!.map((a) => shape![a]!)
        const expected = build(turned, (at) => value(at.reduce((n, p, i) => n + p * steps[axes![i]!]!, 0)))
        expect(list(y)).toEqual([...expected.data])
      })
})

describe('two operands', () => {
  for (const dtype of ['float64', 'float32', 'bfloat16', 'float16'] as const) {
    const sums = (a: TensorType, b: TensorType, what: string) => {
      const [u, v] = [numbers(a), numbers(b)]
      const y = numbers(a.sub(b))
      expect(y.length, what).toBe(size(a.shape))
      for (let i = 0; i < y.length; i++) {
        const at = position(i, a.shape)
        const other = at
          .slice(at.length - b.shape.length)
          .reduce((n, p, k) => n * b.shape[k]! + (b.shape[k] === 1 ? 0 : p), 0)
        if (y[i] !== u[i]! - v[other]!) expect.fail(`${what}: element ${i} is ${y[i]}, expected ${u[i]! - v[other]!}`)
      }
    }
    test(`${dtype}: any length, from any address`, () => {
      for (const n of [1, 7, 8, 33, 1000])
        for (const offset of [0, 1, 3, 8])
          sums(filled([n], dtype, offset), filled([n], dtype, 3 - (offset % 4)), `${n} from ${offset}`)
    })
    test(`${dtype}: rows of whole packs, of others, and repeated elements`, () => {
      for (const cols of [48, 41, 6]) {
        const x = filled([9, cols + 16], dtype).slice([null, [8, 8 + cols]])
        sums(x, filled([9, cols], dtype), `[9, ${cols}]`)
        sums(x, filled([cols], dtype), `[9, ${cols}] and [${cols}]`)
        sums(x, filled([9, 1], dtype), `[9, ${cols}] and [9, 1]`)
        sums(x, filled([1], dtype), `[9, ${cols}] and [1]`)
        sums(filled([3, 5, cols], dtype), filled([3, 1, cols], dtype), `[3, 5, ${cols}] and [3, 1, ${cols}]`)
      }
    })
    test(`${dtype}: more than the grid has threads`, () => {
      sums(filled([2 * 128 * 256 * 8 + 5], dtype), filled([1], dtype), 'long')
    })
  }
})

test('from every dtype to every other, in order and with gaps', () => {
  const dtypes = ['float32', 'float64', 'bfloat16', 'float16', 'int32', 'int64', 'uint8', 'bool'] as const
  for (const from of dtypes)
    for (const to of dtypes)
      for (const gaps of [false, true]) {
        const x = gaps ? filled([50, 3], from).slice([null, [0, 3, 2]]) : filled([101], from)
        const y = ops.cast(x, to)
        const expected = list(x).map((v) => (to === 'bool' ? Number(v !== 0) : v))
        expect(y.dtype).toBe(to)
        expect(list(y), `${from} to ${to}`).toEqual(expected)
      }
})

test('where and fill, by packs and by elements', () => {
  for (const dtype of ['uint8', 'float16', 'float32', 'int64'] as const)
    for (const [rows, cols] of [
      [5, 64],
      [7, 33],
    ]) {
      const a = filled([rows!, cols!], dtype)
      const zero = full([1], 7, { dtype })
      for (const condition of [filled([rows!, cols!], 'int32').gt(100), filled([rows!, 1], 'int32').gt(30)]) {
        const chosen = numbers(condition)
        const expected = list(a).map((v, i) => (chosen[condition.shape[1] === 1 ? Math.floor(i / cols!) : i] ? v : 7))
        expect(list(ops.where(condition, a, zero))).toEqual(expected)
      }
      expect(list(full([rows!, cols!], 9, { dtype }))).toEqual(new Array(rows! * cols!).fill(9))
    }
})
