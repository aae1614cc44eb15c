import { describe, expect, test } from 'vitest'
import { isPolynomial, type ModelConfigInput, modelConfig } from '../../lib/nn/config.ts'
import { ffnConfig } from '../../lib/nn/ffn.ts'
import { normal } from '../../lib/nn/init.ts'
import { Mlp } from '../../lib/nn/mlp.ts'
import { Moe, type MoeConfig } from '../../lib/nn/moe.ts'
import { add, mul, sum } from '../../lib/ops/index.ts'
import { randn } from '../../lib/ops/random.ts'
import { distance, feedForward, matrix, valuesOf } from './reference.ts'

const base = {
  vocab_size: 1,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  hidden_size: 4,
  num_experts: 5,
  num_experts_per_tok: 2,
  moe_intermediate_size: 7,
}
const options = { init: normal(1), dtype: 'float64' } as const
const make = (fields: ModelConfigInput) => {
  const config = modelConfig({ ...base, ...fields })
  const layer = new Moe(ffnConfig(config) as MoeConfig, options)
  // Coefficients that differ, also between experts.
  for (const [name, p] of layer.namedParameters())
    if (name.includes('act_fn')) layer.loadStateDict({ [name]: randn(p.shape) }, { strict: false })
  return { config, layer }
}

describe.each<[string, ModelConfigInput]>([
  ['polynorm', {}],
  ['polyrelu of order 2, weights that sum to 1', { hidden_act: 'polyrelu', poly_order: 2, norm_topk_prob: true }],
  ['swiglu with two shared experts', { hidden_act: 'swiglu', num_shared_experts: 2 }],
  ['polynorm_glu, coefficients for each expert', { hidden_act: 'polynorm_glu', act_per_expert: true }],
  ['polynorm, coefficients for each expert, one shared', { act_per_expert: true, num_shared_experts: 1 }],
  ['polyrelu, coefficients for each expert', { hidden_act: 'polyrelu', act_per_expert: true, num_experts_per_tok: 5 }],
  ['gelu with one shared expert', { hidden_act: 'gelu', num_shared_experts: 1 }],
  ['relu2, one expert a token', { hidden_act: 'relu2', num_experts_per_tok: 1 }],
])('%s', (_, fields) => {
  const { config, layer } = make(fields)
  test.each([9, 1, 40])('%i tokens', (tokens) => {
    const x = randn([tokens, 4], { dtype: 'float64' })
    const v = valuesOf(new Map([...layer.stateDict(), ['x', x]]))
    const expected = feedForward(matrix(v, 'x'), v, '', config)
    const { y, routing } = layer.forward(x)
    expect(distance(y.dataSync() as Float64Array, expected.y.flat())).toBeLessThan(1e-12)
    expect(routing.aux.itemSync()).toBeCloseTo(expected.aux, 10)
    expect(routing.z.itemSync()).toBeCloseTo(expected.z, 10)
    expect(distance(routing.shares.dataSync() as Float64Array, expected.load)).toBeLessThan(1e-6)
  })
})

test('names of the parameters', () => {
  const names = (fields: ModelConfigInput) => [...make(fields).layer.namedParameters()].map(([n, p]) => [n, p.shape])
  const matrices = [
    ['gate.weight', [5, 4]],
    ['experts.up_proj.weight', [5, 7, 4]],
    ['experts.down_proj.weight', [5, 4, 7]],
  ]
  expect(names({})).toEqual([...matrices, ['act_fn.weight', [3]], ['act_fn.bias', [1]]])
  expect(names({ act_per_expert: true })).toEqual([
    ...matrices,
    ['experts.act_fn.weight', [5, 3]],
    ['experts.act_fn.bias', [5, 1]],
  ])
  expect(names({ hidden_act: 'swiglu', num_shared_experts: 2 })).toEqual([
    ['gate.weight', [5, 4]],
    ['experts.up_proj.weight', [5, 7, 4]],
    ['experts.gate_proj.weight', [5, 7, 4]],
    ['experts.down_proj.weight', [5, 4, 7]],
    ['shared_expert.up_proj.weight', [14, 4]],
    ['shared_expert.gate_proj.weight', [14, 4]],
    ['shared_expert.down_proj.weight', [4, 14]],
  ])
  // The shared expert has the layer's coefficients, or its own where each expert has.
  expect(names({ num_shared_experts: 1 }).filter(([n]) => String(n).includes('act_fn'))).toHaveLength(2)
  expect(names({ num_shared_experts: 1, act_per_expert: true }).map(([n]) => n)).toContain(
    'shared_expert.act_fn.weight',
  )
  const { decay } = make({ act_per_expert: true }).layer.parameterGroups()
  expect([...decay.keys()]).toEqual(['gate.weight', 'experts.up_proj.weight', 'experts.down_proj.weight'])
})

describe.each(['polynorm', 'polyrelu', 'swiglu', 'polynorm_glu', 'gelu'] as const)('one expert, %s', (hidden_act) => {
  const { config, layer } = make({ num_experts: 1, num_experts_per_tok: 1, hidden_act })
  const dense = new Mlp(
    { kind: 'dense', hidden: 4, intermediate: 7, act: hidden_act, order: config.poly_order },
    { dtype: 'float64' },
  )
  dense.loadStateDict(
    Object.fromEntries(
      [...layer.stateDict()]
        .filter(([name]) => name !== 'gate.weight')
        .map(([name, t]) => [name.replace('experts.', ''), t.rank === 3 ? t.reshape(t.shape.slice(1)) : t]),
    ),
  )
  test('equals the dense layer, values and gradients', () => {
    const data = randn([11, 4], { dtype: 'float64' })
    const weights = randn([11, 4], { dtype: 'float64' })
    const [a, b] = [data.detach(), data.detach()]
    a.requiresGrad = true
    b.requiresGrad = true
    const expert = layer.forward(a)
    const plain = dense.forward(b).y
    expect(distance(expert.y.dataSync() as Float64Array, plain.dataSync() as Float64Array)).toBeLessThan(1e-13)
    sum(mul(expert.y, weights)).backward()
    sum(mul(plain, weights)).backward()
    expect(distance(a.grad!.dataSync() as Float64Array, b.grad!.dataSync() as Float64Array)).toBeLessThan(1e-12)
    for (const [name, p] of dense.namedParameters()) {
      const own = layer.namedParameters().get(name) ?? layer.namedParameters().get(`experts.${name}`)!
      expect(distance(own.grad!.dataSync() as Float64Array, p.grad!.dataSync() as Float64Array)).toBeLessThan(1e-12)
    }
    // Softmax over one expert is 1 whatever the logit.
    expect(distance(add(layer.gate.weight.grad!, 1).dataSync() as Float64Array, [1, 1, 1, 1])).toBeLessThan(1e-15)
    expect(isPolynomial(hidden_act)).toBe(layer.act_fn!.parameters().length > 0)
  })
})

test('an expert without tokens has a gradient of zero', () => {
  const { layer } = make({ num_experts: 5, num_experts_per_tok: 1, act_per_expert: true })
  sum(layer.forward(randn([1, 4], { dtype: 'float64' })).y).backward()
  for (const p of layer.experts.parameters()) {
    const size = p.size / 5
    const each = Array.from({ length: 5 }, (_, e) =>
      (p.grad!.dataSync() as Float64Array).slice(e * size, (e + 1) * size).some((g) => g !== 0),
    )
    expect(each.filter(Boolean)).toHaveLength(1)
  }
})

test('more experts a token than there are', () => {
  expect(() => new Moe({ kind: 'moe', hidden: 2, intermediate: 2, act: 'gelu', experts: 2, topK: 3 })).toThrow(
    /topK is 3/,
  )
})
