import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import { crossEntropy } from '../../lib/ops/loss.ts'
import type { Tensor } from '../../lib/tensor.ts'
import { expectClose, golden, leaf, noise, numbers } from '../golden.ts'
import { crossEntropy as crossEntropyOf, differences, rowsOf, softmax } from '../reference.ts'

const scalar = (v: number) => ({ data: Float64Array.of(v), shape: [] })
const classes = (values: ArrayLike<number>, shape: number[], dtype: 'int32' | 'int64' = 'int32') =>
  tensor(Array.from(values), { dtype, shape })

describe('crossEntropy', () => {
  for (const dtype of ['float64', 'float32'] as const)
    for (const index of ['int32', 'int64'] as const)
      test(`agrees with PyTorch: ${dtype}, ${index}`, () => {
        const { values, settings } = golden('cross_entropy')
        const logits = leaf(values.logits!, dtype)
        const targets = classes(values.targets!.data, values.targets!.shape, index)
        const loss = crossEntropy(logits, targets, { ignoreIndex: Number(settings.ignore_index) })
        expectClose(loss, { ...values.loss!, shape: [] })
        backward(loss)
        expectClose(logits.grad, values.dlogits!)
      })

  test('long rows, any leading axes, a gradient that is not 1', () => {
    const shape = [2, 3, 5000]
    const logits = noise(shape, 1)
    logits.data.forEach((v, i) => {
      logits.data[i] = 20 * v
    })
    const targets = [0, 4999, 17, -100, 2500, 1]
    for (const dtype of ['float64', 'float32'] as const) {
      const x = leaf(logits, dtype)
      const loss = crossEntropy(x, classes(targets, [2, 3]))
      expectClose(loss, scalar(crossEntropyOf(logits.data, targets)))
      backward(loss, tensor([-2.5], { dtype, shape: [] }))
      // The definition's own gradient: (softmax - one hot) / count.
      const expected = rowsOf(logits.data, 5000).flatMap((row, r) => {
        if (targets[r] === -100) return row.map(() => 0)
        return softmax(row).map((p, i) => (-2.5 * (p - (targets[r] === i ? 1 : 0))) / 5)
      })
      expectClose(x.grad, { data: Float64Array.from(expected), shape }, dtype === 'float64' ? 1e-12 : 4e-6)
    }
  })

  test('by differences; logits of any size', () => {
    const logits = noise([3, 4], 2)
    const targets = [3, 1, 0]
    const x = leaf(logits)
    backward(crossEntropy(x, classes(targets, [3])))
    const expected = differences((v) => [crossEntropyOf(v, targets)], logits.data, [1])
    expectClose(x.grad, { data: expected, shape: [3, 4] }, 1e-8)
    const far = tensor([[1000, -1000]], { requiresGrad: true })
    const loss = crossEntropy(far, classes([1], [1]))
    expect(loss.itemSync()).toBe(2000)
    backward(loss)
    expect(numbers(far.grad)).toEqual([1, -1])
  })

  test('no row that counts: 0 and no gradient, not NaN', () => {
    const x = leaf(noise([2, 4], 1))
    const loss = crossEntropy(x, classes([7, 7], [2]), { ignoreIndex: 7 })
    expect(loss.itemSync()).toBe(0)
    backward(loss)
    expect(numbers(x.grad)).toEqual(new Array(8).fill(0))
    expect(crossEntropy(tensor([], { shape: [0, 4] }), classes([], [0])).itemSync()).toBe(0)
  })

  test('bfloat16 logits give a float32 loss', () => {
    const x = tensor([[1, 2, 3]], { dtype: 'bfloat16', requiresGrad: true })
    const loss = crossEntropy(x, classes([2], [1]))
    expect(loss.dtype).toBe('float32')
    expectClose(loss, scalar(crossEntropyOf([1, 2, 3], [2])))
    backward(loss)
    expect(x.grad!.dtype).toBe('bfloat16')
  })

  test('a target that is no class is named at the next wait, and the loss is NaN', async () => {
    const x = leaf(noise([4, 3], 1))
    for (const bad of [3, -1]) {
      const loss = crossEntropy(x, classes([0, 1, bad, 9], [4]))
      await expect(loss.item()).rejects.toThrow(`crossEntropy: targets[2] is ${bad}, but there are 3 classes`)
      expect(loss.itemSync()).toBeNaN() // the failure has been told; the tensor can be read
    }
    const huge = tensor(BigInt64Array.of(2n ** 32n, 0n), { shape: [2] })
    expect(() => crossEntropy(leaf(noise([2, 3], 1)), huge).itemSync()).toThrow('targets[0] is 4294967296')
  })

  test('NaN in the logits is NaN in the loss', () => {
    const x = tensor([[1, Number.NaN, 2]])
    expect(crossEntropy(x, classes([0], [1])).itemSync()).toBeNaN()
  })

  test('errors name both sides', () => {
    const x: Tensor = leaf(noise([2, 3], 1))
    expect(() => crossEntropy(x, classes([1], [1]))).toThrow('crossEntropy: targets are [1] but should be [2]')
    expect(() => crossEntropy(x, tensor([1, 2]))).toThrow('crossEntropy: targets are float32')
  })
})
