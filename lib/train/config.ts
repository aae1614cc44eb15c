// RUN.json: reads, checks and completes the description of a training run.
import { readFileSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { type ModelConfig, modelConfig, modelRules } from '../nn/config.ts'
import {
  ConfigError,
  integer,
  isRecord,
  nearest,
  number,
  oneOf,
  type Rules,
  readField,
  readFields,
  show,
  text,
} from '../nn/fields.ts'

export { ConfigError } from '../nn/fields.ts'

/** RUN.json's `train` section, with every default filled in. */
export interface TrainConfig {
  /** Optimiser steps in the run. Required. */
  steps: number
  /** Rows of a micro-batch. Default 8. */
  micro_batch_size: number
  /** Tokens of a row. Default 256. */
  seq_len: number
  /** Micro-batches of a step, whose losses and gradients are averaged. Default 1. */
  grad_accum: number
  /** Peak learning rate. Default 1e-3. */
  lr: number
  /** Default lr / 10. */
  min_lr: number
  /** Default 0. */
  warmup_steps: number
  /** Default `cosine`. */
  schedule: 'cosine' | 'constant' | 'wsd'
  /** Default 0.1. */
  weight_decay: number
  /** Default 0.9. */
  beta1: number
  /** Default 0.95. */
  beta2: number
  /** Default 1e-8. */
  adam_eps: number
  /** Largest global norm of the gradient; 0: no clipping. Default 1. */
  grad_clip: number
  /** Default 1. */
  seed: number
  /** Storage and compute type. Default `float32`. */
  dtype: 'float32' | 'bfloat16'
  /** Steps between evaluations on `data.val`; 0 (default): never. */
  eval_every: number
  /** Micro-batches of an evaluation, at most; fewer when `data.val` holds fewer. Default 20. */
  eval_batches: number
  /** Steps between checkpoints; 0 (default): only at the end. */
  save_every: number
  /** Steps between samples of what the model writes; 0 (default): never. */
  sample_every: number
}

/** RUN.json's `data` section; paths are absolute. */
export interface DataConfig {
  /** A `.bin` of token ids, a text file, a folder of text files, or a glob such as `lib/*.d.ts`. */
  train: string
  /** Held-out data, in any of the same forms. */
  val?: string
  /** `bytes` (default), `gpt2`, or the path of a Hugging Face tokenizer.json. */
  tokenizer: string
  /** Default `shuffled`. */
  order: 'sequential' | 'shuffled'
}

/** A whole run, checked and complete. */
export interface RunConfig {
  /** RUN.json's name without `.json`; the run's folder is `runs/<name>` unless given. */
  name: string
  model: ModelConfig
  train: TrainConfig
  data: DataConfig
  /** A folder or .safetensors file to start from, as an absolute path. */
  init?: string
}

const trainRules: Rules<TrainConfig> = {
  steps: integer(1),
  micro_batch_size: integer(1),
  seq_len: integer(1),
  grad_accum: integer(1),
  lr: number({ min: 0 }),
  min_lr: number({ min: 0 }),
  warmup_steps: integer(0),
  schedule: oneOf(['cosine', 'constant', 'wsd'] as const),
  weight_decay: number({ min: 0 }),
  beta1: number({ min: 0, below: 1 }),
  beta2: number({ min: 0, below: 1 }),
  adam_eps: number({ above: 0 }),
  grad_clip: number({ min: 0 }),
  seed: integer(0),
  dtype: oneOf(['float32', 'bfloat16'] as const),
  eval_every: integer(0),
  eval_batches: integer(1),
  save_every: integer(0),
  sample_every: integer(0),
}
const dataRules: Rules<DataConfig> = {
  train: text,
  val: text,
  tokenizer: text,
  order: oneOf(['sequential', 'shuffled'] as const),
}
const sections = { model: modelRules, train: trainRules, data: dataRules }
type Section = keyof typeof sections

const trainDefaults: Omit<TrainConfig, 'steps' | 'min_lr'> = {
  micro_batch_size: 8,
  seq_len: 256,
  grad_accum: 1,
  lr: 1e-3,
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
}

const everyField = (except: Section): string[] => [
  'init',
  ...Object.entries(sections).flatMap(([s, rules]) => (s === except ? [] : Object.keys(rules).map((f) => `${s}.${f}`))),
]

/**
 * Checks a run's description and fills in the defaults.
 * @param input the parsed RUN.json
 * @param options.name the run's name
 * @param options.folder what its paths are relative to. Default: the working folder.
 * @throws ConfigError naming the field (an unknown one with the nearest that exists)
 */
export function runConfig(input: unknown, options: { name?: string; folder?: string } = {}): RunConfig {
  const folder = options.folder ?? process.cwd()
  if (!isRecord(input)) throw new ConfigError('RUN.json', ` is ${show(input)} but must be an object of fields`)
  for (const field of Object.keys(input))
    if (field !== 'init' && !Object.hasOwn(sections, field)) {
      const inside = Object.entries(sections).find(([, rules]) => Object.hasOwn(rules, field))
      const near = inside ? `${inside[0]}.${field}` : nearest(field, [...Object.keys(sections), 'init'])
      throw new ConfigError(field, ` is not a field; did you mean "${near}"?`)
    }
  const need = (section: Section): unknown => {
    if (input[section] !== undefined) return input[section]
    throw new ConfigError(section, ' is missing: it must be an object of fields')
  }
  const model = modelConfig(need('model'), 'model', everyField('model'))
  const train = trainConfig(need('train'))
  const data = dataConfig(need('data'), folder)
  fitTogether(model, train, data, isRecord(input.model) && 'max_position_embeddings' in input.model)
  return {
    name: options.name ?? 'run',
    model,
    train,
    data,
    ...(input.init !== undefined && { init: resolve(folder, readField(input.init, text, 'init')) }),
  }
}

/** Checks a `train` section and fills in the defaults. Throws a ConfigError naming the field. */
export function trainConfig(input: unknown): TrainConfig {
  const given = readFields<TrainConfig>(input, trainRules, 'train', everyField('train'))
  if (given.steps === undefined)
    throw new ConfigError('train.steps', ` is missing: it must be ${trainRules.steps.what}`)
  const lr = given.lr ?? trainDefaults.lr
  const train: TrainConfig = { ...trainDefaults, min_lr: lr / 10, ...given, steps: given.steps }
  const fail = (name: keyof TrainConfig, message: string) => {
    throw new ConfigError(`train.${name}`, ` is ${train[name]} but ${message}`)
  }
  if (train.min_lr > lr) fail('min_lr', `must be at most train.lr, ${lr}`)
  return train
}

function dataConfig(input: unknown, folder: string): DataConfig {
  const given = readFields<DataConfig>(input, dataRules, 'data', everyField('data'))
  if (given.train === undefined)
    throw new ConfigError('data.train', ' is missing: it must be the path of a .bin of tokens or of text')
  const tokenizer = given.tokenizer ?? 'bytes'
  const named = tokenizer === 'bytes' || tokenizer === 'gpt2'
  if (!named && !/[./\\]/.test(tokenizer))
    throw new ConfigError(
      'data.tokenizer',
      ` is "${tokenizer}" but must be "bytes", "gpt2" or the path of a tokenizer.json; did you mean "${nearest(tokenizer, ['bytes', 'gpt2'])}"?`,
    )
  return {
    train: resolve(folder, given.train),
    ...(given.val !== undefined && { val: resolve(folder, given.val) }),
    tokenizer: named ? tokenizer : resolve(folder, tokenizer),
    order: given.order ?? 'shuffled',
  }
}

function fitTogether(model: ModelConfig, train: TrainConfig, data: DataConfig, positionsGiven: boolean): void {
  if (!positionsGiven && !model.preset)
    model.max_position_embeddings = Math.max(model.max_position_embeddings, train.seq_len)
  if (train.seq_len > model.max_position_embeddings)
    throw new ConfigError(
      'train.seq_len',
      ` is ${train.seq_len} but must be at most model.max_position_embeddings, ${model.max_position_embeddings}`,
    )
  if (train.eval_every > 0 && data.val === undefined)
    throw new ConfigError('data.val', ` is missing, but train.eval_every is ${train.eval_every}`)
}

/**
 * Sets fields of a parsed RUN.json from the command line, before it is checked.
 * @param input the parsed RUN.json; it is not changed
 * @param settings such as `train.lr=1e-3`. The value is read as JSON, and as a string where it is none.
 * @returns a changed copy
 * @throws ConfigError for a setting without `=`
 */
export function applySettings(input: unknown, settings: readonly string[]): unknown {
  const out: unknown = structuredClone(input)
  for (const setting of settings) {
    const at = setting.indexOf('=')
    const path = setting.slice(0, at).split('.')
    if (at < 1 || path.includes('')) throw new ConfigError('--set', ` is "${setting}" but must be like train.lr=1e-3`)
    let target = out
    for (const part of path.slice(0, -1)) {
      if (!isRecord(target)) break
      if (!Object.hasOwn(target, part)) target[part] = {}
      target = target[part]
    }
    if (!isRecord(target))
      throw new ConfigError(path.join('.'), ' cannot be set: it is inside a field that is not an object')
    target[path.at(-1)!] = parseValue(setting.slice(at + 1))
  }
  return out
}

function parseValue(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

/**
 * Reads and checks a RUN.json. Paths in it, also in settings, are relative to its folder.
 * @param settings overrides such as `train.lr=1e-3`
 * @throws ConfigError naming the file when it cannot be read or is not JSON, else naming the field
 */
export function readRunConfig(path: string, settings: readonly string[] = []): RunConfig {
  const json = readJson(path)
  return runConfig(applySettings(json, settings), {
    name: basename(path).replace(/\.json$/i, '') || 'run',
    folder: dirname(resolve(path)),
  })
}

/** Reads a JSON file; the ConfigError says which file, and at which line and column it stops being JSON. */
export function readJson(path: string): unknown {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code
    const why = { ENOENT: 'does not exist', EISDIR: 'is a folder but must be a JSON file', EACCES: 'may not be read' }
    throw new ConfigError(path, ` ${why[code as keyof typeof why] ?? `cannot be read: ${(e as Error).message}`}`)
  }
  try {
    return JSON.parse(text.replace(/^\uFEFF/, ''))
  } catch (e) {
    const message = (e as Error).message
    const position = /position (\d+)/.exec(message)?.[1]
    const before = text.slice(0, position === undefined ? text.length : Number(position)).split('\n')
    throw new ConfigError(`${path}:${before.length}:${before.at(-1)!.length + 1}`, ` is not JSON: ${message}`)
  }
}
