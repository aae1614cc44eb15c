import { expect, test } from 'vitest'
import { Dropout } from '../../lib/nn/dropout.ts'
import { ones } from '../../lib/ops/create.ts'
import { seed } from '../../lib/ops/random.ts'

test('in training: zeros with probability p, the rest scaled', () => {
  seed(5)
  const y = Array.from(new Dropout(0.25).forward(ones([10_000])).dataSync() as Float32Array)
  const dropped = y.filter((v) => v === 0).length
  expect(Math.abs(dropped / 10_000 - 0.25)).toBeLessThan(5 * Math.sqrt((0.25 * 0.75) / 10_000))
  expect(y.filter((v) => v !== 0 && Math.abs(v - 4 / 3) > 1e-6)).toEqual([])
})

test('in evaluation mode, and with p = 0, x itself', () => {
  const x = ones([3])
  expect(new Dropout(0.5).eval().forward(x)).toBe(x)
  expect(new Dropout(0).forward(x)).toBe(x)
  expect(() => new Dropout(1)).toThrow(/p is 1/)
})
