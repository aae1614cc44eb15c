import { expect, test } from 'vitest'
import { constant, normal, uniform } from '../../lib/nn/init.ts'
import { seed } from '../../lib/ops/random.ts'

const moments = (x: Float32Array) => {
  const mean = x.reduce((a, b) => a + b, 0) / x.length
  return { mean, std: Math.sqrt(x.reduce((s, v) => s + (v - mean) ** 2, 0) / x.length) }
}
const values = (init: ReturnType<typeof normal>, count = 40_000) => init([count / 100, 100]).dataSync() as Float32Array

test('normal', () => {
  seed(1)
  const x = values(normal(0.02))
  // Five standard errors either way.
  expect(Math.abs(moments(x).mean)).toBeLessThan((5 * 0.02) / 200)
  expect(Math.abs(moments(x).std / 0.02 - 1)).toBeLessThan(5 / Math.sqrt(2 * 40_000))
  expect(Math.max(...x)).toBeGreaterThan(3 * 0.02)
})

// The standard deviation of a normal cut at c: 1 - 2 c phi(c) / (2 Phi(c) - 1), by its integral.
const cutStd = (c: number) => {
  let [mass, square] = [0, 0]
  for (let i = 0; i < 100_000; i++) {
    const x = -c + ((i + 0.5) / 100_000) * 2 * c
    mass += Math.exp((-x * x) / 2)
    square += x * x * Math.exp((-x * x) / 2)
  }
  return Math.sqrt(square / mass)
}
test.each([3, 1, 0.5])('normal, cut at %d standard deviations', (cutoff) => {
  seed(2)
  const x = values(normal(2, cutoff))
  expect(Math.max(...x.map(Math.abs))).toBeLessThanOrEqual(2 * cutoff)
  expect(Math.abs(moments(x).std / (2 * cutStd(cutoff)) - 1)).toBeLessThan(5 / Math.sqrt(2 * 40_000))
  // Drawn again, not put on the edge.
  expect(x.filter((v) => Math.abs(v) === 2 * cutoff).length).toBe(0)
})

test('uniform and constant', () => {
  seed(3)
  const x = values(uniform(0.5))
  expect(Math.max(...x.map(Math.abs))).toBeLessThanOrEqual(0.5)
  expect(Math.abs(moments(x).std / (1 / Math.sqrt(12)) - 1)).toBeLessThan(5 / 200)
  expect(constant(3)([2]).dataSync()).toEqual(new Float32Array([3, 3]))
})

test('the same seed gives the same values, in every dtype', () => {
  const draw = (dtype: 'float32' | 'float64') => {
    seed(4)
    return Array.from(normal(1, 2)([10], { dtype }).dataSync() as Float32Array)
  }
  expect(draw('float32')).toEqual(draw('float32'))
  draw('float64').forEach((x, i) => {
    expect(x).toBeCloseTo(draw('float32')[i]!, 5)
  })
})
