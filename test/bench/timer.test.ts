import { expect, test } from 'vitest'
import { interleave, ratio, summary } from '../../lib/bench/timer.ts'

test('the median of odd and even counts', () => {
  expect(summary([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3, runs: 3 })
  expect(summary([4, 1, 2, 3]).median).toBe(2.5)
})

test('contenders take turns, and warm-up does not count', async () => {
  const order: string[] = []
  const contender = (name: string) => async () => order.push(name)
  const seconds = await interleave({ a: contender('a'), b: contender('b') }, { rounds: 2, warmup: 1 })
  expect(order).toEqual(['a', 'b', 'a', 'b', 'a', 'b'])
  expect(seconds).toEqual({ a: [3, 5], b: [4, 6] })
})

test('a ratio is taken round by round', () => {
  expect(ratio([2, 40, 6], [1, 10, 2])).toBe(3)
})
