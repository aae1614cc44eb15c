import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import { crossEntropy, linearCrossEntropy } from '../../lib/ops/loss.ts'
import { linear } from '../../lib/ops/matmul.ts'
import { memory, noGrad, type Tensor } from '../../lib/tensor.ts'
import { checkOp } from '../check.ts'
import { anyThreads, expectClose, golden, leaf, noise, numbers } from '../golden.ts'
import { crossEntropy as crossEntropyOf, differences, rowsOf, softmax } from '../reference.ts'

const scalar = (v: number) => ({ data: Float64Array.of(v), shape: [] })
const classes = (values: ArrayLike<number>, shape: number[], dtype: 'int32' | 'int64' = 'int32') =>
  tensor(Array.from(values), { dtype, shape })

// (rows, D) @ (V, D)^T
const product = (x: Float64Array, w: Float64Array, d: number) =>
  Float64Array.from(rowsOf(x, d).flatMap((u) => rowsOf(w, d).map((v) => u.reduce((s, a, i) => s + a * v[i]!, 0))))

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

describe('linearCrossEntropy', () => {
  for (const dtype of ['float64', 'float32'] as const)
    test(`by differences: ${dtype}`, () => {
      const [x, w] = [noise([2, 3, 4], 1), noise([7, 4], 2)]
      const targets = [0, 6, -100, 3, 3, 1]
      const [tx, tw] = [leaf(x, dtype), leaf(w, dtype)]
      const loss = linearCrossEntropy(tx, tw, classes(targets, [2, 3]))
      expectClose(loss, scalar(crossEntropyOf(product(x.data, w.data, 4), targets)))
      backward(loss, tensor([3], { dtype, shape: [] }))
      const near = dtype === 'float64' ? 1e-8 : undefined
      const dx = differences((v) => [crossEntropyOf(product(v, w.data, 4), targets)], x.data, [3])
      const dw = differences((v) => [crossEntropyOf(product(x.data, v, 4), targets)], w.data, [3])
      expectClose(tx.grad, { data: dx, shape: x.shape }, near)
      expectClose(tw.grad, { data: dw, shape: w.shape }, near)
    })

  test('more rows than are made at a time: as the product and crossEntropy one after the other', () => {
    const [n, d, v] = [1100, 6, 8200] // 512 rows at a time
    const [x, w] = [noise([n, d], 1), noise([v, d], 2)]
    const targets = classes(
      Array.from({ length: n }, (_, i) => (i % 5 === 2 ? -100 : (i * 7919) % v)),
      [n],
    )
    const [tx, tw, ux, uw] = [leaf(x, 'float32'), leaf(w, 'float32'), leaf(x, 'float32'), leaf(w, 'float32')]
    const loss = linearCrossEntropy(tx, tw, targets)
    const apart = crossEntropy(linear(ux, uw), targets)
    expect(Math.abs(loss.itemSync() / apart.itemSync() - 1)).toBeLessThan(1e-6)
    backward(loss)
    backward(apart)
    // Both sides are rounded in float32, and their products may add up in another order.
    expectClose(tx.grad, { data: Float64Array.from(numbers(ux.grad)), shape: [n, d] }, 8e-6)
    expectClose(tw.grad, { data: Float64Array.from(numbers(uw.grad)), shape: [v, d] }, 8e-6)
  })

  test('only what is wanted is computed; without gradients the same loss', () => {
    const [x, w] = [leaf(noise([5, 4], 1)), leaf(noise([7, 4], 2))]
    const targets = classes([1, 2, 3, 4, 5], [5])
    const loss = linearCrossEntropy(x, w, targets).itemSync()
    const before = memory().tensors
    const plain = noGrad(() => linearCrossEntropy(x, w, targets))
    expect(plain.itemSync()).toBe(loss)
    expect(memory().tensors).toBe(before + 1)
    for (const frozen of [x, w]) {
      frozen.requiresGrad = false
      x.grad = null
      w.grad = null
      backward(linearCrossEntropy(x, w, targets))
      expect(frozen.grad).toBe(null)
      frozen.requiresGrad = true
      const other = frozen === x ? w : x
      expect(other.grad!.shape).toEqual(other.shape)
    }
  })

  test('a graph that is kept gives its gradient again', () => {
    const [x, w] = [leaf(noise([5, 4], 1)), leaf(noise([7, 4], 2))]
    const loss = linearCrossEntropy(x, w, classes([1, 2, 3, 4, 5], [5]))
    backward(loss, tensor([2], { dtype: 'float64', shape: [] }), { retainGraph: true })
    const once = numbers(w.grad)
    backward(loss, tensor([2], { dtype: 'float64', shape: [] }))
    expect(numbers(w.grad)).toEqual(once.map((v) => 2 * v))
  })

  test('bfloat16, no rows, no row that counts', () => {
    const half = { dtype: 'bfloat16', requiresGrad: true } as const
    const [x, w] = [
      tensor([[1, 2]], half),
      tensor(
        [
          [1, 0],
          [0, 1],
        ],
        half,
      ),
    ]
    const loss = linearCrossEntropy(x, w, classes([0], [1]))
    expect(loss.dtype).toBe('float32')
    expect(loss.itemSync()).toBeCloseTo(Math.log(1 + Math.E), 6)
    backward(loss)
    expect([x.grad!.dtype, w.grad!.dtype]).toEqual(['bfloat16', 'bfloat16'])
    for (const [rows, targets] of [
      [0, []],
      [2, [-100, -100]],
    ] as const) {
      const [u, v] = [leaf(noise([rows, 3], 1)), leaf(noise([4, 3], 2))]
      const none = linearCrossEntropy(u, v, classes(targets, [rows]))
      expect(none.itemSync()).toBe(0)
      backward(none)
      expect(numbers(u.grad)).toEqual(new Array(rows * 3).fill(0))
      expect(numbers(v.grad)).toEqual(new Array(12).fill(0))
    }
  })

  test('a target that is no class is named; shapes that do not fit are named', async () => {
    const [x, w] = [leaf(noise([2, 3], 1)), leaf(noise([4, 3], 2))]
    const loss = linearCrossEntropy(x, w, classes([1, 4], [2]))
    await expect(loss.item()).rejects.toThrow('linearCrossEntropy: targets[1] is 4, but there are 4 classes')
    expect(loss.itemSync()).toBeNaN()
    backward(loss)
    expect(numbers(w.grad).every(Number.isNaN)).toBe(true)
    expect(() => linearCrossEntropy(x, leaf(noise([4, 2], 1)), classes([1, 1], [2]))).toThrow(
      'linearCrossEntropy: weight is [4, 2] but rows of x have 3',
    )
    expect(() => linearCrossEntropy(x, w, classes([1], [1]))).toThrow('targets are [1] but should be [2]')
  })
})

test('the same bits with any number of threads', () => {
  const targets = classes(
    Array.from({ length: 300 }, (_, i) => (i * 37) % 3000),
    [300],
  )
  anyThreads(() => {
    const [x, w] = [leaf(noise([300, 24], 1), 'float32'), leaf(noise([3000, 24], 2), 'float32')]
    const apart = crossEntropy(linear(x, w), targets)
    backward(apart)
    const [ux, uw] = [leaf(noise([300, 24], 1), 'float32'), leaf(noise([3000, 24], 2), 'float32')]
    const together = linearCrossEntropy(ux, uw, targets)
    backward(together)
    return [apart, x.grad, w.grad, together, ux.grad, uw.grad].map(numbers)
  })
})

const someClasses = (u: number, input: number, i: number) => (input ? [2, 0, 1, -100][i % 4]! : 8 * u - 4)
checkOp({
  name: 'crossEntropy',
  op: (logits, targets) => crossEntropy(logits!, targets!),
  oracle: (logits, targets) => ({ shape: [], data: Float64Array.of(crossEntropyOf(logits!.data, targets!.data)) }),
  cases: [
    [[5, 3], [5]],
    [
      [2, 2, 33],
      [2, 2],
    ],
    [[3], []],
  ],
  integers: { 1: 'int32' },
  values: someClasses,
  tolerance: { bfloat16: 4e-6, float16: 4e-6 }, // the loss is float32
})
checkOp({
  name: 'linearCrossEntropy',
  op: (x, targets, weight) => linearCrossEntropy(x!, weight!, targets!),
  oracle: (x, targets, weight) => ({
    shape: [],
    data: Float64Array.of(crossEntropyOf(product(x!.data, weight!.data, weight!.shape[1]!), targets!.data)),
  }),
  cases: [
    [[5, 4], [5], [3, 4]],
    [
      [2, 2, 1],
      [2, 2],
      [7, 1],
    ],
  ],
  integers: { 1: 'int64' },
  values: (u, input, i) => someClasses(u, input === 1 ? 1 : 0, i),
  tolerance: { bfloat16: 4e-6, float16: 4e-6 },
})
