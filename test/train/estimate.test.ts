import { expect, test } from 'vitest'
import { native } from '../../lib/native.ts'
import { modelConfig } from '../../lib/nn/config.ts'
import { Transformer } from '../../lib/nn/transformer.ts'
import { AdamW } from '../../lib/optim/adamw.ts'
import { memory } from '../../lib/tensor.ts'
import { trainConfig } from '../../lib/train/config.ts'
import { countParameters, estimate, flopsPerToken } from '../../lib/train/estimate.ts'
import { TrainStep } from '../../lib/train/step.ts'

const small = {
  vocab_size: 256,
  hidden_size: 64,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  intermediate_size: 256,
}

test('the golden run dense_polynorm has the parameters of its file', () => {
  // 726024 bytes of init.safetensors are 4 a parameter and a header
  const n = countParameters(modelConfig({ ...small, hidden_act: 'polynorm' }))
  expect(n.total).toBe(2 * 256 * 64 + 3 * (4 * 64 * 64 + 2 * 64 * 256 + 2 * 64 + 4) + 64)
  expect(n.total * 4).toBeLessThan(726024)
  expect(n.total * 4).toBeGreaterThan(726024 - 8000)
})

test("the paper's models have the sizes that their names say", () => {
  const dense = countParameters(modelConfig({ preset: 'polycom-dense-1b' }))
  expect(dense.total / 1e9).toBeCloseTo(1.345, 3)
  expect(dense.active).toBe(dense.total - dense.embedding - dense.vectors)
  const moe = countParameters(modelConfig({ preset: 'polycom-moe-1b-7b' }))
  expect(moe.total / 1e9).toBeCloseTo(6.919, 3)
  expect(moe.active / 1e9).toBeCloseTo(1.179, 3)
  // A gate with the paper's width keeps the count.
  const gated = countParameters(modelConfig({ preset: 'polycom-dense-1b', hidden_act: 'swiglu' }))
  expect(gated.feedForward).toBe(dense.feedForward)
})

test('FLOPs a token: six for a matrix element, twelve for attention', () => {
  const model = modelConfig(small)
  expect(flopsPerToken(model, 100)).toBe(6 * (3 * (4 * 64 * 64 + 2 * 64 * 256) + 256 * 64) + 12 * 3 * 64 * 100)
})

test('memory by kind', () => {
  const of = (train: object) => estimate({ model: modelConfig(small), train: trainConfig({ steps: 10, ...train }) })
  const n = countParameters(modelConfig(small)).total
  const float = of({})
  expect(float.memory).toMatchObject({ parameters: 4 * n, gradients: 4 * n, moments: 8 * n, masters: 0 })
  expect(of({ dtype: 'bfloat16' }).memory).toMatchObject({ parameters: 2 * n, moments: 8 * n, masters: 4 * n })
  expect(of({ micro_batch_size: 16 }).memory.activations).toBeGreaterThan(1.5 * float.memory.activations)
  expect(of({ grad_accum: 4 }).memory).toEqual(float.memory)
  const { total, ...kinds } = float.memory
  expect(total).toBe(Object.values(kinds).reduce((a, b) => a + b))
  expect(of({ grad_accum: 4 }).tokens).toBe(4 * 10 * 8 * 256)
})

test.each([
  ['dense', {}, {}],
  ['wide', { intermediate_size: 1024 }, {}],
  ['gated', { hidden_act: 'swiglu' }, {}],
  ['experts', { num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 128, num_shared_experts: 1 }, {}],
  ['bfloat16', {}, { dtype: 'bfloat16' }],
] as const)('a step takes the memory that was foretold: %s', async (_, more, settings) => {
  const run = { model: modelConfig({ ...small, ...more }), train: trainConfig({ steps: 1, ...settings }) }
  const { micro_batch_size: rows, seq_len: seqLen, dtype } = run.train
  const before = memory().inUse
  const model = new Transformer(run.model, { dtype })
  const optimizer = new AdamW(model.namedParameters())
  const step = new TrainStep(model, optimizer)
  native.resetPeak()
  const ids = new Int32Array(rows * seqLen)
  await step.run([{ inputs: ids, targets: ids, rows, seqLen }], { lr: 1e-3, maxNorm: 1 })
  const foretold = estimate(run).memory.total / (memory().peak - before)
  expect(foretold).toBeGreaterThan(0.97)
  expect(foretold).toBeLessThan(1.35)
  for (const t of optimizer.state().values()) t.dispose()
})
