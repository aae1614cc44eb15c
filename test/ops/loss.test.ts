import { describe, expect, test } from 'vitest'
import { DisposedError } from '../../lib/errors.ts'
import { backward, checkpoint, grad, valueAndGrad } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { add, mul, sigmoid } from '../../lib/ops/elementwise.ts'
import { crossEntropy, linearCrossEntropy } from '../../lib/ops/loss.ts'
import { linear } from '../../lib/ops/matmul.ts'
import { sum } from '../../lib/ops/reduce.ts'
import { reshape } from '../../lib/ops/view.ts'
import { type Dtype, memory, noGrad, scope, type Tensor } from '../../lib/tensor.ts'
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

// What the device held at most while fn ran, beyond what it held before.
function most(fn: () => void): number {
  const before = memory().inUse
  native.resetPeak()
  scope(fn)
  return memory().peak - before
}

describe('crossEntropy in place', () => {
  const [x, w] = [noise([6, 5], 1), noise([9, 5], 2)]
  const targets = () => classes([1, 8, -100, 0, 4, 4], [6])
  const inPlace = { inPlace: true }
  const made = (dtype: Dtype = 'float32') => {
    const [tx, tw] = [x, w].map(({ data, shape }) => tensor(data, { shape, dtype, requiresGrad: true }))
    return { tx: tx!, tw: tw!, logits: linear(tx!, tw!) }
  }

  test('takes the memory of the logits away from the peak; a block is theirs as long as it did not', () => {
    const [rows, size] = [128, 4096]
    const ids = classes(
      Array.from({ length: rows }, (_, r) => 31 * r),
      [rows],
    )
    const [tx, tw] = [leaf(noise([rows, 4], 1), 'float32'), leaf(noise([size, 4], 2), 'float32')]
    const step = (options: { inPlace: boolean }) => () => backward(crossEntropy(linear(tx, tw), ids, options))
    scope(step({ inPlace: false })) // the gradients
    const [apart, over] = [most(step({ inPlace: false })), most(step(inPlace))]
    const bytes = rows * size * 4
    expect(apart).toBeGreaterThan(1.95 * bytes)
    expect(over).toBeLessThan(1.25 * bytes)
  })

  test.each(['float64', 'float32', 'bfloat16', 'float16'] as const)('gives the same bits: %s', (dtype) => {
    const gradients = [false, true].map((over) => {
      const { tx, tw, logits } = made(dtype)
      backward(crossEntropy(logits, targets(), { inPlace: over }), tensor([-3], { dtype: 'float32', shape: [] }))
      expect(logits.disposed).toBe(over)
      return [numbers(tx.grad), numbers(tw.grad)]
    })
    expect(gradients[1]).toEqual(gradients[0])
    expect(gradients[0]![0]!.some((v) => v !== 0)).toBe(true)
  })

  test('only where it is asked for, and then nobody can read what was overwritten', () => {
    const { tx, logits } = made()
    const before = numbers(logits)
    backward(crossEntropy(logits, targets()))
    expect(numbers(logits)).toEqual(before)
    const again = made()
    const loss = crossEntropy(again.logits, targets(), inPlace)
    expect(numbers(again.logits)).toEqual(before)
    backward(loss)
    expect(numbers(again.tx.grad)).toEqual(numbers(tx.grad))
    for (const use of [() => again.logits.dataSync(), () => crossEntropy(again.logits, targets())])
      expect(use).toThrow('the tensor has been given up: its gradient was written over it')
  })

  test('leaves alone what others can still see', () => {
    const { tx, logits } = made()
    const [before, dx] = [numbers(logits), numbers(grad(crossEntropy(logits, targets()), [tx])[0]!)]
    const leafLogits = tensor(before, { shape: [6, 9], requiresGrad: true })
    backward(crossEntropy(leafLogits, targets(), inPlace))
    expect(numbers(leafLogits)).toEqual(before)
    // Another view of the memory; a saved result; an argument of valueAndGrad.
    const viewed = made()
    const view = reshape(viewed.logits, [54])
    backward(crossEntropy(viewed.logits, targets(), inPlace))
    expect([numbers(view), numbers(viewed.logits)]).toEqual([before, before])
    expect(numbers(viewed.tx.grad)).toEqual(dx)
    const saved = [false, true].map((over) => {
      const { tx, logits } = made()
      backward(crossEntropy(sigmoid(logits), targets(), { inPlace: over }))
      return numbers(tx.grad)
    })
    expect(saved[1]).toEqual(saved[0])
    const { logits: argument } = made()
    valueAndGrad((l: Tensor) => crossEntropy(l, targets(), inPlace))(argument)
    expect(numbers(argument)).toEqual(before)
  })

  test('waits for the last walk of a graph that is kept', () => {
    const { tx, logits } = made()
    const before = numbers(logits)
    const loss = crossEntropy(logits, targets(), inPlace)
    backward(loss, undefined, { retainGraph: true })
    expect(numbers(logits)).toEqual(before)
    const once = numbers(tx.grad)
    backward(loss)
    expect(logits.disposed).toBe(true)
    expect(numbers(tx.grad)).toEqual(once.map((v) => 2 * v))
  })

  test('logits with another user have the gradient of both, or an error that says why not', () => {
    const gradientOf = (over: boolean, other: (logits: Tensor) => Tensor, first: boolean) => {
      const { tx, logits } = made()
      const terms = () => [crossEntropy(logits, targets(), { inPlace: over }), other(logits)]
      const [a, b] = first ? terms() : terms().reverse()
      backward(add(a!, b!))
      return numbers(tx.grad)
    }
    const errors: string[] = []
    for (const first of [true, false]) {
      expect(gradientOf(true, sum, first)).toEqual(gradientOf(false, sum, first))
      const squares = (l: Tensor) => sum(mul(l, l))
      try {
        expect(gradientOf(true, squares, first)).toEqual(gradientOf(false, squares, first))
      } catch (error) {
        if (!(error instanceof DisposedError)) throw error
        errors.push(error.message)
      }
    }
    expect(errors).toEqual(['the tensor has been given up: its gradient was written over it'])
  })

  test('inside checkpoint, and for logits that are wanted themselves', () => {
    const plain = made()
    backward(crossEntropy(plain.logits, targets()))
    const again = made()
    backward(checkpoint((a: Tensor) => crossEntropy(linear(a, again.tw), targets(), inPlace), again.tx))
    expect(numbers(again.tx.grad)).toEqual(numbers(plain.tx.grad))
    expect(numbers(again.tw.grad)).toEqual(numbers(plain.tw.grad))
    const { logits } = made()
    const [wanted] = grad(crossEntropy(made().logits, targets()), [logits])
    expect(wanted).toBe(null)
    const [dlogits] = grad(crossEntropy(logits, targets(), inPlace), [logits])
    const kept = made().logits
    expect(numbers(dlogits!)).toEqual(numbers(grad(crossEntropy(kept, targets()), [kept])[0]!))
  })
})

describe('linearCrossEntropy', () => {
  // In bfloat16 the products of cuda take bfloat16, and the gradients of the logits fit into half of each row.
  test.each(['float32', 'bfloat16'] as const)('holds the logits of its rows once: %s', (dtype) => {
    const [rows, size] = [128, 4096]
    const [x, w] = [noise([rows, 4], 1), noise([size, 4], 2)].map(({ data, shape }) =>
      tensor(data, { shape, dtype, requiresGrad: true }),
    )
    const ids = classes(
      Array.from({ length: rows }, (_, r) => 31 * r),
      [rows],
    )
    const step = () => backward(linearCrossEntropy(x!, w!, ids))
    scope(step)
    const bytes = rows * size * 4
    expect(most(step)).toBeGreaterThan(bytes)
    expect(most(step)).toBeLessThan(1.3 * bytes)
  })

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
