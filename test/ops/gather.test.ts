import { expect, test } from 'vitest'
import { arange, ops, type Tensor, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import { checkOp, numbers } from '../check.ts'
import { at, build, type Nd } from '../nd.ts'

const rows = (x: Nd): number[][] =>
  Array.from({ length: x.shape[0]! }, (_, r) => [...x.data.slice(r * x.shape[1]!, (r + 1) * x.shape[1]!)])
const below = (limit: number) => (u: number, input: number) => (input ? Math.floor(u * limit) : 4 * u - 2)

checkOp({
  name: 'gather along the last axis',
  op: (x, index) => ops.gather(x!, -1, index!),
  oracle: (x, index) => build(index!.shape, ([r, c]) => at(x!, [r!, at(index!, [r!, c!])])),
  cases: [
    [
      [3, 5],
      [3, 7],
    ],
    [
      [4, 5],
      [2, 1],
    ],
    [
      [1, 5],
      [1, 1],
    ],
    [
      [2, 5],
      [2, 0],
    ],
  ],
  values: below(5),
  integers: { 1: 'int32' },
  nan: false,
})
checkOp({
  name: 'gather along the first axis, int64',
  op: (x, index) => x!.gather(0, index!),
  oracle: (x, index) => build(index!.shape, ([r, c]) => at(x!, [at(index!, [r!, c!]), c!])),
  cases: [
    [
      [3, 5],
      [4, 5],
    ],
    [
      [3, 5],
      [2, 2],
    ],
  ],
  values: below(3),
  integers: { 1: 'int64' },
  nan: false,
})
for (const axis of [0, 1, 2])
  checkOp({
    name: `indexSelect along axis ${axis}`,
    op: (x, ids) => ops.indexSelect(x!, axis, ids!),
    oracle: (x, ids) => {
      const shape = [...x!.shape]
      shape[axis] = ids!.shape[0]!
      return build(shape, (w) =>
        at(
          x!,
          w.map((p, i) => (i === axis ? ids!.data[p]! : p)),
        ),
      )
    },
    cases: [
      [[3, 4, 5], [7]],
      [[3, 3, 3], [0]],
      [[3, 3, 70], [5]],
    ],
    values: below(3),
    integers: { 1: axis === 1 ? 'uint8' : 'int32' },
    nan: false,
  })
const running = (list: number[]): number[] => {
  let sum = 0
  return list.map((v) => (sum += v))
}
checkOp({
  name: 'cumsum',
  op: (x) => x.cumsum(),
  oracle: (x) => ({ shape: x.shape, data: Float64Array.from(rows(x).flatMap(running)) }),
  cases: [[[3, 5]], [[1, 1]], [[2, 1300]], [[0, 4]]],
})
checkOp({
  name: 'cumsum along the first axis',
  op: (x) => ops.cumsum(x, { axis: 0 }),
  oracle: (x) =>
    build(x.shape, ([r, c]) => Array.from({ length: r! + 1 }, (_, i) => at(x, [i, c!])).reduce((a, b) => a + b)),
  cases: [[[3, 5]], [[7, 1]]],
})
const order = (list: number[], descending: boolean): number[] =>
  list
    .map((_, i) => i)
    .sort((a, b) => {
      const [u, v] = [list[a]!, list[b]!]
      const compared = Number.isNaN(u) ? (Number.isNaN(v) ? 0 : 1) : Number.isNaN(v) ? -1 : u - v
      return (descending ? -compared : compared) || a - b
    })
const picked = (x: Nd, k: number, descending: boolean): [Nd, Nd] => {
  const index = rows(x).map((list) => order(list, descending).slice(0, k))
  const shape = [x.shape[0]!, k]
  return [
    { shape, data: Float64Array.from(index.flatMap((list, r) => list.map((i) => at(x, [r, i])))) },
    { shape, data: Float64Array.from(index.flat()) },
  ]
}
const both = ({ values, indices }: { values: Tensor; indices: Tensor }): Tensor[] => [values, indices]
for (const descending of [false, true])
  checkOp({
    name: `sort, ${descending ? 'descending' : 'ascending'}`,
    op: (x) => both(x.sort({ descending })),
    oracle: (x) => picked(x, x.shape[1]!, descending),
    cases: [[[3, 5]], [[1, 1]], [[2, 100]], [[0, 4]]],
    gradient: false,
  })
for (const largest of [true, false])
  checkOp({
    name: `topk, the ${largest ? 'largest' : 'smallest'}`,
    op: (x) => both(x.topk(3, { largest })),
    oracle: (x) => picked(x, 3, largest),
    cases: [[[3, 5]], [[2, 3]], [[2, 100]]],
    gradient: false,
    nan: largest,
  })
checkOp({
  name: 'the values of topk',
  op: (x) => x.topk(2, { axis: 0 }).values,
  oracle: (x) =>
    build(
      [2, x.shape[1]!],
      ([r, c]) => Array.from({ length: x.shape[0]! }, (_, i) => at(x, [i, c!])).sort((a, b) => b - a)[r!]!,
    ),
  cases: [[[5, 3]], [[7, 1]]],
  nan: false,
})
checkOp({
  name: 'the values of sort',
  op: (x) => x.sort().values,
  oracle: (x) => picked(x, x.shape[1]!, false)[0],
  cases: [[[3, 5]]],
})
for (const correction of [0, 1])
  checkOp({
    name: `var with correction ${correction}`,
    op: (x) => ops.var(x, { axis: 1, correction, keepdims: true }),
    oracle: (x) => ({
      shape: [x.shape[0]!, 1],
      data: Float64Array.from(rows(x), (list) => {
        const mean = list.reduce((a, b) => a + b) / list.length
        return list.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (list.length - correction)
      }),
    }),
    cases: [[[3, 5]], [[7, 33]]],
    tolerance: { bfloat16: 2 ** -6, float16: 2 ** -9 },
  })

test('equal elements keep their order, zeros of both signs are equal, integers are ranked exactly', () => {
  const { values, indices } = tensor([0, -0, 1, 0, Number.NaN, -1]).sort()
  expect([...indices.dataSync()]).toEqual([5, 0, 1, 3, 2, 4])
  expect(Object.is(values.dataSync()[2], -0)).toBe(true)
  const big = tensor([2n ** 60n + 1n, 2n ** 60n, -(2n ** 62n)], { dtype: 'int64' })
  expect([...big.sort().values.dataSync<'int64'>()]).toEqual([-(2n ** 62n), 2n ** 60n, 2n ** 60n + 1n])
  expect(() => big.topk(4)).toThrow('topk: k is 4, but axis 0 of [3] has 3')
})

test('oneHot', () => {
  const y = ops.oneHot(tensor([[2], [0]], { dtype: 'int64' }), 3)
  expect(y.shape).toEqual([2, 1, 3])
  expect([...y.dataSync()]).toEqual([0, 0, 1, 1, 0, 0])
  expect(ops.oneHot(arange(2), 2, { dtype: 'bool' }).dtype).toBe('bool')
})

test('an index out of range is an error at the next wait, with its position and value', async () => {
  const x = arange(12, undefined, { dtype: 'float32' }).reshape([3, 4])
  const bad = tensor([[0, 1, 9, 0]], { dtype: 'int32' })
  await expect(x.gather(1, bad).data()).rejects.toThrow('gather: index[2] is 9, but the axis has 4')
  const column = tensor(
    [
      [0, 1],
      [0, -1],
      [7, 7],
    ],
    { dtype: 'int64' },
  )
  expect(() => x.gather(0, column).dataSync()).toThrow('gather: index[3] is -1, but the axis has 3')
  expect(() => x.indexSelect(1, tensor([0, 4], { dtype: 'int32' })).dataSync()).toThrow(
    'indexSelect: ids[1] is 4, but the axis has 4',
  )
  expect(() => ops.oneHot(tensor([3], { dtype: 'int32' }), 3).dataSync()).toThrow(
    'oneHot: ids[0] is 3, but there are 3 classes',
  )
  expect([...x.gather(1, arange(1).reshape([1, 1])).dataSync()]).toEqual([0])
  expect(() => x.gather(1, tensor([0.5]))).toThrow('gather: index is float32, but should be int32, int64 or uint8')
  expect(() => x.gather(1, tensor([0], { dtype: 'int32' }))).toThrow('should fit within x')
})

test('gradients of repeated indices are added up in one order, whatever the number of threads', () => {
  const n = 20_000
  const ids = tensor(Int32Array.from({ length: n }, (_, i) => (i * 7919) % 97))
  const threads = native.threads()
  const all = [1, 2, 3].map((count) => {
    native.setThreads(count)
    const x = tensor(new Float32Array(97 * 3), { shape: [97, 3], requiresGrad: true })
    const dy = arange(n * 3, undefined, { dtype: 'float32' })
      .reshape([n, 3])
      .sin()
    x.indexSelect(0, ids).backward(dy)
    return [...numbers(x.grad!)]
  })
  native.setThreads(threads)
  expect(all[1]).toEqual(all[0])
  expect(all[2]).toEqual(all[0])
})
