import { expect, test } from 'vitest'
import { backward } from '../lib/grad.ts'
import { native } from '../lib/native.ts'
import { full, tensor } from '../lib/ops/create.ts'
import { gelu, relu } from '../lib/ops/elementwise.ts'
import { memory, noGrad, scope, Tensor } from '../lib/tensor.ts'

test('values travel there and back', async () => {
  const t = tensor([
    [1, 2, 3],
    [4, 5, 6],
  ])
  expect(t.shape).toEqual([2, 3])
  expect(Array.from(await t.data())).toEqual([1, 2, 3, 4, 5, 6])
  expect(() => tensor([[1], [2, 3]])).toThrow(/ragged/)
  expect(Array.from(tensor([1, 2], { dtype: 'bfloat16' }).dataSync())).toEqual([0x3f80, 0x4000])
})

test('a gradient flows back', () => {
  const x = tensor([-1, 0.5, 2], { requiresGrad: true })
  backward(relu(gelu(x)), full([3], 1))
  expect(x.grad!.dataSync()[0]).toBeCloseTo(0, 12)
  expect(x.grad!.dataSync()[2]).toBeCloseTo(1.0852, 4)
})

test('dropped results are freed inside a synchronous loop', () => {
  const x = tensor(new Float32Array(1024))
  const before = memory().tensors
  let most = 0
  for (let i = 0; i < 200_000; i++) {
    relu(x)
    if (i % 1000 === 0) most = Math.max(most, memory().tensors - before)
  }
  expect(most).toBeLessThan(60_000)
})

test('a scope frees what it does not return', async () => {
  const before = memory().tensors
  const y = scope(() => {
    const a = tensor([1, -1])
    relu(a)
    return relu(a)
  })
  expect(memory().tensors).toBe(before + 1)
  y.dispose()
  await scope(async () => {
    const a = tensor([1, -1])
    await a.data()
    relu(a)
  })
  expect(memory().tensors).toBe(before)
  expect(() => y.shape && native.shapeOf(y.handle)).toThrow(/disposed/)
})

test('noGrad records nothing', () => {
  const x = tensor([1], { requiresGrad: true })
  expect(noGrad(() => relu(x)).tracked).toBe(false)
  expect(relu(x)).toBeInstanceOf(Tensor)
  expect(relu(x).tracked).toBe(true)
})
