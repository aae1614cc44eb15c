import { expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { coefficientGradient, groupedWeightGradient, weightGradient } from '../../lib/ops/gradients.ts'
import { groupedMatmul, linear } from '../../lib/ops/index.ts'
import { expectClose, leaf, noise, numbers } from '../golden.ts'
import { matmul } from '../reference/matmul.ts'

test('the gradient of a weight is dy^T @ x, of groups that of each', () => {
  const [x, dy] = [noise([5, 3], 1), noise([5, 4], 2)]
  const [tx, tdy] = [tensor(x.data, { shape: x.shape }), tensor(dy.data, { shape: dy.shape })]
  const of = (begin: number, end: number) => {
    const rows = (v: typeof x, n: number) => ({ data: v.data.slice(begin * n, end * n), shape: [end - begin, n] })
    const transposed = { data: new Float64Array(4 * (end - begin)), shape: [4, end - begin] }
    rows(dy, 4).data.forEach((v, i) => {
      transposed.data[(i % 4) * (end - begin) + Math.floor(i / 4)] = v
    })
    return matmul(transposed, rows(x, 3)).y
  }
  expectClose(weightGradient(tx, tdy, leaf(noise([4, 3], 3))), of(0, 5))
  const offsets = tensor([0, 2, 5], { dtype: 'int32' })
  const each = [of(0, 2), of(2, 5)].flatMap(({ data }) => [...data])
  const grouped = groupedWeightGradient(tx, tdy, leaf(noise([2, 4, 3], 3)), offsets)
  expectClose(grouped, { data: Float64Array.from(each), shape: [2, 4, 3] })
})

test('where there is a gradient, backward adds to it in its place', () => {
  const offsets = tensor([0, 2, 5], { dtype: 'int32' })
  for (const groups of [false, true]) {
    const w = leaf(noise(groups ? [2, 4, 3] : [4, 3], 1))
    const x = tensor(noise([5, 3], 2).data, { shape: [5, 3] })
    const dy = tensor(noise([5, 4], 3).data, { shape: [5, 4] })
    const pass = () => backward(groups ? groupedMatmul(x, w, offsets) : linear(x, w), dy)
    pass()
    const first = w.grad!
    const { handle } = first
    const once = numbers(first)
    pass()
    expect(w.grad).toBe(first)
    expect(w.grad!.handle).toBe(handle)
    for (const [i, g] of numbers(w.grad).entries()) expect(g).toBeCloseTo(2 * once[i]!, 5)
  }
})

test('the gradient of coefficients has their dtype', () => {
  const parameter = leaf(noise([3], 1), 'bfloat16')
  const d = coefficientGradient(native.full([3], 0.5, 0, native.deviceOf(parameter.handle)), parameter)
  expect(d.dtype).toBe('bfloat16')
  expect(numbers(d)).toEqual([0.5, 0.5, 0.5])
})
