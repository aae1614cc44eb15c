import { expect, test } from 'vitest'
import { ones, tensor } from '../../lib/index.ts'

test('sums, means, extremes over axes', () => {
  const x = tensor([
    [1, 2, 3],
    [4, 5, 6],
  ])
  expect(Array.from(x.sum({ axis: 0 }).dataSync())).toEqual([5, 7, 9])
  expect(x.sum({ axis: 1, keepdims: true }).shape).toEqual([2, 1])
  expect(x.mean().itemSync()).toBe(3.5)
  expect(Array.from(x.max({ axis: -1 }).dataSync())).toEqual([3, 6])
  expect(x.argmax().itemSync()).toBe(5)
  expect(ones([1000, 3000]).transpose().sum({ axis: 0 }).dataSync()[7]).toBe(3000)
})
