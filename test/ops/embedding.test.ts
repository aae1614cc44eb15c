import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import { embedding } from '../../lib/ops/embedding.ts'
import { checkOp } from '../check.ts'
import { expectClose, leaf, noise, numbers } from '../golden.ts'

describe('embedding', () => {
  for (const dtype of ['float64', 'float32'] as const)
    for (const index of ['int32', 'int64', 'uint8'] as const)
      test(`rows and the table's gradient: ${dtype}, ${index}`, () => {
        const [vocabulary, width] = [11, 130]
        const ids = [3, 3, 0, 10, 3, 7]
        const [w, dy] = [noise([vocabulary, width], 1), noise([2, 3, width], 2)]
        const weight = leaf(w, dtype)
        const y = embedding(tensor(ids, { dtype: index, shape: [2, 3] }), weight)
        const rows = ids.flatMap((id) => Array.from(w.data.subarray(id * width, (id + 1) * width)))
        expectClose(y, { data: Float64Array.from(rows), shape: [2, 3, width] }, dtype === 'float64' ? 0 : 1e-7)
        backward(y, leaf(dy, dtype))
        const expected = new Float64Array(vocabulary * width)
        ids.forEach((id, n) => {
          for (let i = 0; i < width; i++) expected[id * width + i]! += dy.data[n * width + i]!
        })
        expectClose(weight.grad, { data: expected, shape: [vocabulary, width] }, dtype === 'float64' ? 1e-15 : 2e-7)
      })

  test('two runs give the same bits', () => {
    const ids = tensor(
      Array.from({ length: 5000 }, (_, i) => (i * i) % 7),
      { dtype: 'int32' },
    )
    const dy = leaf(noise([5000, 70], 1), 'float32')
    const once = () => {
      const weight = leaf(noise([7, 70], 2), 'float32')
      backward(embedding(ids, weight), dy)
      return numbers(weight.grad)
    }
    expect(once()).toEqual(once())
  })

  test('a gradient that is there is added to, in place', () => {
    const [w, dy] = [noise([6, 70], 1), noise([3, 70], 2)]
    const ids = tensor([5, 2, 5], { dtype: 'int32' })
    const weight = leaf(w)
    backward(embedding(ids, weight), leaf(dy))
    const once = numbers(weight.grad)
    const there = weight.grad
    backward(embedding(ids, weight), leaf(dy))
    expect(weight.grad).toBe(there)
    expectClose(weight.grad, { data: Float64Array.from(once, (v) => 2 * v), shape: [6, 70] }, 1e-15)
  })

  test('bfloat16: the gradient is added up in float32', () => {
    const weight = tensor([[1, 2]], { dtype: 'bfloat16', requiresGrad: true })
    const y = embedding(tensor(new Array(1000).fill(0), { dtype: 'int32' }), weight)
    backward(y, tensor(new Array(2000).fill(1), { shape: [1000, 2], dtype: 'bfloat16' }))
    const exact = tensor([1000, 1000], { dtype: 'bfloat16' })
    expect(numbers(weight.grad)).toEqual(numbers(exact))
  })

  test('an id outside the vocabulary is named at the next wait, and its row is NaN', async () => {
    const weight = leaf(noise([256, 3], 1), 'float32')
    const y = embedding(tensor([0, 255, 1, 300, -5], { dtype: 'int32' }), weight)
    await expect(y.data()).rejects.toThrow('embedding: ids[3] is 300, but the vocabulary has 256')
    expect(numbers(y).map(Number.isNaN)).toEqual([...new Array(9).fill(false), ...new Array(6).fill(true)])
    backward(y, leaf(noise([5, 3], 2), 'float32')) // what is there still gets its gradient
    expect(numbers(weight.grad).some(Number.isNaN)).toBe(false)
    expect(() => embedding(tensor(BigInt64Array.of(2n ** 32n)), weight).dataSync()).toThrow('ids[0] is 4294967296')
  })

  test('no ids, a scalar id', () => {
    const weight = leaf(noise([2, 3], 1))
    const none = embedding(tensor([], { dtype: 'int32', shape: [0] }), weight)
    expect(none.shape).toEqual([0, 3])
    backward(none, leaf({ data: new Float64Array(0), shape: [0, 3] }))
    expect(numbers(weight.grad)).toEqual([0, 0, 0, 0, 0, 0])
    expect(embedding(tensor(1, { dtype: 'int32' }), weight).shape).toEqual([3])
  })

  test('errors name both sides', () => {
    expect(() => embedding(tensor([1]), leaf(noise([2, 3], 1)))).toThrow('embedding: ids are float32')
    expect(() => embedding(tensor([1], { dtype: 'int32' }), leaf(noise([3], 1)))).toThrow('weight is float64 [3]')
  })
})

checkOp({
  name: 'embedding',
  op: (ids, weight) => embedding(ids!, weight!),
  oracle: (ids, weight) => ({
    shape: [...ids!.shape, weight!.shape[1]!],
    data: Float64Array.from(
      Array.from(ids!.data).flatMap((id) =>
        Array.from(weight!.data.subarray(id * weight!.shape[1]!, (id + 1) * weight!.shape[1]!)),
      ),
    ),
  }),
  cases: [
    [[4], [3, 5]],
    [
      [2, 3],
      [3, 1],
    ],
    [[0], [3, 5]],
  ],
  integers: { 0: 'int32' },
  values: (u, input, i) => (input ? 4 * u - 2 : [1, 2, 1, 0][i % 4]!),
})
