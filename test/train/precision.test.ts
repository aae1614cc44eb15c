// The golden runs in both types on the device of the tests. On the stand-in for a GPU one of them, and of some others the
// first steps. GOLDEN_REPORT=FILE: how far off they were is appended there.
import { appendFileSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import type { Device } from '../../lib/index.ts'
import { runConfig } from '../../lib/train/config.ts'
import { Trainer } from '../../lib/train/trainer.ts'
import { temporaryFolder } from '../cli/program.ts'

const golden = fileURLToPath(new URL('../golden', import.meta.url))
const folder = temporaryFolder()
const device = (process.env.POLYGRAD_TEST_DEVICE ?? 'cpu') as Device
const standIn = process.env.POLYGRAD_NATIVE_PATH !== undefined
const all = readdirSync(golden).filter((name) => existsSync(join(golden, name, 'expected.jsonl')))
const whole = !standIn ? all : process.env.CUDA_ON_CPU_CAPABILITY ? [] : ['dense_wraps']
const begun = standIn
  ? [
      'dense_polynorm',
      'dense_polyrelu_gqa_tied',
      'dense_polynorm_glu',
      'dense_gelu_layernorm_noclip',
      'moe_polyrelu_perexpert',
    ]
  : []
const report = process.env.GOLDEN_REPORT

describe.each([...whole, ...begun])('%s', (name) => {
  const from = join(golden, name)
  const config = JSON.parse(readFileSync(join(from, 'config.json'), 'utf8'))
  const expected = readFileSync(join(from, 'expected.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { loss: number; grad_norm: number })
    .slice(0, whole.includes(name) ? undefined : 4)

  // A router's choices flip on rounding, so bfloat16 is worth less with experts.
  test.each([
    ['float32', device === 'cpu' ? 1e-4 : 1e-3],
    ['bfloat16', name.startsWith('moe') ? 5e-2 : 1e-2],
  ] as const)('%s: every loss within %d', async (dtype, tolerance) => {
    const run = runConfig({
      ...config,
      train: { ...config.train, dtype },
      data: { train: join(from, 'tokens.bin'), order: 'sequential' },
      init: join(from, 'init.safetensors'),
    })
    const trainer = await Trainer.create(run, { out: join(folder, `${name}-${dtype}`), device })
    const losses: number[] = []
    const norms: number[] = []
    for await (const event of trainer) {
      if (event.kind === 'step') {
        losses.push(event.loss)
        norms.push(event.grad_norm)
      }
      if (losses.length === expected.length) break
    }
    expect(losses).toHaveLength(expected.length)
    const off = losses.map((loss, i) => Math.abs(loss - expected[i]!.loss))
    if (report) {
      const [largest, ofNorm] = [
        Math.max(...off),
        Math.max(...norms.map((n, i) => Math.abs(n / expected[i]!.grad_norm - 1))),
      ]
      const line = { run: name, dtype, device, steps: losses.length, tolerance, off: largest, at: off.indexOf(largest) }
      appendFileSync(report, `${JSON.stringify({ ...line, normOff: ofNorm })}\n`)
    }
    for (const [i, d] of off.entries()) expect(d <= tolerance, `step ${i}: loss ${losses[i]} is off by ${d}`).toBe(true)
  })
})
