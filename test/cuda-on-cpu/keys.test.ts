// Sorts of several tiles and digits, and sums by key whose runs begin, end and go on at every edge of a tile.
import { describe, expect, test } from 'vitest'
import { ops, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import { Tensor } from '../../lib/tensor.ts'
import { expectClose, numbers } from '../check.ts'
import { noise } from '../golden.ts'

function orderOf(list: readonly number[], descending: boolean): number[] {
  return list
    .map((_, i) => i)
    .sort((a, b) => {
      const [u, v] = [list[a]!, list[b]!]
      const compared = Number.isNaN(u) ? (Number.isNaN(v) ? 0 : 1) : Number.isNaN(v) ? -1 : u - v
      return (descending ? -compared : compared) || a - b
    })
}

describe('sort', () => {
  for (const [dtype, n] of [
    ['float32', 129],
    ['float32', 2048],
    ['float32', 9000],
    ['bfloat16', 5000],
    ['float16', 2049],
    ['float64', 300],
    ['int32', 4500],
    ['int64', 4097],
    ['uint8', 3000],
    ['bool', 100],
  ] as const)
    for (const descending of [false, true])
      test(`${dtype}, two rows of ${n}, ${descending ? 'descending' : 'ascending'}: equal ones keep their order`, () => {
        const float = dtype.includes('float')
        const data = noise([2 * n], 1).data.map((v, i) => {
          if (dtype === 'bool') return Number(v > 0)
          if (dtype === 'uint8') return Math.abs(Math.round(v * 90)) % 256
          if (!float) return Math.round(v * 2 ** (dtype === 'int64' ? 45 : 20)) * (i % 5 ? 1 : 0)
          return i % 50 === 7 ? Number.NaN : i % 50 === 9 ? -0 : i % 50 === 11 ? 0 : i % 50 === 13 ? Infinity : v
        })
        const x = tensor(data, { shape: [2, n], dtype })
        const held = numbers(x)
        const { values, indices } = x.sort({ descending })
        const at = numbers(indices)
        const got = numbers(values)
        for (const row of [0, 1]) {
          const list = Array.from(held.subarray(row * n, row * n + n))
          const order = orderOf(list, descending)
          expect([...at.subarray(row * n, row * n + n)]).toEqual(order)
          expect([...got.subarray(row * n, row * n + n)]).toEqual(order.map((i) => list[i]))
        }
        expect([...numbers(x.topk(5, { largest: descending }).indices)]).toEqual([
          ...at.subarray(0, 5),
          ...at.subarray(n, n + 5),
        ])
      })
})

// Ids in runs of these lengths once they are in order; they come shuffled.
function idsOf(runs: readonly number[]): number[] {
  const ids = runs.flatMap((length, id) => new Array<number>(length).fill(id))
  for (let i = ids.length - 1, seed = 1; i > 0; i--) {
    seed = (seed * 48271) % 2147483647
    const j = seed % (i + 1)
    ;[ids[i], ids[j]] = [ids[j]!, ids[i]!]
  }
  return ids
}
const families = {
  'all equal': [200],
  'edges of tiles': [32, 31, 1, 33, 64, 95, 1, 1, 30],
  'over many tiles': [5, 300, 2, 40, 7],
  'none twice': new Array<number>(70).fill(1),
  'some that do not occur': [0, 3, 0, 0, 90, 0],
}
for (const [name, runs] of Object.entries(families))
  describe(`sums by key: ${name}`, () => {
    const ids = idsOf(runs)
    for (const [dtype, tolerance] of [
      ['float64', 1e-14],
      ['float32', 1e-6],
      ['bfloat16', 1e-6],
    ] as const)
      for (const width of [64, 33, 1])
        test(`embeddingGrad: ${dtype}, ${width} wide, with ids out of range`, () => {
          const all = [...ids, runs.length, -1, 2 ** 31 - 1]
          const dy = tensor(noise([all.length * width], 3).data, { shape: [all.length, width], dtype })
          const d = numbers(dy)
          const expected = new Float64Array(runs.length * width)
          ids.forEach((id, n) => {
            for (let c = 0; c < width; c++) expected[id * width + c]! += d[n * width + c]!
          })
          const sum = new Tensor(
            native.embeddingGrad(tensor(all, { dtype: 'int32' }).handle, dy.handle, runs.length, null),
          )
          expectClose(sum, { shape: [runs.length, width], data: expected }, tolerance)
        })

    test('indexSelect along a middle axis', () => {
      for (const inner of [8, 3]) {
        const dy = tensor(noise([2 * ids.length * inner], 4).data, { shape: [2, ids.length, inner], dtype: 'float32' })
        const d = numbers(dy)
        const expected = new Float64Array(2 * runs.length * inner)
        for (const outer of [0, 1])
          ids.forEach((id, n) => {
            for (let c = 0; c < inner; c++)
              expected[(outer * runs.length + id) * inner + c]! += d[(outer * ids.length + n) * inner + c]!
          })
        const shape = [2, runs.length, inner]
        const dx = native.indexSelectGrad(dy.handle, 1, tensor(ids, { dtype: 'int64' }).handle, shape)
        expectClose(new Tensor(dx), { shape, data: expected }, 1e-6)
      }
    })

    test('gather, along the first axis and the last', () => {
      for (const axis of [0, 1]) {
        const shape = axis ? [3, ids.length] : [ids.length, 3]
        const whole = axis ? [3, runs.length] : [runs.length, 3]
        const place = (n: number, line: number, length: number) => (axis ? line * length + n : n * 3 + line)
        const index = new Int32Array(3 * ids.length)
        for (const line of [0, 1, 2])
          ids.forEach((_, n) => {
            index[place(n, line, ids.length)] = ids[(n + 7 * line) % ids.length]!
          })
        const dy = tensor(noise([3 * ids.length], 5).data, { shape, dtype: 'float32' })
        const d = numbers(dy)
        const expected = new Float64Array(3 * runs.length)
        for (const line of [0, 1, 2])
          for (let n = 0; n < ids.length; n++) {
            const from = place(n, line, ids.length)
            expected[place(index[from]!, line, runs.length)]! += d[from]!
          }
        const dx = native.gatherGrad(dy.handle, axis, tensor(index, { shape }).handle, whole)
        expectClose(new Tensor(dx), { shape: whole, data: expected }, 1e-6)
      }
    })
  })

describe('rows by their numbers', () => {
  for (const dtype of ['float32', 'bfloat16', 'uint8', 'int64'] as const)
    for (const width of [1, 5, 16, 200])
      test(`${dtype}, ${width} wide`, () => {
        const data = Float64Array.from({ length: 2 * 11 * width }, (_, i) => i % 241)
        const ids = Array.from({ length: 300 }, (_, i) => (i * i) % 11)
        const x = tensor(data, { shape: [2, 11, width], dtype })
        const y = numbers(ops.indexSelect(x, 1, tensor(ids, { dtype: 'uint8' })))
        const expected = [0, 11].flatMap((before) =>
          ids.flatMap((id) => Array.from(data.subarray((before + id) * width, (before + id + 1) * width))),
        )
        expect([...y]).toEqual(expected)
      })
})

describe('running sums', () => {
  for (const reverse of [false, true])
    test(`long rows, and many beside each other${reverse ? ', from the end' : ''}`, () => {
      for (const [shape, axis] of [
        [[2, 3001], 1],
        [[5, 1100], 0],
        [[7, 130], 0],
      ] as const) {
        const x = tensor(noise([shape[0] * shape[1]], 6).data, { shape: [...shape], dtype: 'float32' })
        const [d, expected] = [numbers(x), new Float64Array(shape[0] * shape[1])]
        const [lines, n] = axis ? shape : [shape[1], shape[0]]
        for (let line = 0; line < lines; line++)
          for (let k = 0, sum = 0; k < n; k++) {
            const i = reverse ? n - 1 - k : k
            const at = axis ? line * n + i : i * lines + line
            expected[at] = sum += d[at]!
          }
        expectClose(new Tensor(native.cumsum(x.handle, axis, reverse)), { shape: [...shape], data: expected }, 1e-6)
      }
    })
})
