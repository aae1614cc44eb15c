import fc from 'fast-check'
import { expect, test } from 'vitest'
import { full, ops, type Tensor, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import { checkOp, expectClose, numbers, uniforms } from '../check.ts'
import { reduction } from '../nd.ts'

// Neumaier's sum: right to the last bit for these lengths.
function exactSum(values: readonly number[]): number {
  let sum = 0
  let rest = 0
  for (const v of values) {
    const t = sum + v
    rest += Math.abs(sum) >= Math.abs(v) ? sum - t + v : v - t + sum
    sum = t
  }
  return sum + rest
}
const largest = (values: readonly number[]): number => Math.max(...values)
const smallest = (values: readonly number[]): number => Math.min(...values)
const shapes = [[3, 5], [1], [], [7, 33], [2, 3, 5], [4, 1, 6]]

const families: Record<string, [(x: Tensor, o?: ops.ReduceOptions) => Tensor, (v: readonly number[]) => number]> = {
  sum: [ops.sum, exactSum],
  mean: [ops.mean, (v) => exactSum(v) / v.length],
  max: [ops.max, largest],
  min: [ops.min, smallest],
}
for (const [name, [op, oracle]] of Object.entries(families)) {
  const empty = name === 'sum' || name === 'mean'
  checkOp({
    name,
    op: (x) => op(x),
    oracle: reduction(oracle),
    cases: [...shapes, ...(name === 'sum' ? [[0, 4]] : [])].map((s) => [s]),
  })
  for (const options of [
    { axis: 0 },
    { axis: -1, keepdims: true },
    { axis: [0, -1] },
    { axis: [1, 0], keepdims: true },
  ])
    checkOp({
      name: `${name} over ${JSON.stringify(options)}`,
      op: (x) => op(x, options),
      oracle: reduction(oracle, [options.axis].flat(), options.keepdims),
      cases: [[[3, 5]], [[7, 33]], [[2, 3, 4]], [[1, 1]], ...(empty ? [[[3, 0]]] : [])],
    })
}

checkOp({
  name: 'argmax',
  op: (x) => ops.argmax(x, { axis: 1 }),
  oracle: reduction((v) => v.reduce((best, x, i) => (x > v[best]! ? i : best), 0), [1]),
  cases: [[[3, 5]], [[2, 7, 3]], [[0, 4]]],
  gradient: false,
  nan: false,
})

test('argmax: the first of several, a NaN first of all, and the index into everything', () => {
  expect([
    ...tensor([
      [1, 3, 3],
      [Number.NaN, 9, Number.NaN],
    ])
      .argmax({ axis: 1 })
      .dataSync(),
  ]).toEqual([1, 0])
  expect(
    tensor([
      [1, 3],
      [4, 0],
    ])
      .argmax()
      .itemSync(),
  ).toBe(2)
  expect(
    tensor([
      [1, 3],
      [4, 0],
    ]).argmax({ axis: 0, keepdims: true }).shape,
  ).toEqual([1, 2])
  expect(
    tensor([
      [1, 3],
      [4, 0],
    ]).argmax().dtype,
  ).toBe('int32')
  expect(() => ops.argmax(tensor([]))).toThrow('nothing to choose from')
})

test('integers are summed as int64, extremes keep their dtype, means want floats', () => {
  const i = tensor([2_000_000_000, 2_000_000_000], { dtype: 'int32' })
  expect(i.sum().dtype).toBe('int64')
  expect(i.sum().itemSync()).toBe(4_000_000_000)
  expect(i.max().dtype).toBe('int32')
  expect(
    tensor([true, true, false] as never, { dtype: 'bool' })
      .sum()
      .itemSync(),
  ).toBe(2)
  expect(() => i.mean()).toThrow('mean: x is int32')
})

test('errors name the axis', () => {
  const x = full([2, 3], 1)
  expect(() => x.sum({ axis: 2 })).toThrow('sum: axis 2 is out of range for a tensor of 2 axes')
  expect(() => x.sum({ axis: [0, -2] })).toThrow('sum: axis -2 is given twice')
  expect(() => full([2, 0], 1).max({ axis: 1 })).toThrow('max: axis 1 of [2, 0] has no elements')
  expect(full([2, 0], 1).mean().itemSync()).toBeNaN()
})

test('equal extremes share the gradient', () => {
  const x = tensor(
    [
      [2, 2, 1],
      [0, 3, 3],
    ],
    { requiresGrad: true },
  )
  x.max({ axis: 1 }).sum().backward()
  expect([...numbers(x.grad!)]).toEqual([0.5, 0.5, 0, 0, 0.5, 0.5])
})

test('long sums are as good as float64 allows and do not depend on the number of threads', () => {
  const next = uniforms(3)
  const values = Float32Array.from({ length: 300_000 }, () => next() - 0.5)
  for (const shape of [[300_000], [600, 500], [3, 100_000], [100_000, 3], [10, 300, 100]]) {
    const x = tensor(values, { shape })
    for (let axis = 0; axis < shape.length; axis++) {
      const expected = reduction(exactSum, [axis])({ shape, data: Float64Array.from(values) })
      expectClose(x.sum({ axis }), expected, 1e-7)
    }
    const total = exactSum([...values])
    expect(Math.abs(x.sum().itemSync() - total)).toBeLessThan(6e-8 * Math.abs(total) + 1e-10)
  }
  const x = tensor(values, { shape: [3, 1000, 100] })
  const threads = native.threads()
  const all = [1, 2, 3].map((count) => {
    native.setThreads(count)
    return [x.sum(), x.sum({ axis: 0 }), x.sum({ axis: 1 }), x.sum({ axis: 2 })].map((y) => [...numbers(y)])
  })
  native.setThreads(threads)
  expect(all[1]).toEqual(all[0])
  expect(all[2]).toEqual(all[0])
})

test('any axes of any strided view', () => {
  const dims = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 })
  fc.assert(
    fc.property(dims, fc.nat(15), fc.nat(), (shape, mask, turn) => {
      const data = Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => ((i * 37) % 101) - 50)
      const order = shape.map((_, i) => (i + turn) % shape.length)
      const x = tensor(data, { shape, dtype: 'float64' }).permute(order)
      const axis = shape.flatMap((_, i) => ((mask >> i) & 1 ? [i] : []))
      const nd = { shape: x.shape, data: numbers(x) }
      expectClose(x.sum({ axis }), reduction(exactSum, axis)(nd), 1e-14)
      expectClose(x.max({ axis, keepdims: true }), reduction(largest, axis, true)(nd), 0)
    }),
    { numRuns: 300, seed: 1 },
  )
})
