import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import { logSoftmax, logsumexp, softmax } from '../../lib/ops/softmax.ts'
import { permute } from '../../lib/ops/view.ts'
import { checkOp } from '../check.ts'
import { expectClose, leaf, noise, numbers } from '../golden.ts'
import { type Nd, reduction } from '../nd.ts'
import { differences, logsumexp as logsumexpOf, rowsOf, softmax as softmaxOf } from '../reference.ts'

const rows = (n: number, fn: (row: number[]) => number[]) => (x: ArrayLike<number>) =>
  Float64Array.from(rowsOf(x, n).flatMap(fn))

const wide = (shape: number[], seed: number) => {
  const x = noise(shape, seed)
  x.data.forEach((v, i) => {
    x.data[i] = 8 * v
  })
  return x
}

describe.each([
  ['softmax', softmax, softmaxOf],
  ['logSoftmax', logSoftmax, (row: number[]) => row.map((v) => v - logsumexpOf(row))],
] as const)('%s', (_, op, of) => {
  for (const dtype of ['float64', 'float32'] as const)
    test(`values and gradient: ${dtype}`, () => {
      const [x, dy] = [wide([2, 5, 33], 1), noise([2, 5, 33], 2)]
      const tx = leaf(x, dtype)
      const y = op(tx)
      const reference = rows(33, (row) => of(row) as number[])
      expectClose(y, { data: reference(x.data), shape: x.shape })
      backward(y, leaf(dy, dtype))
      const near = dtype === 'float64' ? 1e-8 : undefined
      expectClose(tx.grad, { data: differences(reference, x.data, dy.data), shape: x.shape }, near)
    })

  test('another axis; a strided gradient', () => {
    const [x, dy] = [wide([4, 3, 5], 3), noise([4, 3, 5], 4)]
    const order = [0, 2, 1]
    const moved = (data: Float64Array) => {
      const t = permute(tensor(data, { dtype: 'float64', shape: [4, 3, 5] }), order)
      return Float64Array.from(numbers(t))
    }
    for (const axis of [1, -2]) {
      const tx = leaf(x)
      const y = op(tx, { axis })
      const reference = rows(3, (row) => of(row) as number[])
      expectClose(permute(y, order), { data: reference(moved(x.data)), shape: [4, 5, 3] })
      backward(y, leaf(dy))
      const expected = differences(reference, moved(x.data), moved(dy.data))
      expectClose(permute(tx.grad!, order), { data: expected, shape: [4, 5, 3] }, 1e-8)
    }
    expect(() => op(leaf(x), { axis: 3 })).toThrow('axis 3 is out of range')
  })

  test('large values, masked values, one element, none', () => {
    const [a, b, c] = numbers(op(tensor([[1e4, 1e4, Number.NEGATIVE_INFINITY]])))
    expect(a).toBeCloseTo(of([0, 0])[0]!, 6)
    expect(b).toBe(a)
    expect(c).toBe(of([0, Number.NEGATIVE_INFINITY])[1])
    expect(numbers(op(tensor([7])))).toEqual([op === softmax ? 1 : 0])
    expect(op(tensor([], { shape: [0, 3] })).shape).toEqual([0, 3])
    expect(numbers(op(tensor([1, Number.NaN])))).toEqual([Number.NaN, Number.NaN])
    expect(() => op(tensor([1, 2], { dtype: 'int32' }))).toThrow('x is int32')
  })
})

describe('logsumexp', () => {
  for (const dtype of ['float64', 'float32'] as const)
    test(`values and gradient: ${dtype}`, () => {
      const [x, dy] = [wide([3, 40], 1), noise([3], 2)]
      const tx = leaf(x, dtype)
      const y = logsumexp(tx)
      const reference = rows(40, (row) => [logsumexpOf(row)])
      expectClose(y, { data: reference(x.data), shape: [3] })
      backward(y, leaf(dy, dtype))
      const near = dtype === 'float64' ? 1e-8 : undefined
      expectClose(tx.grad, { data: differences(reference, x.data, dy.data), shape: x.shape }, near)
    })

  test('several axes, keepdims', () => {
    const x = wide([2, 3, 4], 5)
    const tx = leaf(x)
    const all = logsumexpOf(Array.from(x.data))
    expectClose(logsumexp(tx, { axis: [0, 1, 2] }), { data: Float64Array.of(all), shape: [] })
    const y = logsumexp(tx, { axis: [0, -1], keepdims: true })
    const parts = [0, 1, 2].map((j) => logsumexpOf(Array.from(x.data).filter((_, i) => Math.floor(i / 4) % 3 === j)))
    expectClose(y, { data: Float64Array.from(parts), shape: [1, 3, 1] })
    backward(y, leaf({ data: Float64Array.of(1, 1, 1), shape: [1, 3, 1] }))
    const expected = x.data.map((v, i) => Math.exp(v - parts[Math.floor(i / 4) % 3]!))
    expectClose(tx.grad, { data: expected, shape: [2, 3, 4] })
    expect(() => logsumexp(tx, { axis: 3 })).toThrow('permute')
    expect(() => logsumexp(tx, { axis: [1, 1] })).toThrow('permute')
  })

  test('infinities and nothing', () => {
    const inf = Number.POSITIVE_INFINITY
    expect(
      numbers(
        logsumexp(
          tensor([
            [-inf, -inf],
            [inf, 1],
            [Number.NaN, 1],
          ]),
        ),
      ),
    ).toEqual([-inf, inf, Number.NaN])
    expect(numbers(logsumexp(tensor([], { shape: [2, 0] })))).toEqual([-inf, -inf])
    expect(numbers(logsumexp(tensor([1, 2], { dtype: 'bfloat16' })))[0]).toBeCloseTo(logsumexpOf([1, 2]), 1)
  })
})

const along = (fn: (row: number[]) => number[]) => (x: Nd) => ({
  shape: x.shape,
  data: x.shape.at(-1) ? rows(x.shape.at(-1)!, fn)(x.data) : x.data,
})
checkOp({
  name: 'softmax',
  op: (x) => softmax(x!),
  oracle: along(softmaxOf),
  cases: [[[3, 7]], [[2, 1, 33]], [[5, 1]], [[4]], [[0, 4]], [[4, 0]]],
})
checkOp({
  name: 'logSoftmax',
  op: (x) => logSoftmax(x!),
  oracle: along((row) => row.map((v) => v - logsumexpOf(row))),
  cases: [[[3, 7]], [[2, 1, 33]], [[5, 1]], [[4]], [[0, 4]]],
})
for (const options of [{}, { axis: 0 }, { axis: [0, -1], keepdims: true }])
  checkOp({
    name: `logsumexp over ${JSON.stringify(options)}`,
    op: (x) => logsumexp(x!, options),
    oracle: reduction(logsumexpOf, [options.axis ?? -1].flat(), options.keepdims ?? false),
    cases: [[[3, 7]], [[2, 3, 9]], [[1, 1]]],
  })
