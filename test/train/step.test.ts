import { describe, expect, test } from 'vitest'
import { Batches } from '../../lib/data/batches.ts'
import { memoryTokens } from '../../lib/data/shards.ts'
import { backward } from '../../lib/grad.ts'
import { Transformer } from '../../lib/nn/transformer.ts'
import { tensor } from '../../lib/ops/create.ts'
import { seed } from '../../lib/ops/random.ts'
import { AdamW } from '../../lib/optim/index.ts'
import { memory } from '../../lib/tensor.ts'
import { TrainStep } from '../../lib/train/step.ts'
import { moe, pattern, small } from './runs.ts'

const source = memoryTokens(pattern(500))
const batchesOf = () => new Batches(source, { batchSize: 2, seqLen: 8, order: 'sequential' })
function setUp(config: object) {
  seed(2)
  const model = new Transformer(config)
  const optimizer = new AdamW(model.namedParameters(), { weightDecay: 0 })
  return { model, optimizer, step: new TrainStep(model, optimizer) }
}
const values = async (model: Transformer) =>
  (await Promise.all(model.parameters().map((p) => p.data()))).flatMap((a) => [...(a as Float32Array)])

test('the loss and the norm are those of the mean over the micro-batches', async () => {
  const { model, step } = setUp(small)
  const batches = batchesOf()
  const two = [batches.next(), batches.next()]
  // By hand, on another model with the same values.
  const hand = setUp(small).model
  const losses: number[] = []
  for (const batch of two) {
    const [x, y] = [batch.inputs, batch.targets].map((ids) => tensor(ids, { shape: [2, 8] }))
    const { loss } = hand.loss(x!, y!)
    losses.push(await loss.item())
    backward(loss, tensor(0.5))
  }
  let squares = 0
  for (const p of hand.parameters()) for (const d of (await p.grad!.data()) as Float32Array) squares += d * d
  const found = await step.run(two, { lr: 0, maxNorm: 1 })
  expect(found.finite).toBe(true)
  expect(Math.abs(found.loss - (losses[0]! + losses[1]!) / 2)).toBeLessThan(1e-6)
  expect(Math.abs(found.grad_norm / Math.sqrt(squares) - 1)).toBeLessThan(1e-5)
  expect(await values(model)).toEqual(await values(hand)) // the rate was 0
})

describe('what is reported', () => {
  test('experts: losses and shares; coefficients after the update', async () => {
    const { model, step } = setUp(moe)
    const found = await step.run([batchesOf().next()], { lr: 0.1, maxNorm: 0 })
    expect(found.expert_load).toHaveLength(2)
    for (const shares of found.expert_load!) expect(shares.reduce((a, b) => a + b)).toBeCloseTo(1, 6)
    expect(found.aux_loss).toBeGreaterThan(0.9)
    expect(found.z_loss).toBeGreaterThan(0)
    const dict = model.stateDict()
    const weight = (await dict.get('model.layers.1.mlp.act_fn.weight')!.data()) as Float32Array
    const bias = (await dict.get('model.layers.1.mlp.act_fn.bias')!.data()) as Float32Array
    expect(found.act_coefficients![1]).toEqual([...weight, ...bias])
    expect(weight[0]).not.toBeCloseTo(1 / 3, 6)
  })
  test('a set of coefficients for each expert', async () => {
    const { step } = setUp({ ...moe, act_per_expert: true, poly_order: 2 })
    const found = await step.run([batchesOf().next()], { lr: 0, maxNorm: 0 })
    expect(found.act_coefficients).toEqual([0, 1].map(() => [0, 1, 2, 3].map(() => [0.5, 0.5, 0])))
  })
  test('neither, where the model has neither', async () => {
    const found = await setUp({ ...small, hidden_act: 'gelu' }).step.run([batchesOf().next()], { lr: 0, maxNorm: 0 })
    expect(Object.keys(found).sort()).toEqual(['finite', 'grad_norm', 'loss'])
  })
})

test('numbers that are not finite leave parameters and moments untouched', async () => {
  const { model, optimizer, step } = setUp(small)
  await step.run([batchesOf().next()], { lr: 1e-2, maxNorm: 1 })
  const poison = tensor(new Float32Array(16).fill(Number.NaN), { shape: [16] })
  const norm = model.stateDict().get('model.norm.weight')!
  const good = await norm.data()
  const others = [...model.namedParameters()].filter(([name]) => name !== 'model.norm.weight').map(([, p]) => p)
  const read = async () =>
    Promise.all([...others, ...optimizer.state().values(), optimizer.updates].map((t) => t.data()))
  norm.exchange(poison)
  const before = await read()
  const found = await step.run([batchesOf().next()], { lr: 1e-2, maxNorm: 1 })
  expect(found.finite).toBe(false)
  expect(found.loss).toBeNaN()
  expect(await read()).toEqual(before)
  expect(good.length).toBe(16)
})

test('the event loop turns while a step is computed', async () => {
  const { step } = setUp({ ...small, hidden_size: 128, intermediate_size: 512, num_hidden_layers: 4 })
  const batches = new Batches(source, { batchSize: 8, seqLen: 32, order: 'sequential' })
  const next = () => [batches.next(), batches.next()]
  await step.run(next(), { lr: 0, maxNorm: 1 })
  let turns = 0
  let going = true
  const turn = () => {
    turns++
    if (going) setImmediate(turn)
  }
  setImmediate(turn)
  await step.run(next(), { lr: 0, maxNorm: 1 })
  going = false
  expect(turns).toBeGreaterThan(20) // one that waits for the kernels lets it turn at its awaits only
})

test('no step leaves tensors behind', async () => {
  const { step } = setUp(moe)
  const batches = batchesOf()
  const live: number[] = []
  for (let i = 0; i < 6; i++) {
    await step.run([batches.next(), batches.next(), batches.next()], { lr: 1e-3, maxNorm: 1 })
    live.push(memory().tensors)
  }
  expect(new Set(live.slice(3)).size).toBe(1) // a GPU keeps the third
})
