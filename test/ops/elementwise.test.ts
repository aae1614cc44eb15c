import { expect, test } from 'vitest'
import { arange, ops, tensor } from '../../lib/index.ts'

test('operands are broadcast, numbers take part, gradients are summed back', () => {
  const x = tensor([[1, 2, 3]], { requiresGrad: true })
  const b = tensor([[10], [20]], { requiresGrad: true })
  const y = x.mul(2).add(b)
  expect(Array.from(y.dataSync())).toEqual([12, 14, 16, 22, 24, 26])
  y.sum().backward()
  expect(Array.from(x.grad!.dataSync())).toEqual([4, 4, 4])
  expect(Array.from(b.grad!.dataSync())).toEqual([3, 3])
  expect(Array.from(ops.div(arange(4), 2).dataSync())).toEqual([0, 0.5, 1, 1.5])
  expect(Array.from(ops.where(x.gt(2), x, 0).dataSync())).toEqual([0, 0, 3])
})
