import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { readMetrics } from '../../lib/train/metrics.ts'
import { polygrad, temporaryFolder } from '../cli/program.ts'

const golden = fileURLToPath(new URL('../golden', import.meta.url))
const folder = temporaryFolder()
const device = process.env.POLYGRAD_TEST_DEVICE ?? 'cpu'
const runs = readdirSync(golden).filter((name) => existsSync(join(golden, name, 'expected.jsonl')))

// The same runs in PyTorch: every step's loss within 1e-4 (1e-3 on a GPU), gradient norm within 1e-3 relative.
describe('golden runs, through the command line', () => {
  test.each(runs)('%s', async (name) => {
    const from = join(golden, name)
    const config = JSON.parse(readFileSync(join(from, 'config.json'), 'utf8'))
    const run = {
      ...config,
      data: { train: join(from, 'tokens.bin'), order: 'sequential' },
      init: join(from, 'init.safetensors'),
    }
    mkdirSync(join(folder, name))
    const path = join(folder, name, 'run.json')
    writeFileSync(path, JSON.stringify(run))
    const out = join(folder, name, 'out')
    const { status, stderr } = await polygrad('train', path, '--out', out, '--device', device)
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })

    const expected = readFileSync(join(from, 'expected.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    const near = device === 'cpu' ? 1e-4 : 1e-3
    const lines = readMetrics(join(out, 'metrics.jsonl'))
    expect(lines.map((l) => l.step)).toEqual(expected.map((e) => e.step))
    for (const [i, want] of expected.entries()) {
      const got = lines[i]!
      // Written so that NaN fails.
      expect(Math.abs(got.loss - want.loss) <= near, `step ${i}: loss ${got.loss}, not ${want.loss}`).toBe(true)
      const off = Math.abs(got.grad_norm / want.grad_norm - 1)
      expect(off <= 1e-3, `step ${i}: grad_norm ${got.grad_norm}, not ${want.grad_norm}`).toBe(true)
      expect(got.lr).toBeCloseTo(want.lr, 12)
      expect(got.tokens).toBe((i + 1) * config.train.micro_batch_size * config.train.seq_len * config.train.grad_accum)
      expect(got.tokens_per_second).toBeGreaterThan(0)
      const { num_experts = 0, num_hidden_layers, hidden_act, poly_order = 3, act_per_expert } = config.model
      if (num_experts > 0) {
        expect(got.expert_load).toHaveLength(num_hidden_layers)
        for (const layer of got.expert_load!) {
          expect(layer).toHaveLength(num_experts)
          expect(layer.reduce((a, b) => a + b)).toBeCloseTo(1, 5)
        }
        expect(got.aux_loss).toBeGreaterThan(0.99)
        expect(got.z_loss).toBeGreaterThan(0)
        if (want.aux_loss !== undefined) expect(got.aux_loss).toBeCloseTo(want.aux_loss, 4)
        if (want.z_loss !== undefined) expect(got.z_loss).toBeCloseTo(want.z_loss, 4)
      } else expect(got.expert_load ?? got.aux_loss).toBeUndefined()
      if (hidden_act.startsWith('poly')) {
        expect(got.act_coefficients).toHaveLength(num_hidden_layers)
        // One set a layer, or one an expert.
        const sets = act_per_expert ? got.act_coefficients!.flat() : got.act_coefficients!
        for (const set of sets) expect(set).toHaveLength(poly_order + 1)
      } else expect(got.act_coefficients).toBeUndefined()
    }
  })
})
