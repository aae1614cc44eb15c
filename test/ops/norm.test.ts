import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import { addLayerNorm, addRmsNorm, layerNorm, rmsNorm } from '../../lib/ops/norm.ts'
import { memory, noGrad, scope, type Tensor } from '../../lib/tensor.ts'
import { checkOp } from '../check.ts'
import { anyThreads, expectClose, golden, leaf, noise, numbers } from '../golden.ts'
import type { Nd } from '../nd.ts'
import { differences, layerNorm as layerNormOf, rmsNorm as rmsNormOf } from '../reference.ts'

describe('rmsNorm', () => {
  for (const name of ['rmsnorm_3x768', 'rmsnorm_5x96'])
    for (const dtype of ['float64', 'float32'] as const)
      test(`agrees with PyTorch: ${name} ${dtype}`, () => {
        const { values, settings } = golden(name)
        const [x, weight] = [leaf(values.x!, dtype), leaf(values.weight!, dtype)]
        const y = rmsNorm(x, weight, { eps: Number(settings.eps) })
        expectClose(y, values.y!)
        backward(y, leaf(values.dy!, dtype))
        expectClose(x.grad, values.dx!)
        expectClose(weight.grad, values.dweight!)
      })

  test('many rows, so that partial sums are joined; no weight', () => {
    const [x, w, dy] = [noise([1700, 67], 1), noise([67], 2), noise([1700, 67], 3)]
    const reference = (v: Float64Array) => rmsNormOf(v, w.data, 1e-5)
    const [tx, tw] = [leaf(x), leaf(w)]
    const y = rmsNorm(tx, tw)
    expectClose(y, { data: reference(x.data), shape: x.shape })
    backward(y, leaf(dy))
    // y is linear in the weight.
    const hat = rmsNormOf(x.data, w.data.slice().fill(1), 1e-5)
    const dw = w.data.map((_, i) => hat.reduce((sum, v, k) => (k % 67 === i ? sum + v * dy.data[k]! : sum), 0))
    expectClose(tw.grad, { data: dw, shape: w.shape })
    const plain = rmsNorm(leaf(x))
    expectClose(plain, { data: rmsNormOf(x.data, w.data.fill(1), 1e-5), shape: x.shape })
  })

  test('dx by differences, with and without a weight', () => {
    const [x, w, dy] = [noise([3, 5], 1), noise([5], 2), noise([3, 5], 3)]
    for (const weight of [leaf(w), null]) {
      const tx = leaf(x)
      backward(rmsNorm(tx, weight), leaf(dy))
      const scale = weight ? w.data : new Float64Array(5).fill(1)
      expectClose(
        tx.grad,
        { data: differences((v) => rmsNormOf(v, scale, 1e-5), x.data, dy.data), shape: [3, 5] },
        1e-8,
      )
    }
  })

  test('bfloat16: computed in float32 from what is stored, rounded once', () => {
    const x = tensor(noise([4, 33], 4).data, { shape: [4, 33], dtype: 'bfloat16', requiresGrad: true })
    const weight = tensor(noise([33], 5).data, { dtype: 'bfloat16', requiresGrad: true })
    const y = rmsNorm(x, weight)
    const expected = rmsNormOf(numbers(x), numbers(weight), 1e-5)
    numbers(y).forEach((v, i) => {
      expect(Math.abs(v - expected[i]!)).toBeLessThanOrEqual(Math.abs(expected[i]!) * 2 ** -8)
    })
    backward(y, tensor(noise([4, 33], 6).data, { shape: [4, 33], dtype: 'bfloat16' }))
    expect([x.grad!.dtype, weight.grad!.dtype]).toEqual(['bfloat16', 'bfloat16'])
  })

  test('empty, one element, and NaN', () => {
    expect(rmsNorm(tensor([], { shape: [0, 4] })).shape).toEqual([0, 4])
    const weight = leaf(noise([4], 1))
    backward(
      rmsNorm(leaf({ data: new Float64Array(0), shape: [0, 4] }), weight),
      leaf({ data: new Float64Array(0), shape: [0, 4] }),
    )
    expect(numbers(weight.grad)).toEqual([0, 0, 0, 0])
    expectClose(rmsNorm(leaf({ data: Float64Array.of(-3), shape: [1] })), {
      data: rmsNormOf([-3], [1], 1e-5),
      shape: [1],
    })
    const y = rmsNorm(
      tensor([
        [1, Number.NaN],
        [1, 1],
      ]),
    ).dataSync()
    expect([Number.isNaN(y[0]), Number.isNaN(y[1]), Number.isNaN(y[2])]).toEqual([true, true, false])
  })

  test('errors name both sides', () => {
    expect(() => rmsNorm(tensor([[1, 2, 3]]), tensor([[1, 2]]))).toThrow(
      'rmsNorm: weight is [1, 2] but rows of x have 3',
    )
    expect(() => rmsNorm(tensor([1, 2], { dtype: 'int32' }))).toThrow('rmsNorm: x is int32')
  })

  test('leaves nothing behind when no gradient is wanted', () => {
    const [x, weight] = [leaf(noise([3, 5], 1)), leaf(noise([5], 2))]
    const before = memory().tensors
    noGrad(() => rmsNorm(x, weight)).dispose()
    expect(memory().tensors).toBe(before)
  })
})

// Each norm of a sum, and its definition.
const sums = [
  {
    name: 'addRmsNorm',
    op: (x: Tensor, r: Tensor, w: Tensor | null, _: Tensor | null) => addRmsNorm(x, r, w),
    of: (sum: Float64Array, w: Float64Array, _: Float64Array) => rmsNormOf(sum, w, 1e-5),
    biased: false,
  },
  {
    name: 'addLayerNorm',
    op: (x: Tensor, r: Tensor, w: Tensor | null, b: Tensor | null) => addLayerNorm(x, r, w, b),
    of: (sum: Float64Array, w: Float64Array, b: Float64Array) => layerNormOf(sum, w, b, 1e-5),
    biased: true,
  },
]
describe.each(sums)('$name', ({ name, op, of, biased }) => {
  const [x, r, w, b] = [noise([40, 9], 1), noise([40, 9], 2), noise([9], 3), noise([9], 6)]
  const [dsum, dy] = [noise([40, 9], 4), noise([40, 9], 5)]
  const total = (a: Float64Array) => a.map((v, i) => v + r.data[i]!)
  const leavesOf = (dtype: 'float64' | 'float32') => [leaf(x, dtype), leaf(r, dtype), leaf(w, dtype), leaf(b, dtype)]

  for (const dtype of ['float64', 'float32'] as const)
    for (const used of ['both', 'sum', 'y'] as const)
      test(`sum and norm; gradients arrive at ${used}; ${dtype}`, () => {
        const [tx, tr, tw, tb] = leavesOf(dtype)
        const { sum, y } = op(tx!, tr!, tw!, tb!)
        expectClose(sum, { data: total(x.data), shape: x.shape })
        expectClose(y, { data: of(total(x.data), w.data, b.data), shape: x.shape })
        // A user of both, so that one backward brings both gradients.
        if (used !== 'y') backward(sum, leaf(dsum, dtype), { retainGraph: true })
        if (used !== 'sum') backward(y, leaf(dy, dtype))
        const fromY = differences((v) => of(total(v), w.data, b.data), x.data, dy.data)
        const expected = x.data.map((_, i) => (used === 'y' ? 0 : dsum.data[i]!) + (used === 'sum' ? 0 : fromY[i]!))
        const near = dtype === 'float64' ? 1e-7 : undefined
        expectClose(tx!.grad, { data: expected, shape: x.shape }, near)
        expectClose(tr!.grad, { data: expected, shape: x.shape }, near)
        if (used === 'sum') return expect([tw!.grad, tb!.grad]).toEqual([null, null])
        const dw = differences((v) => of(total(x.data), v, b.data), w.data, dy.data)
        expectClose(tw!.grad, { data: dw, shape: w.shape }, near)
        const db = differences((v) => of(total(x.data), w.data, v), b.data, dy.data)
        if (biased) expectClose(tb!.grad, { data: db, shape: b.shape }, near)
      })

  test('one backward with both gradients', () => {
    const [tx, tr, tw, tb] = leavesOf('float64')
    const { sum, y } = op(tx!, tr!, tw!, tb!)
    const again = op(sum, y, tw!, tb!)
    backward(again.sum, leaf(dsum))
    const fromY = differences((v) => of(total(v), w.data, b.data), x.data, dsum.data)
    expectClose(tx!.grad, { data: fromY.map((v, i) => v + dsum.data[i]!), shape: x.shape }, 1e-7)
  })

  test('without weight, without bias', () => {
    const [one, zero] = [new Float64Array(9).fill(1), new Float64Array(9)]
    for (const [weight, bias] of [
      [null, null],
      [leaf(w), null],
      [null, leaf(b)],
    ] as const) {
      const tx = leaf(x)
      const { y } = op(tx, leaf(r), weight, bias)
      const [u, v] = [weight ? w.data : one, bias ? b.data : zero]
      expectClose(y, { data: of(total(x.data), u, v), shape: x.shape })
      backward(y, leaf(dy))
      expectClose(tx.grad, { data: differences((a) => of(total(a), u, v), x.data, dy.data), shape: x.shape }, 1e-7)
    }
  })

  test('errors name both sides', () => {
    expect(() => op(tensor([[1, 2]]), tensor([1, 2]), null, null)).toThrow(
      `${name}: residual is float32 [2] but x is float32 [1, 2]`,
    )
    expect(() => op(tensor([[1, 2]]), tensor([[1, 2]]), tensor([1]), null)).toThrow(
      `${name}: weight is [1] but rows of x have 2`,
    )
  })
})

test('a backward pass leaves nothing but the gradients that are wanted', () => {
  const [x, r, w] = [leaf(noise([3, 5], 1)), leaf(noise([3, 5], 2)), leaf(noise([5], 3))]
  const frozen = tensor(noise([5], 4).data, { dtype: 'float64' })
  const dy = leaf(noise([3, 5], 5))
  const made = () => {
    const before = memory().tensors
    scope(() => {
      for (const y of [
        rmsNorm(x, w),
        rmsNorm(x, frozen),
        addRmsNorm(x, r, frozen).y,
        layerNorm(x, w),
        layerNorm(x, w, frozen),
        layerNorm(x, frozen),
        addLayerNorm(x, r, w).y,
        addLayerNorm(x, r, frozen, frozen).y,
      ])
        backward(y, dy)
    })
    return memory().tensors - before
  }
  made() // the gradients
  expect(made()).toBe(0)
  expect(frozen.grad).toBe(null)
})

describe('layerNorm', () => {
  for (const dtype of ['float64', 'float32'] as const)
    for (const shape of [
      [3, 5],
      [2, 19, 6],
      [1, 1],
    ])
      test(`values and gradients: ${dtype} [${shape.join(', ')}]`, () => {
        const n = shape.at(-1)!
        const [x, w, b, dy] = [noise(shape, 1), noise([n], 2), noise([n], 3), noise(shape, 4)]
        const [tx, tw, tb] = [leaf(x, dtype), leaf(w, dtype), leaf(b, dtype)]
        const y = layerNorm(tx, tw, tb, { eps: 1e-3 })
        expectClose(y, { data: layerNormOf(x.data, w.data, b.data, 1e-3), shape })
        backward(y, leaf(dy, dtype))
        const [gx, gw, gb] = [
          differences((v) => layerNormOf(v, w.data, b.data, 1e-3), x.data, dy.data),
          differences((v) => layerNormOf(x.data, v, b.data, 1e-3), w.data, dy.data),
          differences((v) => layerNormOf(x.data, w.data, v, 1e-3), b.data, dy.data),
        ]
        const near = dtype === 'float64' ? 1e-7 : undefined
        expectClose(tx.grad, { data: gx, shape }, near)
        expectClose(tw.grad, { data: gw, shape: [n] }, near)
        expectClose(tb.grad, { data: gb, shape: [n] }, near)
      })

  test('without weight, without bias', () => {
    const [x, w] = [noise([4, 6], 1), noise([6], 2)]
    const [one, zero] = [new Float64Array(6).fill(1), new Float64Array(6)]
    expectClose(layerNorm(leaf(x)), { data: layerNormOf(x.data, one, zero, 1e-5), shape: [4, 6] })
    expectClose(layerNorm(leaf(x), leaf(w)), { data: layerNormOf(x.data, w.data, zero, 1e-5), shape: [4, 6] })
    expectClose(layerNorm(leaf(x), null, leaf(w)), { data: layerNormOf(x.data, one, w.data, 1e-5), shape: [4, 6] })
    expect(() => layerNorm(leaf(x), null, leaf(noise([5], 1)))).toThrow('layerNorm: bias is [5] but rows of x have 6')
  })
})

test('the same bits with any number of threads', () => {
  anyThreads(() => {
    const leaves = [[3000, 40], [3000, 40], [40], [40]].map((shape, i) => leaf(noise(shape, i), 'float32'))
    const [x, r, w, b] = leaves as [Tensor, Tensor, Tensor, Tensor]
    const { sum, y } = addRmsNorm(x, r, w)
    const again = addLayerNorm(layerNorm(y, w, b), sum, w, b)
    backward(again.y, leaf(noise([3000, 40], 9), 'float32'), { retainGraph: true })
    backward(again.sum, leaf(noise([3000, 40], 10), 'float32'))
    return [again.y, ...leaves.map((t) => t.grad)].map(numbers)
  })
})

const likeFirst =
  (f: (x: Float64Array, ...rest: Float64Array[]) => Float64Array) =>
  (x: Nd, ...rest: Nd[]): Nd => ({ shape: x.shape, data: f(x.data, ...rest.map((r) => r.data)) })

checkOp({
  name: 'rmsNorm',
  op: (x, weight) => rmsNorm(x!, weight, { eps: 1e-2 }),
  oracle: likeFirst((x, w) => rmsNormOf(x, w!, 1e-2)),
  cases: [
    [[3, 7], [7]],
    [[2, 1, 33], [33]],
    [[5, 1], [1]],
    [[4], [4]],
    [[0, 4], [4]],
  ],
})
checkOp({
  name: 'addRmsNorm',
  op: (x, residual, weight) => {
    const { sum, y } = addRmsNorm(x!, residual!, weight)
    return [sum, y]
  },
  oracle: (x, r, w) => {
    const sum = { shape: x!.shape, data: x!.data.map((v, i) => v + r!.data[i]!) }
    return [sum, { shape: x!.shape, data: rmsNormOf(sum.data, w!.data, 1e-5) }]
  },
  cases: [
    [[3, 7], [3, 7], [7]],
    [[2, 2, 17], [2, 2, 17], [17]],
  ],
  dtypes: ['float64', 'float32'], // the sum is rounded before it is normalised, which the oracle does not do
})
checkOp({
  name: 'addLayerNorm',
  op: (x, residual, weight, bias) => {
    const { sum, y } = addLayerNorm(x!, residual!, weight, bias, { eps: 1e-2 })
    return [sum, y]
  },
  oracle: (x, r, w, b) => {
    const sum = { shape: x!.shape, data: x!.data.map((v, i) => v + r!.data[i]!) }
    return [sum, { shape: x!.shape, data: layerNormOf(sum.data, w!.data, b!.data, 1e-2) }]
  },
  cases: [
    [[3, 7], [3, 7], [7], [7]],
    [[2, 2, 17], [2, 2, 17], [17], [17]],
    [[0, 4], [0, 4], [4], [4]],
  ],
  dtypes: ['float64', 'float32'], // as for addRmsNorm
})
checkOp({
  name: 'layerNorm',
  op: (x, weight, bias) => layerNorm(x!, weight, bias, { eps: 1e-2 }),
  oracle: likeFirst((x, w, b) => layerNormOf(x, w!, b!, 1e-2)),
  cases: [
    [[3, 7], [7], [7]],
    [[2, 1, 33], [33], [33]],
    [[4], [4], [4]],
    [[0, 4], [4], [4]],
  ],
})
