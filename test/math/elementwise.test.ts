import { expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { tensor } from '../../lib/ops/create.ts'
import * as ops from '../../lib/ops/elementwise.ts'
import { fromBits, type Tensor } from '../../lib/tensor.ts'
import { expectClose, golden, leaf, type Values } from '../golden.ts'
import * as reference from '../reference.ts'

const apply = (name: string, x: Tensor): Tensor =>
  name === 'geluTanh'
    ? ops.gelu(x, { approximate: 'tanh' })
    : (ops as unknown as Record<string, (x: Tensor) => Tensor>)[name]!(x)

for (const [file, name] of [
  ['relu', 'relu'],
  ['relu2', 'relu2'],
  ['silu', 'silu'],
  ['gelu', 'gelu'],
  ['gelu_tanh', 'geluTanh'],
] as const)
  test(`${name} as PyTorch computes it`, () => {
    const { values: v } = golden(file)
    for (const dtype of ['float64', 'float32'] as const) {
      const x = leaf(v.x!, dtype)
      const y = apply(name, x)
      backward(y, tensor(v.dy!.data, { shape: v.dy!.shape, dtype }))
      expectClose(y, v.y!)
      expectClose(x.grad, v.dx!)
    }
  })

test('swiglu as PyTorch computes it', () => {
  const { values: v } = golden('swiglu')
  for (const dtype of ['float64', 'float32'] as const) {
    const [gate, up] = [leaf(v.gate!, dtype), leaf(v.up!, dtype)]
    const y = ops.swiglu(gate, up)
    backward(y, tensor(v.dy!.data, { shape: v.dy!.shape, dtype }))
    expectClose(y, v.y!)
    expectClose(gate.grad, v.dgate!)
    expectClose(up.grad, v.dup!)
  }
})

for (const name of Object.keys(reference.unary))
  test(`${name}: value and gradient, at sizes around those of blocks and vectors`, () => {
    const { f, df } = reference.unary[name]!
    const positive = name === 'log' || name === 'sqrt'
    for (const count of [0, 1, 5, 16, 33, 511, 513, 20000])
      for (const dtype of ['float64', 'float32'] as const) {
        const any = reference.normals([count], count)
        if (positive) any.data = any.data.map((v) => Math.abs(v) + 0.01)
        const x = reference.rounded(any, dtype)
        const dy = reference.rounded(reference.normals([count], count + 1), dtype)
        const t = leaf(x, dtype)
        const y = apply(name, t)
        backward(y, tensor(dy.data, { dtype }))
        expectClose(y, { shape: [count], data: x.data.map(f) })
        expectClose(t.grad, { shape: [count], data: x.data.map((v, i) => df(v) * dy.data[i]!) })
      }
  })

test('swiglu: sizes, 16-bit storage with one rounding, errors', () => {
  for (const shape of [[0], [1], [3, 333], [70000]])
    for (const dtype of ['float64', 'float32', 'bfloat16', 'float16'] as const) {
      const [gate, up, dy] = [1, 2, 3].map((seed) => reference.rounded(reference.normals(shape, seed), dtype)) as [
        Values,
        Values,
        Values,
      ]
      const want = reference.swiglu(gate, up, dy)
      const [tg, tu] = [leaf(gate, dtype), leaf(up, dtype)]
      const y = ops.swiglu(tg, tu)
      backward(y, tensor(dy.data, { shape, dtype }))
      for (const [t, v] of [
        [y, want.y],
        [tg.grad!, want.dgate],
        [tu.grad!, want.dup],
      ] as const) {
        if (dtype === 'float64' || dtype === 'float32') {
          expectClose(t, v)
          continue
        }
        const [bits, least] = dtype === 'bfloat16' ? [7, -126] : [10, -14]
        const got = t.dataSync() as Uint16Array
        v.data.forEach((w, i) => {
          const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(w) || 1e-300)), least) - bits)
          const error = Math.abs(fromBits(dtype, got[i]!) - w)
          if (!(error <= 0.501 * unit + 1e-6)) expect.fail(`swiglu ${dtype}: ${fromBits(dtype, got[i]!)} for ${w}`)
        })
      }
    }
  expect(() => ops.swiglu(tensor([1, 2]), tensor([1]))).toThrow('swiglu: gate is [2] but up is [1]')
  expect(() => ops.swiglu(tensor(Int32Array.of(1)), tensor([1]))).toThrow('swiglu: gate is int32')
})
