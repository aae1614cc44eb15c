import { describe, expect, test } from 'vitest'
import { Attention } from '../../lib/nn/attention.ts'
import { modelConfig } from '../../lib/nn/config.ts'
import { normal } from '../../lib/nn/init.ts'
import { zeros } from '../../lib/ops/create.ts'
import { randn } from '../../lib/ops/random.ts'
import { noGrad } from '../../lib/tensor.ts'
import { attention, distance, matrix, valuesOf } from './reference.ts'

const kind = { dtype: 'float64' } as const

function make(heads: number, kvHeads: number, headDim: number, qkNorm: boolean) {
  const hidden = 12
  const layer = new Attention(
    { hidden, heads, kvHeads, headDim, qkNorm, ropeTheta: 50, eps: 1e-3 },
    { init: normal(0.5), ...kind },
  )
  if (qkNorm)
    layer.loadStateDict(
      { 'q_norm.weight': randn([heads * headDim]), 'k_norm.weight': randn([kvHeads * headDim]) },
      { strict: false },
    )
  const config = modelConfig({
    vocab_size: 1,
    num_hidden_layers: 1,
    intermediate_size: 1,
    hidden_size: hidden,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    qk_norm: qkNorm,
    rope_theta: 50,
    rms_norm_eps: 1e-3,
  })
  return { layer, config }
}

describe.each([
  [2, 2, 6, false],
  [6, 2, 2, false],
  [3, 1, 8, true],
  [4, 4, 4, true],
])('%i heads on %i of length %i, QK-norm %s', (heads, kvHeads, headDim, qkNorm) => {
  const { layer, config } = make(heads, kvHeads, headDim, qkNorm)
  const x = randn([2, 5, 12], kind)
  const y = layer.forward(x).dataSync() as Float64Array

  test('as defined', () => {
    const v = valuesOf(new Map([...layer.stateDict(), ['x', x.reshape([10, 12])]]))
    const rows = matrix(v, 'x')
    const expected = [rows.slice(0, 5), rows.slice(5)].flatMap((one) => attention(one, v, '', config).flat())
    expect(distance(y, expected)).toBeLessThan(1e-12)
  })

  test.each([[[5]], [[1, 1, 1, 1, 1]], [[3, 1, 1]], [[2, 3]]])('with a cache, in pieces of %j', (pieces) => {
    const part = () => zeros([2, kvHeads, 6, headDim], kind)
    const cache = { k: part(), v: part(), length: 0 }
    noGrad(() => {
      for (const piece of pieces) {
        const end = cache.length + piece
        const got = layer.forward(x.slice(1, cache.length, end), cache).dataSync() as Float64Array
        const expected = [0, 1].flatMap((b) => Array.from(y.slice((b * 5 + cache.length) * 12, (b * 5 + end) * 12)))
        expect(distance(got, expected)).toBeLessThan(1e-12)
        cache.length = end
      }
      expect(() => layer.forward(x.slice(1, 0, 2), cache)).toThrow('the cache holds 6 positions but should hold 7')
    })
  })
})

test('names of the parameters', () => {
  expect([...make(4, 2, 4, true).layer.namedParameters()].map(([name, p]) => [name, p.shape])).toEqual([
    ['q_proj.weight', [16, 12]],
    ['k_proj.weight', [8, 12]],
    ['v_proj.weight', [8, 12]],
    ['o_proj.weight', [12, 16]],
    ['q_norm.weight', [16]],
    ['k_norm.weight', [8]],
  ])
})

test('bad shapes', () => {
  expect(() => new Attention({ hidden: 16, heads: 4, kvHeads: 3 })).toThrow(/kvHeads is 3/)
  expect(() => new Attention({ hidden: 12, heads: 5 })).toThrow(/headDim is 2.4/)
})
