import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { attention } from '../../lib/ops/attention.ts'
import { tensor } from '../../lib/ops/create.ts'
import { transpose } from '../../lib/ops/view.ts'
import type { Dtype, Tensor } from '../../lib/tensor.ts'
import { checkOp } from '../check.ts'
import { expectClose, golden, leaf, noise, numbers, type Values } from '../golden.ts'
import { type AttentionCase, attention as reference } from '../reference/attention.ts'

const floats = ['float64', 'float32'] as const

for (const name of ['attention_b1h2k2t64d64', 'attention_b1h3k1t130d32', 'attention_b2h4k2t19d16'])
  test.each(floats)(`${name} agrees with PyTorch: %s`, (dtype) => {
    const { values } = golden(name)
    const [q, k, v] = [leaf(values.q!, dtype), leaf(values.k!, dtype), leaf(values.v!, dtype)]
    const y = attention(q, k, v, { causal: true })
    expectClose(y, values.y!)
    backward(y, leaf(values.dy!, dtype))
    expectClose(q.grad, values.dq!, undefined, 'dq')
    expectClose(k.grad, values.dk!, undefined, 'dk')
    expectClose(v.grad, values.dv!, undefined, 'dv')
  })

interface Run {
  inputs: [Values, Values, Values, Values]
  expected: { y: Values; dq: Values; dk: Values; dv: Values }
}
function run(c: AttentionCase): Run {
  const shapes = { q: [c.B, c.H, c.T, c.D], k: [c.B, c.K, c.S, c.D] }
  const q = noise(shapes.q, 1)
  const k = noise(shapes.k, 2)
  const v = noise(shapes.k, 3)
  const dy = noise(shapes.q, 4)
  const r = reference(c, q.data, k.data, v.data, dy.data)
  return {
    inputs: [q, k, v, dy],
    expected: {
      y: { data: r.y, shape: shapes.q },
      dq: { data: r.dq, shape: shapes.q },
      dk: { data: r.dk, shape: shapes.k },
      dv: { data: r.dv, shape: shapes.k },
    },
  }
}

const cases: Record<string, AttentionCase> = {
  'one position': { B: 1, H: 1, K: 1, T: 1, S: 1, D: 1, causal: true },
  'odd sizes, shared keys': { B: 2, H: 6, K: 2, T: 7, S: 7, D: 5, causal: true },
  'every query sees every key': { B: 1, H: 2, K: 1, T: 65, S: 300, D: 8, causal: false },
  'queries are the last positions': { B: 2, H: 2, K: 2, T: 3, S: 261, D: 16, causal: true },
  'several tiles of keys': { B: 1, H: 1, K: 1, T: 333, S: 333, D: 12, causal: true },
  'whole vectors, keys before the queries': { B: 1, H: 2, K: 1, T: 150, S: 200, D: 64, causal: true },
  'vectors and a rest': { B: 1, H: 2, K: 2, T: 70, S: 139, D: 43, causal: true },
  'another scale': { B: 1, H: 1, K: 1, T: 9, S: 9, D: 4, causal: true, scale: 3 },
}
describe.each(Object.entries(cases))('%s', (_, c) => {
  const { inputs, expected } = run(c)
  const options = { causal: c.causal, ...(c.scale && { scale: c.scale }) }

  test.each(floats)('values and gradients: %s', (dtype) => {
    const [q, k, v] = inputs.slice(0, 3).map((x) => leaf(x, dtype)) as [Tensor, Tensor, Tensor]
    const y = attention(q, k, v, options)
    expectClose(y, expected.y)
    backward(y, leaf(inputs[3], dtype))
    expectClose(q.grad, expected.dq, undefined, 'dq')
    expectClose(k.grad, expected.dk, undefined, 'dk')
    expectClose(v.grad, expected.dv, undefined, 'dv')
  })

  test('views of (B, T, H, D) are read where they are', () => {
    const inside = (x: Values) => {
      const [B, H, T, D] = x.shape as [number, number, number, number]
      const data = new Float64Array(x.data.length)
      for (let b = 0; b < B; b++)
        for (let h = 0; h < H; h++)
          for (let t = 0; t < T; t++)
            for (let d = 0; d < D; d++) data[((b * T + t) * H + h) * D + d] = x.data[((b * H + h) * T + t) * D + d]!
      return { data, shape: [B, T, H, D] }
    }
    const leaves = inputs.slice(0, 3).map((x) => leaf(inside(x)))
    const [q, k, v] = leaves.map((x) => transpose(x, 1, 2)) as [Tensor, Tensor, Tensor]
    const y = attention(q, k, v, options)
    expectClose(y, expected.y)
    backward(y, transpose(leaf(inside(inputs[3])), 1, 2))
    expectClose(leaves[0]!.grad, inside(expected.dq), undefined, 'dq')
    expectClose(leaves[1]!.grad, inside(expected.dk), undefined, 'dk')
    expectClose(leaves[2]!.grad, inside(expected.dv), undefined, 'dv')
  })
})

test('16-bit floats are computed in float32', () => {
  const c: AttentionCase = { B: 1, H: 2, K: 1, T: 40, S: 40, D: 16, causal: true }
  for (const [dtype, precision] of [
    ['bfloat16', 2 ** -8],
    ['float16', 2 ** -11],
  ] as [Dtype, number][]) {
    const rounded = run(c).inputs.map((x) => ({
      ...x,
      data: Float64Array.from(numbers(leaf(x, dtype))),
    })) as Run['inputs']
    const r = reference(c, rounded[0].data, rounded[1].data, rounded[2].data, rounded[3].data)
    const [q, k, v] = rounded.slice(0, 3).map((x) => leaf(x, dtype)) as [Tensor, Tensor, Tensor]
    const y = attention(q, k, v, { causal: true })
    backward(y, leaf(rounded[3], dtype))
    const all: [Tensor, Float64Array][] = [
      [y, r.y],
      [q.grad!, r.dq],
      [k.grad!, r.dk],
      [v.grad!, r.dv],
    ]
    for (const [got, want] of all) {
      const most = Math.max(...want.map(Math.abs))
      for (const [i, x] of numbers(got).entries()) expect(Math.abs(x - want[i]!)).toBeLessThanOrEqual(precision * most)
    }
  }
})

test('the bits do not depend on the number of threads', () => {
  const { inputs } = run({ B: 2, H: 4, K: 2, T: 150, S: 150, D: 16, causal: true })
  const once = () => {
    const [q, k, v] = inputs.slice(0, 3).map((x) => leaf(x, 'float32')) as [Tensor, Tensor, Tensor]
    const y = attention(q, k, v, { causal: true })
    backward(y, leaf(inputs[3], 'float32'))
    return [y, q.grad!, k.grad!, v.grad!].map(numbers)
  }
  const before = native.threads()
  try {
    native.setThreads(1)
    const one = once()
    native.setThreads(3)
    expect(once()).toEqual(one)
  } finally {
    native.setThreads(before)
  }
})

test('large scores do not overflow, a NaN stays where it is seen', () => {
  const big = tensor([[[[300], [-300], [300]]]])
  const y = attention(big, big, big, { causal: true, scale: 1 })
  expect(numbers(y)).toEqual([300, -300, 300])
  const q = tensor([[[[Number.NaN], [1]]]])
  const k = tensor([[[[1], [1]]]])
  expect(numbers(attention(q, k, k, { causal: true }))).toEqual([Number.NaN, 1])
})

test('empty', () => {
  const none = tensor([], { shape: [1, 2, 0, 4], requiresGrad: true })
  const y = attention(none, none, none, { causal: true })
  expect(y.shape).toEqual([1, 2, 0, 4])
  backward(y, tensor([], { shape: [1, 2, 0, 4] }))
  expect(none.grad!.shape).toEqual([1, 2, 0, 4])
})

test('no keys: zeros', () => {
  const q = leaf(noise([1, 2, 3, 4], 1))
  const none = tensor([], { shape: [1, 1, 0, 4], dtype: 'float64', requiresGrad: true })
  const y = attention(q, none, none)
  expect(numbers(y)).toEqual(new Array(24).fill(0))
  backward(y, leaf(noise([1, 2, 3, 4], 2)))
  expect(numbers(q.grad)).toEqual(new Array(24).fill(0))
  expect(none.grad!.shape).toEqual([1, 1, 0, 4])
})

test('errors', () => {
  const make = (...shape: number[]) => tensor(new Float32Array(shape.reduce((n, d) => n * d, 1)), { shape })
  const q = make(1, 4, 3, 2)
  expect(() => attention(q, make(1, 3, 3, 2), make(1, 3, 3, 2))).toThrow('q has 4 heads, but k 3, which should divide')
  expect(() => attention(q, make(1, 2, 3, 2), make(1, 2, 4, 2))).toThrow('k is [1, 2, 3, 2] but v is [1, 2, 4, 2]')
  expect(() => attention(q, make(1, 2, 2, 2), make(1, 2, 2, 2), { causal: true })).toThrow('3 queries but 2 keys')
  expect(() => attention(make(3, 2), make(3, 2), make(3, 2))).toThrow('should be [B, H, T, D]')
  expect(() => attention(q, make(1, 4, 3, 3), make(1, 4, 3, 3))).toThrow('batch and head size should be the same')
})

for (const causal of [false, true])
  checkOp({
    name: `attention, gradients by differences (causal: ${causal})`,
    op: (q, k, v) => attention(q, k, v, { causal }),
    oracle: (q, k, v) => {
      const [B, H, T, D] = q!.shape as [number, number, number, number]
      const [K, S] = k!.shape.slice(1) as [number, number]
      const none = new Float64Array(q!.data.length)
      return { shape: q!.shape, data: reference({ B, H, K, T, S, D, causal }, q!.data, k!.data, v!.data, none).y }
    },
    cases: [
      [
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
      ],
      [
        [2, 4, 3, 5],
        [2, 2, 6, 5],
        [2, 2, 6, 5],
      ],
      [
        [1, 2, 67, 16],
        [1, 1, 140, 16],
        [1, 1, 140, 16],
      ],
    ],
    // Probabilities of hidden keys are 0, and 0 times NaN is NaN, so a NaN reaches more than the definition says.
    nan: !causal,
    most: 12,
  })
