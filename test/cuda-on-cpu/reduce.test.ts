// Reductions that are cut into pieces, by rows and by columns, over any axes of views with gaps.
import { describe, expect, test } from 'vitest'
import { type Dtype, ops, type Tensor, tensor } from '../../lib/index.ts'
import { expectClose, numbers } from '../check.ts'
import { noise } from '../golden.ts'
import { type Nd, reduction, size } from '../nd.ts'

const near = { float64: 1e-13, float32: 1e-6, bfloat16: 2 ** -8, float16: 2 ** -10 }
const held = (shape: number[], dtype: Dtype, seed = 1): [Tensor, Nd] => {
  const t = tensor(noise([size(shape)], seed).data, { shape, dtype })
  return [t, { shape, data: numbers(t) }]
}
const total = (values: number[]) => {
  let [sum, rest] = [0, 0]
  for (const v of values) {
    const t = sum + v
    rest += Math.abs(sum) >= Math.abs(v) ? sum - t + v : v - t + sum
    sum = t
  }
  return sum + rest
}

describe('sums', () => {
  for (const dtype of ['float64', 'float32', 'bfloat16', 'float16'] as const)
    for (const [shape, axes] of [
      [[3, 20000], [1]],
      [[1, 16387], [1]],
      [
        [40, 5, 130],
        [0, 2],
      ],
      [[9000, 3], [0]],
      [[1500, 40], [0]],
      [[2, 300, 65], [1]],
      [[600, 1, 264], [0]],
      [
        [17, 2, 3, 40],
        [1, 3],
      ],
      [
        [300, 70],
        [0, 1],
      ],
      [[2000, 4], [1]],
    ])
      test(`${dtype}: [${shape}] over [${axes}]`, () => {
        const [x, nd] = held(shape!, dtype)
        const expected = reduction(total, axes!)(nd)
        expectClose(ops.sum(x, { axis: axes! }), expected, near[dtype])
        const flipped = ops.contiguous(x.permute([...shape!.keys()].reverse())).permute([...shape!.keys()].reverse())
        expectClose(ops.sum(flipped, { axis: axes! }), expected, near[dtype], 'the first axis innermost')
      })

  test('of a slice, and of every second element', () => {
    const [x, nd] = held([70, 300], 'float32')
    const rows = Array.from({ length: 70 }, (_, r) => Array.from(nd.data.subarray(r * 300 + 8, r * 300 + 264)))
    const shape = [70]
    expectClose(
      x.slice([null, [8, 264]]).sum({ axis: 1 }),
      { shape, data: Float64Array.from(rows, total) },
      near.float32,
    )
    const second = rows.map((row) => total(row.filter((_, i) => i % 2 === 0)))
    expectClose(x.slice([null, [8, 264, 2]]).sum({ axis: 1 }), { shape, data: Float64Array.from(second) }, near.float32)
  })

  test('of integers are int64, also beyond 32 bits', () => {
    const x = tensor(
      Int32Array.from({ length: 40000 }, (_, i) => 2 ** 31 - 1 - i),
      { shape: [2, 20000] },
    )
    const sum = (from: number) => BigInt(20000) * (2n ** 31n - 1n - BigInt(from)) - (20000n * 19999n) / 2n
    expect([...x.sum({ axis: 1 }).dataSync<'int64'>()]).toEqual([sum(0), sum(20000)])
    const bits = tensor(Uint8Array.from({ length: 30000 }, (_, i) => (i % 3 === 0 ? 255 : 0)))
    expect([...bits.sum().dataSync<'int64'>()]).toEqual([2550000n])
    expect([...bits.reshape([10000, 3]).cast('bool').sum({ axis: 0 }).dataSync<'int64'>()]).toEqual([10000n, 0n, 0n])
  })
})

describe('extremes', () => {
  for (const dtype of ['float32', 'bfloat16', 'int32', 'int64', 'uint8'] as const)
    test(`${dtype}: in every piece, by rows and by columns`, () => {
      for (const at of [0, 8191, 8192, 20000, 29999]) {
        const data = new Float64Array(30000).fill(5)
        data[at] = 9
        const row = tensor(data, { dtype })
        expect([...numbers(row.max())], `row, ${at}`).toEqual([9])
        data[at] = 2
        expect([...numbers(tensor(data, { dtype }).min())], `row, ${at}`).toEqual([2])
        const columns = numbers(tensor(data, { dtype }).reshape([10000, 3]).min({ axis: 0 }))
        expect([...columns], `column, ${at}`).toEqual([0, 1, 2].map((c) => (c === at % 3 ? 2 : 5)))
      }
    })

  test('a NaN stays, wherever it is', () => {
    for (const at of [0, 100, 8192, 29999]) {
      const data = new Float64Array(30000).fill(5)
      data[at] = Number.NaN
      const x = tensor(data, { dtype: 'float32' })
      for (const op of [ops.max, ops.min]) {
        expect([...numbers(op(x))]).toEqual([Number.NaN])
        const columns = [...numbers(op(x.reshape([10000, 3]), { axis: 0 }))]
        expect(columns).toEqual([0, 1, 2].map((c) => (c === at % 3 ? Number.NaN : 5)))
      }
      expect([...numbers(x.argmax())]).toEqual([at])
    }
  })

  test('argmax: the first of several, whichever piece it is in', () => {
    for (const [first, second] of [
      [3, 8192],
      [8191, 8192],
      [12, 29999],
      [8200, 20000],
    ]) {
      const data = new Float64Array(60000).fill(-1)
      data[first!] = data[second!] = 3
      data[30000 + second!] = 3
      const x = tensor(data, { shape: [2, 30000], dtype: 'bfloat16' })
      expect([...numbers(x.argmax({ axis: 1 }))]).toEqual([first, second])
    }
  })
})
