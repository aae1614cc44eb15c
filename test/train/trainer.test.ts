import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkpointProblem } from '../../lib/io/checkpoint.ts'
import { type Disk, realDisk } from '../../lib/io/disk.ts'
import { memory } from '../../lib/tensor.ts'
import { readRunConfig } from '../../lib/train/config.ts'
import { NonFiniteError, type TrainEvent } from '../../lib/train/events.ts'
import { readMetrics } from '../../lib/train/metrics.ts'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer.ts'
import { onlyLine, polygrad, temporaryFolder } from '../cli/program.ts'
import { moe, pattern, small, writeRun, writeTokens } from './runs.ts'

const folder = temporaryFolder()
const tokens = writeTokens(folder, 'tokens.bin', pattern(2000))
const val = writeTokens(folder, 'val.bin', pattern(300))

const runOf = (name: string, parts: { model?: object; train?: object; data?: object; init?: string } = {}) =>
  writeRun(folder, name, {
    model: { ...small, ...parts.model },
    train: { steps: 10, micro_batch_size: 2, seq_len: 16, lr: 1e-2, ...parts.train },
    data: { train: tokens, ...parts.data },
    ...(parts.init && { init: parts.init }),
  })
const create = (name: string, parts?: Parameters<typeof runOf>[1], options?: TrainerOptions) =>
  Trainer.create(readRunConfig(runOf(name, parts)), { out: join(folder, name), ...options })
async function eventsOf(trainer: Trainer): Promise<TrainEvent[]> {
  const events: TrainEvent[] = []
  for await (const event of trainer) events.push(event)
  return events
}
const steps = (path: string) => readdirSync(join(path, 'checkpoints')).sort()

test('events in their order, and the same numbers in metrics.jsonl', async () => {
  const trainer = await create(
    'events',
    { train: { steps: 4, eval_every: 2, save_every: 2, sample_every: 4, eval_batches: 3 }, data: { val } },
    { sample: async (_, __, step) => `text ${step}` },
  )
  const events = await eventsOf(trainer)
  expect(events.map((e) => e.kind).join(' ')).toBe(
    'start sample step eval step checkpoint step eval step checkpoint sample done',
  )
  const found = events.flatMap((e) => (e.kind === 'step' ? [e] : []))
  const lines = readMetrics(join(trainer.out, 'metrics.jsonl'))
  expect(lines.map((l) => Math.fround(l.loss))).toEqual(found.map((e) => e.loss))
  expect(lines.map((l) => l.val_loss !== undefined)).toEqual([false, true, false, true])
  expect(lines.map((l) => l.tokens)).toEqual([32, 64, 96, 128])
  expect(events.at(-1)).toMatchObject({ complete: true, step: 4, loss: found[3]!.loss, val_loss: found[3]!.val_loss })
  expect(steps(trainer.out)).toEqual(['step-00000002', 'step-00000004'])
  await expect(eventsOf(trainer)).rejects.toThrow('iterated once')
})

test('it learns', async () => {
  const trainer = await create('learns', { train: { steps: 150, micro_batch_size: 8 } })
  const done = await trainer.finish()
  const [first] = readMetrics(join(trainer.out, 'metrics.jsonl'))
  expect(first!.loss).toBeGreaterThan(3.5)
  expect(done.loss).toBeLessThan(1.5)
})

test('stop() finishes the step and saves', async () => {
  const trainer = await create('stopped')
  const events: TrainEvent[] = []
  for await (const event of trainer) {
    events.push(event)
    if (event.kind === 'step' && event.step === 2) trainer.stop()
  }
  expect(events.at(-1)).toMatchObject({ kind: 'done', complete: false, step: 3 })
  expect(steps(trainer.out)).toEqual(['step-00000003'])
})

test('grad_accum averages: two micro-batches of 2 rows are one of 4', async () => {
  const sequential = { data: { order: 'sequential' } }
  const one = await create('one', { ...sequential, train: { micro_batch_size: 4, seq_len: 16 } })
  const two = await create('two', { ...sequential, train: { grad_accum: 2, seq_len: 16 } })
  await Promise.all([one.finish(), two.finish()])
  const [a, b] = [one, two].map((t) => readMetrics(join(t.out, 'metrics.jsonl')))
  for (const [i, line] of a!.entries()) {
    expect(Math.abs(line.loss - b![i]!.loss)).toBeLessThan(2e-6)
    expect(Math.abs(line.grad_norm / b![i]!.grad_norm - 1)).toBeLessThan(1e-4)
  }
})

test('no step leaves tensors behind', async () => {
  const trainer = await create('leak', {
    model: moe,
    train: { steps: 12, grad_accum: 2, eval_every: 3 },
    data: { val },
  })
  const live: number[] = []
  for await (const event of trainer) if (event.kind === 'step') live.push(memory().tensors)
  expect(new Set(live.slice(3)).size).toBe(1)
})

describe('a loss that is not finite', () => {
  test('stops before the update, and saves the last good step', async () => {
    // An update of this size makes the next loss infinite or NaN.
    const trainer = await create('nan', { train: { lr: 1e30, weight_decay: 0, schedule: 'constant' } })
    const error: unknown = await trainer.finish().catch((e) => e)
    expect(error).toBeInstanceOf(NonFiniteError)
    const bad = (error as NonFiniteError).step
    expect(bad).toBeGreaterThan(0)
    expect(readMetrics(join(trainer.out, 'metrics.jsonl'))).toHaveLength(bad)
    expect(steps(trainer.out)).toEqual([`step-${String(bad).padStart(8, '0')}`])
    // The parameters are those that a run which ended there has.
    const short = await create('nan-short', { train: { lr: 1e30, weight_decay: 0, schedule: 'constant', steps: bad } })
    await short.finish()
    const [name] = steps(trainer.out)
    for (const file of ['model.safetensors', 'optimizer.safetensors'])
      expect(
        readFileSync(join(trainer.out, 'checkpoints', name!, file)).equals(
          readFileSync(join(short.out, 'checkpoints', name!, file)),
        ),
      ).toBe(true)
  })

  test('through the command line: status 1 and one line', async () => {
    const run = runOf('nan-cli', { train: { lr: 1e30, weight_decay: 0 } })
    const { status, stderr } = await polygrad('train', run, '--out', join(folder, 'nan-cli'))
    expect(status).toBe(1)
    expect(onlyLine(stderr)).toMatch(
      /step \d+: the (loss|gradient's norm) is .*stopped before the update.*step-0000000\d/,
    )
  })
})

describe('a disk that fails while a checkpoint is written', () => {
  test.each(['ENOSPC', 'EIO'])('%s: one line, and the checkpoint before it is whole', async (code) => {
    let broken = false
    const disk: Disk = {
      open: async (path, flags) => {
        const file = await realDisk.open(path, flags)
        if (broken && flags === 'w') file.write = () => Promise.reject(Object.assign(new Error(code), { code }))
        return file
      },
      mkdir: realDisk.mkdir,
      readdir: realDisk.readdir,
      rename: realDisk.rename,
      rm: realDisk.rm,
    }
    const trainer = await create(code, { train: { save_every: 2 } }, { disk })
    const run = async () => {
      for await (const event of trainer) if (event.kind === 'checkpoint') broken = true
    }
    await expect(run()).rejects.toThrow(/^cannot write .*step-00000004.*\(E\w+\)$/)
    expect(steps(trainer.out)).toEqual(['step-00000002'])
    expect(await checkpointProblem(join(trainer.out, 'checkpoints', 'step-00000002'))).toBeUndefined()
  })
})

describe('bad input: status 2 and one line that names it', () => {
  const write = (name: string, bytes: Uint8Array | string): string => {
    const path = join(folder, name)
    writeFileSync(path, bytes)
    return path
  }
  const cases: [string, Parameters<typeof runOf>[1], RegExp][] = [
    ['unknown field', { train: { learning_rate: 1 } }, /train\.learning_rate is not a field; did you mean "/],
    ['mistyped value', { model: { hidden_act: 'polynrom' } }, /model\.hidden_act .* did you mean "polynorm"/],
    ['missing data', { data: { train: '/nonexistent.bin' } }, /data\.train: \/nonexistent\.bin does not exist/],
    ['missing text', { data: { train: '/nonexistent.txt' } }, /data\.train: \/nonexistent\.txt does not exist/],
    ['empty data', { data: { train: write('empty.bin', '') } }, /data\.train: .*empty\.bin is empty/],
    [
      'empty text',
      { data: { train: write('empty.txt', '') }, model: { vocab_size: 256 } },
      /data\.train: .*empty\.txt is empty/,
    ],
    ['odd length', { data: { train: write('odd.bin', 'abc') } }, /data\.train: .*odd\.bin has 3 bytes/],
    [
      'short data',
      { data: { train: writeTokens(folder, 'short.bin', pattern(16)) } },
      /data\.train: .*short\.bin has 16 tokens/,
    ],
    [
      'short val',
      { data: { val: writeTokens(folder, 'shortval.bin', pattern(16)) } },
      /data\.val: .*shortval\.bin has 16 tokens/,
    ],
    [
      'id out of range',
      { data: { train: writeTokens(folder, 'wild.bin', [...pattern(99), 64]) } },
      /data\.train: .*wild\.bin has token 64 at position 99, but the vocabulary has 64/,
    ],
    [
      'id out of range in val',
      { data: { val: writeTokens(folder, 'wildval.bin', [...pattern(99), 999]) } },
      /data\.val: .*token 999 at position 99/,
    ],
    [
      "vocabulary below the text's",
      { data: { train: write('text.txt', 'x'.repeat(99)) } },
      /model\.vocab_size is 64 but must be at least the 256 of the tokenizer bytes/,
    ],
    ['no init', { init: '/nonexistent.safetensors' }, /init: .*nonexistent\.safetensors/],
    ['init not safetensors', { init: write('not.safetensors', 'hello, world') }, /init: .*not\.safetensors/],
    ['no tokenizer', { data: { tokenizer: './none.json' } }, /data\.tokenizer: .*none\.json does not exist/],
  ]
  test.each(cases)('%s', async (name, parts, message) => {
    const out = join(folder, `bad ${name}`)
    const { status, stderr } = await polygrad('train', runOf('bad', parts), '--out', out)
    expect(onlyLine(stderr)).toMatch(message)
    expect(status).toBe(2)
  })

  test('weights of another shape are named', async () => {
    const other = await create('wide', { model: { hidden_size: 32 }, train: { steps: 1 } })
    const { checkpoint } = await other.finish()
    const { status, stderr } = await polygrad(
      'train',
      runOf('shape', { init: checkpoint }),
      '--out',
      join(folder, 'shape'),
    )
    expect(onlyLine(stderr)).toMatch(/init: .*model\.embed_tokens\.weight is \[64, 32\] but the model's is \[64, 16\]/)
    expect(status).toBe(2)
  })

  test('nothing is written then', async () => {
    const out = join(folder, 'untouched')
    mkdirSync(out)
    writeFileSync(join(out, 'metrics.jsonl'), '{"step":0}\n')
    const { status } = await polygrad('train', runOf('bad', { data: { train: '/nonexistent.bin' } }), '--out', out)
    expect(status).toBe(2)
    expect(readFileSync(join(out, 'metrics.jsonl'), 'utf8')).toBe('{"step":0}\n')
  })
})
