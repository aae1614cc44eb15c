import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { SafetensorsReader } from '../../lib/io/safetensors.ts'
import { runConfig } from '../../lib/train/config.ts'
import { generatorAt, loadState, type RunState, readRun, saveState } from '../../lib/train/state.ts'
import { Trainer } from '../../lib/train/trainer.ts'
import { temporaryFolder } from '../cli/program.ts'
import { moe, pattern, writeTokens } from './runs.ts'

const folder = temporaryFolder()
const tokens = writeTokens(folder, 'tokens.bin', pattern(500))
const run = runConfig({ model: moe, train: { steps: 2, micro_batch_size: 2, seq_len: 8 }, data: { train: tokens } })

test('a checkpoint holds names and shapes that other programs know, and gives the state back', async () => {
  const trainer = await Trainer.create(run, { out: join(folder, 'out') })
  const { checkpoint } = await trainer.finish()
  const weights = await SafetensorsReader.open(join(checkpoint, 'model.safetensors'))
  const moments = await SafetensorsReader.open(join(checkpoint, 'optimizer.safetensors'))
  const names = [...weights.tensors.keys()]
  expect(names).toContain('model.layers.1.mlp.experts.3.down_proj.weight')
  expect(weights.tensors.get('model.layers.1.mlp.experts.3.down_proj.weight')!.shape).toEqual([16, 16])
  expect(weights.tensors.get('model.layers.0.mlp.act_fn.weight')!.shape).toEqual([3])
  expect([...moments.tensors.keys()].sort()).toEqual(
    names.flatMap((name) => [`${name}.exp_avg`, `${name}.exp_avg_sq`]).sort(),
  )
  for (const name of names)
    expect(moments.tensors.get(`${name}.exp_avg`)!.shape).toEqual(weights.tensors.get(name)!.shape)
  await weights.close()
  await moments.close()

  const file = JSON.parse(readFileSync(join(checkpoint, 'trainer.json'), 'utf8'))
  expect(file).toMatchObject({ step: 2, tokens: 32, data: { position: 4 }, seed: 1, generator: generatorAt(1, 2), run })
  expect(readRun(checkpoint)).toEqual(run)
  const config = JSON.parse(readFileSync(join(checkpoint, 'config.json'), 'utf8'))
  expect(config).toMatchObject({ num_experts: 4, hidden_act: 'polynorm', torch_dtype: 'float32' })
  expect(readFileSync(join(checkpoint, 'tokenizer.json'), 'utf8')).toContain('"version"')

  // Another model takes it over, and saves the same bytes again.
  const other = await Trainer.create(run, { out: join(folder, 'other') })
  const state: RunState = { run, model: other.model, optimizer: other.optimizer, tokenizer: other.tokenizer }
  const progress = await loadState(checkpoint, state)
  expect(progress).toEqual({ step: 2, tokens: 32, position: 4 })
  expect(await other.optimizer.updates.item()).toBe(2)
  const again = await saveState(join(folder, 'again'), state, progress)
  for (const name of ['model.safetensors', 'optimizer.safetensors', 'config.json', 'trainer.json'])
    expect(readFileSync(join(again, name)).equals(readFileSync(join(checkpoint, name)))).toBe(true)
})

test('no two steps share random numbers', () => {
  const [a, b] = [generatorAt(5, 0), generatorAt(5, 1)]
  expect(a.seed).toBe(5)
  expect(a.counter).toBeGreaterThan(1e5) // beyond the model's initial values
  expect(b.counter - a.counter).toBeGreaterThan(1e5)
})

test('a trainer.json that is none is named', async () => {
  const trainer = await Trainer.create(run, { out: join(folder, 'third') })
  const { checkpoint } = await trainer.finish()
  for (const text of ['{', '{}', '{"step":-1}']) {
    writeFileSync(join(checkpoint, 'trainer.json'), text)
    expect(() => readRun(checkpoint)).toThrow(/trainer\.json (cannot be read|is not the state of a run)/)
  }
})
