import { expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import { mul } from '../../lib/ops/elementwise.ts'
import { sum } from '../../lib/ops/reduce.ts'
import { transpose } from '../../lib/ops/view.ts'
import { Flat } from '../../lib/optim/flat.ts'
import { memory } from '../../lib/tensor.ts'
import { leaf, noise, numbers } from '../golden.ts'

const make = () => {
  const params = new Map([
    ['a', leaf(noise([3, 5], 1), 'float32')],
    ['b', leaf(noise([2], 2), 'float32')],
  ])
  const before = [...params.values()].map(numbers)
  return { params, before, a: params.get('a')!, b: params.get('b')! }
}

test('parameters keep their values and lie in one buffer, each on a cache line of its own', () => {
  const { params, before, a, b } = make()
  const flat = new Flat(params)
  expect([numbers(a), numbers(b)]).toEqual(before)
  expect(flat.slots.map(({ offset }) => offset)).toEqual([0, 16])
  expect(flat.master.shape).toEqual([32])
  expect(flat.half).toBe(null)
  const all = numbers(flat.master)
  expect(all.slice(0, 15)).toEqual(before[0])
  expect(all.slice(15)).toEqual([0, ...before[1]!, ...new Array(14).fill(0)])
})

test('gradients add up in the buffer, and zeroGrad empties it', () => {
  const { params, a, b } = make()
  const flat = new Flat(params)
  backward(sum(mul(a, a)))
  backward(sum(mul(a, a)))
  const window = a.grad
  expect(numbers(flat.grad).slice(0, 15)).toEqual(numbers(a).map((v) => 4 * v))
  expect(numbers(b.grad)).toEqual([0, 0])
  flat.zeroGrad()
  expect(a.grad).toBe(window)
  expect(numbers(flat.grad)).toEqual(new Array(32).fill(0))
})

test('gradients that were put elsewhere are brought back', () => {
  const { params, a, b } = make()
  a.grad = tensor(new Array(15).fill(2), { shape: [3, 5] })
  const flat = new Flat(params)
  expect(numbers(flat.grad).slice(0, 16)).toEqual([...new Array(15).fill(2), 0])
  b.grad = tensor([7, 8])
  a.grad!.dispose()
  a.grad = null
  flat.collect()
  expect(numbers(flat.grad).slice(0, 18)).toEqual([...new Array(16).fill(0), 7, 8])
  a.grad = null
  flat.zeroGrad()
  backward(sum(b))
  backward(sum(a))
  expect(numbers(flat.grad).slice(0, 18)).toEqual([...new Array(15).fill(1), 0, 1, 1])
})

test('16-bit parameters have a float32 copy; strided ones lie in order afterwards', () => {
  const p = tensor([1, 2, 3], { dtype: 'bfloat16', requiresGrad: true })
  const flat = new Flat(new Map([['p', p]]))
  expect([flat.master.dtype, flat.grad.dtype, flat.half!.dtype, p.dtype]).toEqual([
    'float32',
    'float32',
    'bfloat16',
    'bfloat16',
  ])
  expect(numbers(flat.master).slice(0, 4)).toEqual([1, 2, 3, 0])
  const turned = transpose(
    tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]),
  )
  turned.requiresGrad = true
  const other = new Flat(new Map([['turned', turned]]))
  expect(numbers(other.master).slice(0, 7)).toEqual([1, 4, 2, 5, 3, 6, 0])
  expect(turned.shape).toEqual([3, 2])
})

test('a buffer of the same layout has a window for each parameter', () => {
  const { params } = make()
  const flat = new Flat(params)
  const before = memory().tensors
  const windows = flat.windows(flat.like())
  expect(windows.map(([name, t]) => [name, t.shape, numbers(t)])).toEqual([
    ['a', [3, 5], new Array(15).fill(0)],
    ['b', [2], [0, 0]],
  ])
  expect(memory().tensors).toBe(before + 3)
})
