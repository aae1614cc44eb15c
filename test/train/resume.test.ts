import { cpSync, existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { readMetrics, readSamples, type StepMetrics } from '../../lib/train/metrics.ts'
import { onlyLine, polygrad, start, temporaryFolder } from '../cli/program.ts'
import { moe, pattern, small, writeRun, writeTokens } from './runs.ts'

const folder = temporaryFolder()
const device = process.env.POLYGRAD_TEST_DEVICE ?? 'cpu'
const tokens = writeTokens(folder, 'tokens.bin', pattern(3000))

const runOf = (name: string, parts: { model?: object; train?: object; data?: object }) =>
  writeRun(folder, name, {
    model: { ...small, ...parts.model },
    train: { steps: 20, micro_batch_size: 2, seq_len: 16, lr: 1e-2, warmup_steps: 4, ...parts.train },
    data: { train: tokens, ...parts.data },
  })

const train = async (run: string, out: string, ...args: string[]) => {
  const ended = await polygrad('train', run, '--out', out, '--device', device, ...args)
  expect(ended).toMatchObject({ status: 0, stderr: '' })
  return ended.stdout
}
/** The lines without what depends on the clock. */
const lines = (out: string) =>
  readMetrics(join(out, 'metrics.jsonl')).map(({ tokens_per_second: _, ...line }: StepMetrics) => line)
const weights = (out: string, step: number) =>
  readFileSync(join(out, 'checkpoints', `step-${String(step).padStart(8, '0')}`, 'model.safetensors'))

describe('stopping after 7 steps and going on gives the same bits as never stopping', () => {
  test.each([
    ['dense', {}],
    ['sequential', { data: { order: 'sequential' } }],
    ['accumulation', { train: { grad_accum: 3 } }],
    ['dropout', { model: { hidden_dropout: 0.2 } }],
    ['experts', { model: { ...moe, num_shared_experts: 1 }, train: { grad_accum: 2 } }],
    ['own coefficients, dropout', { model: { ...moe, act_per_expert: true, hidden_dropout: 0.1 } }],
    ['bfloat16', { train: { dtype: 'bfloat16' } }],
    ['tied, layer norm, swiglu', { model: { tie_word_embeddings: true, norm_type: 'layer', hidden_act: 'swiglu' } }],
    ['evaluation, samples', { train: { eval_every: 5, sample_every: 5 }, data: { val: tokens } }],
  ])('%s', async (name, parts) => {
    const run = runOf(name, parts)
    const [whole, halves] = [join(folder, name, 'whole'), join(folder, name, 'halves')]
    await train(run, whole)
    // Stopped by Ctrl-C rather than by fewer steps, which would bend the schedule: save_every 7, and the rest thrown away.
    await train(run, halves, '--set', 'train.save_every=7')
    cpSync(halves, `${halves}-cut`, { recursive: true })
    for (const step of ['00000014', '00000020']) {
      const manifest = join(`${halves}-cut`, 'checkpoints', `step-${step}`, 'checkpoint.json')
      writeFileSync(manifest, '')
    }
    const said = await train(run, `${halves}-cut`, '--resume')
    expect(said).toContain('resumed from')
    expect(said.match(/passed over/g)).toHaveLength(2)
    expect(lines(whole)).toHaveLength(20)
    expect(lines(halves)).toEqual(lines(whole))
    expect(lines(`${halves}-cut`)).toEqual(lines(whole))
    expect(weights(`${halves}-cut`, 20).equals(weights(whole, 20))).toBe(true)
    if (!name.includes('samples')) return
    const written = readSamples(join(whole, 'samples.jsonl'))
    expect(written.map((s) => s.step)).toEqual([0, 5, 10, 15, 20])
    expect(readSamples(join(`${halves}-cut`, 'samples.jsonl'))).toEqual(written)
    expect(readFileSync(join(`${halves}-cut`, 'report.html'), 'utf8')).toContain('What the model writes')
  })
})

test('killed at any moment while it saves, a run goes on to the same bits', async () => {
  const run = runOf('killed', { train: { steps: 60, save_every: 1 } })
  const whole = join(folder, 'killed-whole')
  await train(run, whole, '--set', 'train.save_every=0')
  const out = join(folder, 'killed')
  for (let kill = 0; kill < 4; kill++) {
    const { child, ended } = start(['train', run, '--out', out, '--resume', '--device', device])
    const before = existsSync(join(out, 'checkpoints')) ? readdirSync(join(out, 'checkpoints')).length : 0
    // Wait until it has saved something, then a random while: most of its time goes into saving.
    while (
      child.exitCode === null &&
      (!existsSync(join(out, 'checkpoints')) || readdirSync(join(out, 'checkpoints')).length <= before)
    )
      await sleep(2)
    await sleep(Math.random() * 60)
    child.kill('SIGKILL')
    expect((await ended).signal === 'SIGKILL' || child.exitCode === 0).toBe(true)
  }
  await train(run, out, '--resume')
  expect(lines(out)).toEqual(lines(whole))
  expect(weights(out, 60).equals(weights(whole, 60))).toBe(true)
})

test('Ctrl-C finishes the step, saves, and ends with 0; --resume goes on to the same bits', async () => {
  const run = runOf('interrupted', { train: { steps: 400 } })
  const out = join(folder, 'interrupted')
  const { child, ended } = start(['train', run, '--out', out, '--device', device])
  while (
    child.exitCode === null &&
    !(existsSync(join(out, 'metrics.jsonl')) && statSync(join(out, 'metrics.jsonl')).size > 0)
  )
    await sleep(2)
  child.kill('SIGINT')
  expect(await ended).toMatchObject({ status: 0, stderr: '' })
  const done = lines(out).length
  expect(done).toBeLessThan(400)
  expect(readdirSync(join(out, 'checkpoints'))).toEqual([`step-${String(done).padStart(8, '0')}`])
  await train(run, out, '--resume')
  const whole = join(folder, 'interrupted-whole')
  await train(run, whole)
  expect(lines(out)).toEqual(lines(whole))
})

test('a full disk: status 1, one line, and the last good checkpoint goes on', async () => {
  const run = runOf('full', { train: { steps: 30, save_every: 10 } })
  const [out, whole] = [join(folder, 'full'), join(folder, 'full-whole')]
  await train(run, whole)
  const { child, ended } = start(['train', run, '--out', out, '--device', device])
  while (child.exitCode === null && !existsSync(join(out, 'checkpoints', 'step-00000010'))) await sleep(2)
  child.kill('SIGKILL')
  await ended
  for (let i = 0; i < 2; i++) {
    const full = await start(['train', run, '--out', out, '--resume'], { largestFile: 32768 }).ended
    expect(full).toMatchObject({ status: 1, signal: null })
    expect(onlyLine(full.stderr)).toMatch(
      /cannot write .*optimizer.safetensors: the file would be larger .* \(EFBIG\)$/,
    )
  }
  expect(readdirSync(join(out, 'checkpoints')).filter((name) => name.includes('.tmp'))).toEqual([])
  await train(run, out, '--resume')
  expect(lines(out)).toEqual(lines(whole))
  expect(weights(out, 30).equals(weights(whole, 30))).toBe(true)
})

describe('checkpoints that cannot be used', () => {
  test('none yet: the run begins; all broken: status 2, and nothing is touched', async () => {
    const run = runOf('broken', { train: { steps: 4, save_every: 2 } })
    const out = join(folder, 'broken')
    expect(await train(run, out, '--resume')).not.toContain('resumed from')
    for (const name of readdirSync(join(out, 'checkpoints')))
      truncateSync(join(out, 'checkpoints', name, 'optimizer.safetensors'), 100)
    const before = readFileSync(join(out, 'metrics.jsonl'), 'utf8')
    const { status, stderr } = await polygrad('train', run, '--out', out, '--resume')
    expect(status).toBe(2)
    expect(onlyLine(stderr)).toMatch(
      /--resume: no checkpoint in .* is whole; .*step-00000004.*optimizer.safetensors has 100 bytes/,
    )
    expect(readFileSync(join(out, 'metrics.jsonl'), 'utf8')).toBe(before)
  })

  test('another model or order: the field is named', async () => {
    const run = runOf('other', { train: { steps: 2 } })
    const out = join(folder, 'other')
    await train(run, out)
    for (const [setting, message] of [
      ['model.hidden_size=32', 'model.hidden_size is 32 but was 16'],
      ['train.seq_len=8', 'train.seq_len is 8 but was 16'],
      ['data.order=sequential', 'data.order is "sequential" but was "shuffled"'],
    ] as const) {
      const { status, stderr } = await polygrad('train', run, '--out', out, '--resume', '--set', setting)
      expect(status).toBe(2)
      expect(onlyLine(stderr)).toContain(message)
    }
  })

  test('a finished run goes on when steps are added', async () => {
    const run = runOf('more', { train: { steps: 2, schedule: 'constant' } })
    const out = join(folder, 'more')
    await train(run, out)
    await train(run, out, '--resume')
    expect(lines(out)).toHaveLength(2)
    await train(run, out, '--resume', '--set', 'train.steps=5')
    expect(lines(out).map((l) => l.step)).toEqual([0, 1, 2, 3, 4])
  })
})

test('a new run in the same folder moves the old files aside', async () => {
  const run = runOf('again', { train: { steps: 2 } })
  const out = join(folder, 'again')
  await train(run, out)
  const first = readFileSync(join(out, 'metrics.jsonl'), 'utf8')
  expect(await train(run, out)).toContain('previous-1')
  await train(run, out)
  expect(readFileSync(join(out, 'previous-1', 'metrics.jsonl'), 'utf8')).toBe(first)
  expect(readdirSync(out)).toContain('previous-2')
})
