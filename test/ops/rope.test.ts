import { expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import { rope } from '../../lib/ops/rope.ts'
import { memory } from '../../lib/tensor.ts'
import { checkOp } from '../check.ts'
import { expectClose, golden, leaf, noise, numbers } from '../golden.ts'
import { rope as ropeOf } from '../reference.ts'

for (const dtype of ['float64', 'float32'] as const)
  test(`agrees with PyTorch: ${dtype}`, () => {
    const { values, settings } = golden('rope')
    const x = leaf(values.x!, dtype)
    const y = rope(x, { theta: Number(settings.theta) })
    expectClose(y, values.y!)
    backward(y, leaf(values.dy!, dtype))
    expectClose(x.grad, values.dx!)
  })

test('offset, theta, long sequences: positions keep their precision', () => {
  const x = noise([1, 1, 300, 8], 1)
  for (const [theta, offset] of [
    [500000, 0],
    [10000, 5000],
    [10, 777],
  ] as const)
    for (const dtype of ['float64', 'float32'] as const)
      expectClose(rope(leaf(x, dtype), { theta, offset }), {
        data: ropeOf(x.data, 300, 8, theta, offset),
        shape: x.shape,
      })
})

test('the table grows', () => {
  const x = noise([2, 700, 4], 2)
  const head = noise([1, 3, 4], 3)
  expectClose(rope(leaf(head), { theta: 77 }), { data: ropeOf(head.data, 3, 4, 77), shape: [1, 3, 4] })
  expectClose(rope(leaf(x), { theta: 77 }), { data: ropeOf(x.data, 700, 4, 77), shape: [2, 700, 4] })
  const before = memory().tensors
  rope(leaf(head), { theta: 77, offset: 900 }).dispose()
  expect(memory().tensors).toBe(before + 1) // the leaf; the table was there
})

test('one position, no rows, bfloat16', () => {
  const x = noise([1, 2], 1)
  expectClose(rope(leaf(x)), { data: x.data, shape: [1, 2] })
  expect(rope(tensor([], { shape: [2, 0, 8] })).shape).toEqual([2, 0, 8])
  const half = tensor([[1, 2]], { dtype: 'bfloat16' })
  expect(numbers(rope(half))).toEqual(numbers(half))
})

test('errors', () => {
  expect(() => rope(tensor([[1, 2, 3]]))).toThrow('rope: rows of x have 3 elements, but their number should be even')
  expect(() => rope(tensor([1, 2]))).toThrow('rope: x is [2], but should be [.., T, D]')
  expect(() => rope(tensor([[1, 2]]), { offset: -1 })).toThrow('rope: offset is -1')
  expect(() => rope(tensor([[1, 2]]), { theta: 0 })).toThrow('theta is 0')
  expect(() => rope(tensor([[1, 2]], { dtype: 'int32' }))).toThrow('rope: x is int32')
})

for (const options of [{}, { theta: 100, offset: 3 }])
  checkOp({
    name: `rope ${JSON.stringify(options)}`,
    op: (x) => rope(x!, options),
    oracle: (x) => ({
      shape: x!.shape,
      data: ropeOf(x!.data, x!.shape.at(-2)!, x!.shape.at(-1)!, options.theta, options.offset),
    }),
    cases: [[[2, 3, 5, 8]], [[1, 1, 1, 2]], [[3, 4]], [[2, 7, 6]], [[2, 0, 4]]],
  })
