import { expect, test } from 'vitest'
import { ops, tensor } from '../../lib/index.ts'

const x = tensor([
  [1, 2, 3],
  [4, 5, 6],
])

test('views read the same memory in another order', () => {
  expect(Array.from(x.transpose().reshape([6]).dataSync())).toEqual([1, 4, 2, 5, 3, 6])
  expect(Array.from(x.slice(1, -2).dataSync())).toEqual([2, 3, 5, 6])
  expect(Array.from(x.slice([[1], [0, 3, 2]]).dataSync())).toEqual([4, 6])
  expect(x.split(2, 1).map((part) => part.shape)).toEqual([
    [2, 2],
    [2, 1],
  ])
  expect(Array.from(ops.concat([x, x], 1).dataSync())).toEqual([1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6])
})
