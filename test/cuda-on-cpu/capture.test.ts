// Work that is recorded once and replayed: the same as done directly, with memory that nothing else takes.
import { describe, expect, test } from 'vitest'
import { type Batch, Batches } from '../../lib/data/batches.ts'
import { memoryTokens } from '../../lib/data/shards.ts'
import { generate, grad, memory, ops, scope, type Tensor, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import { Transformer } from '../../lib/nn/transformer.ts'
import { generatorState, seed, setGeneratorState } from '../../lib/ops/random.ts'
import { AdamW } from '../../lib/optim/index.ts'
import { evaluate } from '../../lib/train/evaluate.ts'
import { generatorAt } from '../../lib/train/state.ts'
import { type StepResult, TrainStep } from '../../lib/train/step.ts'
import { moe, pattern, small } from '../train/runs.ts'
import { standIn } from './process.ts'

/** Records what fn queues; gives the graph and what fn returned. */
function record<R>(fn: () => R) {
  native.beginCapture(1)
  try {
    const made = fn()
    return { made, graph: native.endCapture(1, true)! }
  } catch (e) {
    native.endCapture(1, false)
    throw e
  }
}
const fill = (n: number, value: number): Tensor => tensor(new Float32Array(n).fill(value))
const provoke = (what: string, x: Tensor): void =>
  (native as unknown as { provoke(what: string, x: unknown): void }).provoke(what, x.handle)

describe('a graph', () => {
  test('is done when it is replayed, not before, on what its inputs hold by then', () => {
    const x = fill(1000, 1)
    const { graph, made: y } = record(() => scope(() => ops.mul(ops.add(x, 1), 3)))
    for (const value of [1, 5, -2]) {
      native.write(x.handle, new Float32Array(1000).fill(value))
      native.replay(graph)
      expect(y.dataSync().every((v) => v === (value + 1) * 3)).toBe(true)
    }
    y.dispose()
    native.destroyGraph(graph)
    expect(() => native.replay(graph)).toThrow('the graph has been destroyed')
  })

  test('holds the gradient of a cross-entropy in the place of the logits', () => {
    const [rows, classes] = [64, 4096]
    const value = (k: number) => new Float32Array(rows).map((_, i) => Math.sin(i + k))
    const x = tensor(value(0), { shape: [rows, 1], requiresGrad: true })
    const w = tensor(
      new Float32Array(classes).map((_, i) => Math.cos(i)),
      { shape: [classes, 1] },
    )
    const targets = tensor(new Int32Array(rows).map((_, i) => 7 * i))
    const gradient = (inPlace: boolean) =>
      scope(() => grad(ops.crossEntropy(ops.linear(x, w), targets, { inPlace }), [x])[0]!)
    const peaks = [false, true].map((inPlace) => {
      const { graph, made } = record(() => {
        const before = memory('cuda').inUse
        native.resetPeak()
        return { dx: gradient(inPlace), peak: memory('cuda').peak - before }
      })
      for (const k of [1, 2]) {
        native.write(x.handle, value(k))
        native.replay(graph)
        const found = made.dx.dataSync()
        expect(found).toEqual(gradient(false).dataSync())
        expect(found.some((v) => v !== 0)).toBe(true)
      }
      native.destroyGraph(graph)
      made.dx.dispose()
      return made.peak
    })
    expect(peaks[0]! - peaks[1]!).toBeGreaterThan(0.9 * rows * classes * 4)
  })

  test('has memory of its own: what is made between replays does not touch it, nor it that', () => {
    const x = fill(5000, 2)
    const { graph, made: y } = record(() => scope(() => ops.add(ops.mul(x, 10), ops.mul(x, 100))))
    const others: Tensor[] = []
    for (let i = 0; i < 5; i++) {
      for (let k = 0; k < 4; k++) others.push(fill(5000, 1000 * i + k))
      native.replay(graph)
      expect(y.dataSync().every((v) => v === 220)).toBe(true)
      for (const [at, t] of others.entries())
        expect(t.dataSync().every((v) => v === 1000 * Math.floor(at / 4) + (at % 4))).toBe(true)
    }
    native.destroyGraph(graph)
  })

  test('keeps the tensors from before that it uses, though nobody else does', () => {
    const [x, kept] = [fill(5000, 3), fill(5000, 4)]
    const { graph, made: y } = record(() => {
      const sum = ops.add(x, kept)
      kept.dispose() // while it is recorded
      return sum
    })
    x.dispose()
    native.trim()
    const others = Array.from({ length: 8 }, () => fill(5000, 9))
    native.replay(graph)
    expect(y.dataSync().every((v) => v === 7)).toBe(true)
    expect(others.every((t) => t.dataSync().every((v) => v === 9))).toBe(true)
    native.destroyGraph(graph)
  })

  test('gives its memory back with its last tensor', () => {
    native.trim()
    const before = memory('cuda')
    const x = fill(300_000, 1)
    const { graph, made: y } = record(() => scope(() => ops.add(ops.mul(x, 2), ops.mul(x, 3))))
    expect(memory('cuda').inUse - before.inUse).toBeGreaterThan(5 * 1.2e6)
    native.destroyGraph(graph)
    x.dispose()
    y.dispose()
    native.trim()
    expect(memory('cuda')).toMatchObject({ inUse: before.inUse, cached: before.cached })
  })

  test('reads and takes no values while it is recorded', async () => {
    const x = fill(1, 1)
    const errors = [() => x.itemSync(), () => x.dataSync(), () => tensor([1]), () => native.beginCapture(1)].map(
      (act) => {
        try {
          native.beginCapture(1)
          act()
          return ''
        } catch (e) {
          return (e as Error).message
        } finally {
          native.endCapture(1, false)
        }
      },
    )
    expect(errors.map((m) => m.split(':')[0])).toEqual([
      'dataSync(), itemSync()',
      'dataSync(), itemSync()',
      'tensor',
      'capture',
    ])
    native.beginCapture(1)
    const read = x.data()
    native.endCapture(1, false)
    await expect(read).rejects.toThrow('data(), item(): a step that is being captured has no values yet')
    expect(await x.item()).toBe(1)
  })

  test.skipIf(!standIn)('reports, at each replay, what only a kernel sees', () => {
    const x = fill(1, 1)
    const { graph } = record(() => {
      provoke('report', x)
      return 1
    })
    expect(x.itemSync()).toBe(1)
    for (let i = 0; i < 2; i++) {
      native.replay(graph)
      expect(() => x.itemSync()).toThrow('provoke: ids[3] is 300, but the vocabulary has 200')
      expect(x.itemSync()).toBe(1)
    }
    native.destroyGraph(graph)
  })
})

const source = memoryTokens(pattern(2000))
const batchesOf = (rows = 2) => new Batches(source, { batchSize: rows, seqLen: 8, order: 'sequential' })
function setUp(config: object, capture: boolean, dtype: 'float32' | 'bfloat16' = 'float32') {
  seed(2)
  const model = new Transformer(config, { dtype })
  const optimizer = new AdamW(model.namedParameters(), { weightDecay: 0.1 })
  return { model, optimizer, step: new TrainStep(model, optimizer, { capture }) }
}
type SetUp = ReturnType<typeof setUp>
const everything = async ({ model, optimizer }: SetUp) =>
  Promise.all([...model.parameters(), ...optimizer.state().values(), optimizer.updates].map((t) => t.data()))

/** A run of some steps with falling rates; what each found, and everything at the end. */
async function run(
  config: object,
  capture: boolean,
  options: { dtype?: 'bfloat16'; between?: (s: SetUp) => Promise<void> } = {},
) {
  const all = setUp(config, capture, options.dtype)
  const batches = batchesOf()
  const found: StepResult[] = []
  const replayed: boolean[] = []
  for (let i = 0; i < 6; i++) {
    setGeneratorState(generatorAt(7, i))
    found.push(await all.step.run([batches.next(), batches.next()], { lr: 0.02 / (i + 1), maxNorm: i > 10 ? 0 : 1 }))
    replayed.push(all.step.replayed)
    await options.between?.(all)
  }
  const end = await everything(all)
  const draws = generatorState()
  all.step.dispose()
  return { found, end, replayed, draws }
}

describe('steps', () => {
  test.each([
    ['dense', small, {}],
    ['dense with dropout', { ...small, hidden_dropout: 0.2 }, {}],
    ['of experts', { ...moe, act_per_expert: true }, {}],
    ['bfloat16', { ...small, hidden_act: 'polynorm_glu' }, { dtype: 'bfloat16' as const }],
  ])('%s: the same bits with and without capture', async (_, config, options) => {
    const direct = await run(config, false, options)
    const captured = await run(config, true, options)
    expect(direct.replayed).toEqual([false, false, false, false, false, false])
    expect(captured.replayed).toEqual([false, false, true, true, true, true])
    expect(captured.found).toEqual(direct.found)
    expect(captured.end).toEqual(direct.end)
    expect(captured.draws).toEqual(direct.draws)
    expect(new Set(direct.found.map(({ loss }) => loss)).size).toBe(6)
  })

  test('evaluation and generation in between disturb nothing', async () => {
    const between = async ({ model }: SetUp) => {
      await evaluate(model, source, { batchSize: 3, seqLen: 8, batches: 2 })
      for await (const { id } of generate(model, [1, 2, 3], { maxTokens: 3 })) expect(id).toBeLessThan(64)
      fill(3000, Number.NaN).dispose()
      native.trim()
      model.train()
    }
    const plain = await run(small, false)
    const disturbed = await run(small, true, { between })
    expect(disturbed.replayed.at(-1)).toBe(true)
    expect(disturbed.found).toEqual(plain.found)
    expect(disturbed.end).toEqual(plain.end)
  })

  test('another shape is captured anew', async () => {
    const shapes = [2, 2, 2, 2, 3, 3, 3, 3, 2, 2]
    const results = []
    for (const capture of [false, true]) {
      const all = setUp(small, capture)
      const found: StepResult[] = []
      const replayed: boolean[] = []
      for (const rows of shapes) {
        const batch: Batch = batchesOf(rows).next()
        found.push(await all.step.run([batch], { lr: 0.01, maxNorm: 1 }))
        replayed.push(all.step.replayed)
      }
      results.push(found)
      if (capture) expect(replayed).toEqual([false, false, true, true, false, false, true, true, false, false])
      all.step.dispose()
    }
    expect(results[1]).toEqual(results[0])
  })

  test('numbers that are not finite stop a replayed step too, and leave everything as it was', async () => {
    const all = setUp(small, true)
    const { step, model } = all
    const one = () => step.run([batchesOf().next()], { lr: 0.01, maxNorm: 1 })
    for (let i = 0; i < 3; i++) expect((await one()).finite).toBe(true)
    expect(step.replayed).toBe(true)
    const norm = model.stateDict().get('model.norm.weight')!
    const good = tensor((await norm.data()) as Float32Array)
    native.assignValue(Number.NaN, norm.handle)
    const before = await everything(all)
    expect((await one()).finite).toBe(false)
    expect(step.replayed).toBe(true)
    expect(await everything(all)).toEqual(before)
    native.assign(good.handle, norm.handle)
    expect((await one()).finite).toBe(true)
    step.dispose()
  })

  test('what a step holds is given back', async () => {
    const all = setUp(small, true)
    const one = () => all.step.run([batchesOf().next()], { lr: 0.01, maxNorm: 1 })
    await one()
    native.trim()
    const before = memory('cuda').inUse
    for (let i = 0; i < 3; i++) await one()
    expect(memory('cuda').inUse).toBeGreaterThan(before)
    all.step.dispose()
    expect(memory('cuda').inUse).toBe(before)
    expect((await one()).finite).toBe(true)
  })

  test('ids out of range are told at the step that met them', async () => {
    const all = setUp(small, true)
    const one = (batch: Batch) => all.step.run([batch], { lr: 0.01, maxNorm: 1 })
    for (let i = 0; i < 3; i++) await one(batchesOf().next())
    const bad = batchesOf().next()
    bad.inputs[5] = 64
    await expect(one(bad)).rejects.toThrow('embedding: ids[5] is 64, but the vocabulary has 64')
    expect((await one(batchesOf().next())).loss).toBeTypeOf('number')
    all.step.dispose()
  })
})
