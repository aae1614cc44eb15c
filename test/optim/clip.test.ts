import { expect, test } from 'vitest'
import { tensor } from '../../lib/ops/create.ts'
import { clipGradNorm } from '../../lib/optim/clip.ts'
import { memory } from '../../lib/tensor.ts'
import { expectClose, leaf, noise, numbers } from '../golden.ts'

const withGrads = () => {
  const params = [leaf(noise([4, 3], 1)), leaf(noise([5], 2), 'float32'), leaf(noise([2], 3))]
  params[0]!.grad = leaf(noise([4, 3], 4))
  params[1]!.grad = leaf(noise([5], 5), 'float32')
  return { params, norm: Math.hypot(...noise([4, 3], 4).data, ...noise([5], 5).data) }
}

test('gradients are scaled to the norm, and the norm before is returned', () => {
  const { params, norm } = withGrads()
  const before = memory().tensors
  const found = clipGradNorm(params, 0.25)
  expect(memory().tensors).toBe(before + 1)
  expect(found.itemSync()).toBeCloseTo(norm, 6)
  const share = 0.25 / (norm + 1e-6)
  expectClose(params[0]!.grad, { data: noise([4, 3], 4).data.map((g) => g * share), shape: [4, 3] }, 1e-7)
  expectClose(params[1]!.grad, { data: noise([5], 5).data.map((g) => g * share), shape: [5] })
  expect(params[2]!.grad).toBe(null)
})

test('below the norm nothing changes', () => {
  const { params, norm } = withGrads()
  for (const maxNorm of [2 * norm, Number.POSITIVE_INFINITY]) {
    expect(clipGradNorm(params, maxNorm).itemSync()).toBeCloseTo(norm, 6)
    expect(numbers(params[0]!.grad)).toEqual(Array.from(noise([4, 3], 4).data))
  }
})

test('squares that overflow float32; no gradients; a norm that makes no sense', () => {
  const p = leaf(noise([2], 1), 'float32')
  p.grad = tensor([3e30, 4e30])
  expect(clipGradNorm([p], 1).itemSync() / 5e30).toBeCloseTo(1, 6)
  expect(numbers(p.grad).map((g) => Number(g.toFixed(5)))).toEqual([0.6, 0.8])
  expect(clipGradNorm([leaf(noise([2], 1))], 1).itemSync()).toBe(0)
  for (const bad of [0, -1, Number.NaN]) expect(() => clipGradNorm([p], bad)).toThrow(`clipGradNorm: maxNorm is ${bad}`)
})
