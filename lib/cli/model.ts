// Finds the model that a command's FOLDER means, with its tokenizer.
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { loadTokenizer, type Tokenizer } from '../data/tokenizer.ts'
import { latestCheckpoint } from '../io/checkpoint.ts'
import { loadPretrained } from '../io/huggingface.ts'
import { ConfigError } from '../nn/fields.ts'
import type { Transformer } from '../nn/transformer.ts'
import type { Device } from '../tensor.ts'
import type { RunConfig } from '../train/config.ts'
import { readRun } from '../train/state.ts'

/** A model with what was found beside it. */
export interface FoundModel {
  /** The folder that holds config.json and the weights. */
  folder: string
  model: Transformer
  /** undefined: the folder has none, and the ids of `bytes` do not fit. */
  tokenizer: Tokenizer | undefined
  /** The run that wrote it, if a run did. */
  run: RunConfig | undefined
}

/**
 * Loads the model of a checkpoint, of a run's newest whole checkpoint, or of a Hugging Face folder.
 * @throws ConfigError when the folder holds none, or files that do not fit
 */
export async function loadModel(path: string, device: Device): Promise<FoundModel> {
  const folder = await findFolder(path)
  try {
    const model = await loadPretrained(folder, { device })
    model.eval()
    const tokenizer = existsSync(join(folder, 'tokenizer.json'))
      ? await loadTokenizer(folder)
      : model.config.vocab_size >= 256
        ? await loadTokenizer('bytes')
        : undefined
    const run = existsSync(join(folder, 'trainer.json')) ? readRun(folder) : undefined
    return { folder, model, tokenizer, run }
  } catch (e) {
    if (e instanceof ConfigError) throw e
    throw new ConfigError(folder, `: ${(e as Error).message}`)
  }
}

async function findFolder(path: string): Promise<string> {
  if (!existsSync(path)) throw new ConfigError(path, ' does not exist')
  if (!statSync(path).isDirectory())
    throw new ConfigError(path, ' is a file but must be a folder: a checkpoint, a run, or a model of Hugging Face')
  if (existsSync(join(path, 'config.json'))) return path
  for (const folder of [join(path, 'checkpoints'), path]) {
    if (!existsSync(folder)) continue
    const { path: newest, skipped } = await latestCheckpoint(folder)
    for (const { path, reason } of skipped) console.error(`polygrad: passed over ${path}: ${reason}`)
    if (newest !== undefined) return newest
  }
  throw new ConfigError(path, ' holds no model: there is neither a config.json nor a whole checkpoint in it')
}
