import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { applySettings, ConfigError, readJson, readRunConfig, runConfig, trainConfig } from '../../lib/train/config.ts'

const model = { vocab_size: 256, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 128 }
const run = { model, train: { steps: 10 }, data: { train: 'tokens.bin' } }
const folder = mkdtempSync(join(tmpdir(), 'polygrad-config-'))
afterAll(() => rmSync(folder, { recursive: true }))

test('the defaults are those of interchange.md', () => {
  const { train, data, name } = runConfig(run, { folder: '/runs', name: 'x' })
  expect(name).toBe('x')
  expect(train).toEqual({
    steps: 10,
    micro_batch_size: 8,
    seq_len: 256,
    grad_accum: 1,
    lr: 1e-3,
    min_lr: 1e-4,
    warmup_steps: 0,
    schedule: 'cosine',
    weight_decay: 0.1,
    beta1: 0.9,
    beta2: 0.95,
    adam_eps: 1e-8,
    grad_clip: 1,
    seed: 1,
    dtype: 'float32',
    eval_every: 0,
    eval_batches: 20,
    save_every: 0,
    sample_every: 0,
  })
  expect(data).toEqual({ train: '/runs/tokens.bin', tokenizer: 'bytes', order: 'shuffled' })
})

test('min_lr follows lr, also when lr is set', () => {
  expect(trainConfig({ steps: 1, lr: 0.5 }).min_lr).toBe(0.05)
  expect(trainConfig({ steps: 1, lr: 0.5, min_lr: 0 }).min_lr).toBe(0)
})

test('paths are relative to the folder', () => {
  const data = { train: 'a/*.ts', val: '/v.bin', tokenizer: '../tokenizer.json', order: 'sequential' }
  expect(runConfig({ ...run, data, init: 'w' }, { folder: '/x/y' })).toMatchObject({
    data: { train: '/x/y/a/*.ts', val: '/v.bin', tokenizer: '/x/tokenizer.json', order: 'sequential' },
    init: '/x/y/w',
  })
})

test('max_position_embeddings grows with seq_len unless given', () => {
  const train = { steps: 1, seq_len: 3000 }
  expect(runConfig({ ...run, train }).model.max_position_embeddings).toBe(3000)
  expect(runConfig(run).model.max_position_embeddings).toBe(2048)
  const given = { ...run, train, model: { ...model, max_position_embeddings: 512 } }
  expect(() => runConfig(given)).toThrow('train.seq_len is 3000 but must be at most model.max_position_embeddings, 512')
})

test.each([
  [{ ...run, modle: {} }, 'modle', 'did you mean "model"?'],
  [{ ...run, lr: 1 }, 'lr', 'did you mean "train.lr"?'],
  [{ ...run, train: { steps: 1, learning_rte: 1 } }, 'train.learning_rte', 'is not a field; did you mean'],
  [{ ...run, train: { steps: 1, warmup_step: 1 } }, 'train.warmup_step', 'did you mean "warmup_steps"?'],
  [{ ...run, train: { steps: 1, hidden_size: 64 } }, 'train.hidden_size', 'did you mean "model.hidden_size"?'],
  [{ ...run, model: { ...model, steps: 64 } }, 'model.steps', 'did you mean "train.steps"?'],
  [{ ...run, train: {} }, 'train.steps', 'is missing: it must be an integer of at least 1'],
  [{ ...run, train: { steps: 0 } }, 'train.steps', 'is 0 but must be an integer of at least 1'],
  [{ ...run, train: { steps: 1, lr: '1e-3' } }, 'train.lr', 'is "1e-3" but must be a number'],
  [{ ...run, train: { steps: 1, schedule: 'cosin' } }, 'train.schedule', 'did you mean "cosine"?'],
  [{ ...run, train: { steps: 1, dtype: 'bf16' } }, 'train.dtype', 'one of "float32", "bfloat16"'],
  [{ ...run, train: { steps: 1, lr: 1e-4, min_lr: 1e-3 } }, 'train.min_lr', 'at most train.lr, 0.0001'],
  [{ ...run, train: { steps: 1, eval_every: 5 } }, 'data.val', 'is missing, but train.eval_every is 5'],
  [{ ...run, data: { train: 't.bin', ordr: 'shuffled' } }, 'data.ordr', 'did you mean "order"?'],
  [{ ...run, data: {} }, 'data.train', 'is missing'],
  [{ ...run, data: { train: 't.bin', tokenizer: 'gtp2' } }, 'data.tokenizer', 'did you mean "gpt2"?'],
  [{ ...run, data: undefined }, 'data', 'is missing'],
  [{ ...run, init: 3 }, 'init', 'is 3 but must be a string'],
  [{ ...run, model: 'polycom-dense-1b' }, 'model', 'must be an object of fields'],
  [[], 'RUN.json', 'must be an object'],
])('%j', (input, field, message) => {
  expect(() => runConfig(input)).toThrow(expect.objectContaining({ field, message: expect.stringContaining(message) }))
  expect(() => runConfig(input)).toThrow(ConfigError)
})

describe('applySettings', () => {
  test('values are JSON, else strings', () => {
    const set = applySettings(run, [
      'train.lr=1e-3',
      'model.hidden_act=relu',
      'model.qk_norm=true',
      'init=a=b',
      'data.val="v"',
    ])
    expect(set).toMatchObject({
      train: { steps: 10, lr: 1e-3 },
      model: { hidden_act: 'relu', qk_norm: true },
      data: { val: 'v' },
      init: 'a=b',
    })
    expect(run.train).toEqual({ steps: 10 })
  })
  test('a section that is absent is made', () =>
    expect(applySettings({}, ['train.lr=1'])).toEqual({ train: { lr: 1 } }))
  test.each(['train.lr', '=3', 'train.=3', ''])('%j is not a setting', (s) => {
    expect(() => applySettings(run, [s])).toThrow('must be like train.lr=1e-3')
  })
  test('inside a value', () =>
    expect(() => applySettings(run, ['train.steps.x=1'])).toThrow('train.steps.x cannot be set'))
})

describe('readRunConfig', () => {
  const path = join(folder, 'tiny.json')
  test('name, paths and settings', () => {
    writeFileSync(path, JSON.stringify(run))
    const config = readRunConfig(path, ['train.lr=0.5', 'data.val=v.bin'])
    expect(config).toMatchObject({
      name: 'tiny',
      train: { lr: 0.5 },
      data: { train: join(folder, 'tokens.bin'), val: join(folder, 'v.bin') },
    })
    expect(() => readRunConfig(path, ['train.lrr=1'])).toThrow('train.lrr is not a field; did you mean "lr"?')
  })
  test('not JSON: file, line and column', () => {
    writeFileSync(path, '{\n  "model": {,}\n}')
    expect(() => readJson(path)).toThrow(`${path}:2:13 is not JSON`)
    writeFileSync(path, '')
    expect(() => readJson(path)).toThrow(`${path}:1:1 is not JSON`)
  })
  test('missing, a folder', () => {
    expect(() => readRunConfig(join(folder, 'no.json'))).toThrow(`${join(folder, 'no.json')} does not exist`)
    expect(() => readRunConfig(folder)).toThrow('is a folder')
  })
})
