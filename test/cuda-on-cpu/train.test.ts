// A run on the GPU through the command line: it resumes with the same bits, and what it saved is evaluated and continued.
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readMetrics, type StepMetrics } from '../../lib/train/metrics.ts'
import { polygrad, start, temporaryFolder } from '../cli/program.ts'
import { moe, pattern, writeRun, writeTokens } from '../train/runs.ts'

const folder = temporaryFolder()
const tokens = writeTokens(folder, 'tokens.bin', pattern(3000))
const run = writeRun(folder, 'run', {
  model: { ...moe, hidden_dropout: 0.1 },
  train: {
    steps: 8,
    micro_batch_size: 2,
    seq_len: 8,
    grad_accum: 2,
    lr: 1e-2,
    dtype: 'bfloat16',
    eval_every: 4,
    eval_batches: 2,
  },
  data: { train: tokens, val: tokens, order: 'shuffled' },
})
const lines = (out: string) =>
  readMetrics(join(out, 'metrics.jsonl')).map(({ tokens_per_second: _, ...line }: StepMetrics) => line)
const weights = (out: string) => readFileSync(join(out, 'checkpoints/step-00000008/model.safetensors'))
async function train(out: string, args: string[] = [], env: Record<string, string> = {}) {
  const ended = await start(['train', run, '--out', out, '--device', 'cuda', ...args], { env }).ended
  expect(ended).toMatchObject({ status: 0, stderr: '' })
}

test('training with and without capture, stopped and resumed, gives the same bits; the result is used on both devices', async () => {
  const [direct, captured, cut] = ['direct', 'captured', 'cut'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ]
  await train(direct, [], { POLYGRAD_CAPTURE: '0' })
  await train(captured, ['--set', 'train.save_every=5'])
  expect(lines(direct)).toHaveLength(8)
  expect(lines(captured)).toEqual(lines(direct))
  expect(weights(captured).equals(weights(direct))).toBe(true)

  cpSync(captured, cut, { recursive: true })
  writeFileSync(join(cut, 'checkpoints/step-00000008/checkpoint.json'), '') // as if it ended after step 5
  await train(cut, ['--resume'])
  expect(lines(cut)).toEqual(lines(direct))
  expect(weights(cut).equals(weights(direct))).toBe(true)

  const checkpoint = join(direct, 'checkpoints/step-00000008')
  const losses = await Promise.all(
    ['cuda', 'cpu'].map(async (device) => {
      const { status, stdout, stderr } = await polygrad(
        'eval',
        checkpoint,
        '--data',
        tokens,
        '--device',
        device,
        '--json',
        '--batches',
        '2',
      )
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
      return (JSON.parse(stdout) as { loss: number }).loss
    }),
  )
  expect(Math.abs(losses[0]! - losses[1]!)).toBeLessThan(2e-2)
})
