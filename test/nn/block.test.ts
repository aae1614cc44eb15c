import { expect, test } from 'vitest'
import { Block } from '../../lib/nn/block.ts'
import { normal } from '../../lib/nn/init.ts'
import { add } from '../../lib/ops/index.ts'
import { randn, seed } from '../../lib/ops/random.ts'
import { distance } from './reference.ts'

const make = (dropout = 0) =>
  new Block(
    {
      attention: { hidden: 8, heads: 2 },
      ffn: { kind: 'dense', hidden: 8, intermediate: 6, act: 'polynorm' },
      eps: 0.01,
      dropout,
    },
    { init: normal(0.5), dtype: 'float64' },
  )

test('x += attention(norm(x)); x += ffn(norm(x))', () => {
  const block = make()
  const x = randn([2, 3, 8], { dtype: 'float64' })
  const h = add(x, block.self_attn.forward(block.input_layernorm.forward(x)))
  const expected = add(h, block.mlp.forward(block.post_attention_layernorm.forward(h)).y).dataSync() as Float64Array
  expect(distance(block.forward(x).y.dataSync() as Float64Array, expected)).toBeLessThan(1e-14)
  const branch = randn([2, 3, 8], { dtype: 'float64' })
  const step = block.step(add(x, branch.neg()), branch)
  expect(distance(add(step.sum, step.branch).dataSync() as Float64Array, expected)).toBeLessThan(1e-12)
})

test('dropout in training only, on both branches', () => {
  const block = make(0.5)
  const x = randn([2, 3, 8], { dtype: 'float64' })
  const run = () => Array.from(block.forward(x).y.dataSync() as Float64Array)
  seed(1)
  const first = run()
  expect(run()).not.toEqual(first)
  seed(1)
  expect(run()).toEqual(first)
  block.eval()
  expect(run()).toEqual(run())
  const zeros = Array.from(block.train().step(x, null).branch.dataSync() as Float64Array).filter((v) => v === 0)
  expect(zeros.length).toBeGreaterThan(5)
})

test('names of the parameters', () => {
  expect([...make().namedParameters().keys()]).toEqual([
    'input_layernorm.weight',
    ...['q', 'k', 'v', 'o'].map((p) => `self_attn.${p}_proj.weight`),
    'post_attention_layernorm.weight',
    'mlp.up_proj.weight',
    'mlp.down_proj.weight',
    'mlp.act_fn.weight',
    'mlp.act_fn.bias',
  ])
})
