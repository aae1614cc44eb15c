// What a checkpoint of a run holds, and how a run gets it back: with it the next step has the same bits as without a stop.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Tokenizer } from '../data/tokenizer.ts'
import { writeCheckpoint } from '../io/checkpoint.ts'
import type { Disk } from '../io/disk.ts'
import { fileEntries, loadWeights, readInto, toHuggingFace } from '../io/huggingface.ts'
import { SafetensorsReader } from '../io/safetensors.ts'
import { ConfigError, isRecord, show } from '../nn/fields.ts'
import type { Transformer } from '../nn/transformer.ts'
import type { GeneratorState } from '../ops/random.ts'
import type { AdamW } from '../optim/index.ts'
import type { RunConfig } from './config.ts'

/** How far a run is: everything besides parameters and moments that the next step depends on. */
export interface Progress {
  /** Steps done; the next step's number. */
  step: number
  /** Tokens trained on. */
  tokens: number
  /** Where the data goes on, as `Batches` counts it. */
  position: number
}

/** What trainer.json holds. */
interface TrainerFile {
  version: 1
  step: number
  tokens: number
  data: { position: number; order: string }
  seed: number
  generator: GeneratorState
  run: RunConfig
}

/**
 * The random numbers that a step begins with: a function of seed and step alone, so that nothing that happens between two
 * steps can change a run. The model's initial values come before those of step 0.
 */
export const generatorAt = (seed: number, step: number): GeneratorState => ({
  seed,
  counter: (step + 1) * callsPerStep,
})
const callsPerStep = 2 ** 20

/** A run's parts that a checkpoint saves and restores. */
export interface RunState {
  run: RunConfig
  model: Transformer
  optimizer: AdamW
  tokenizer: Tokenizer
}

/**
 * Writes `folder/step-00000100`.
 * @returns its path
 * @throws DiskError in one line; older checkpoints stay
 */
export async function saveState(folder: string, state: RunState, progress: Progress, disk?: Disk): Promise<string> {
  const { run, model, optimizer, tokenizer } = state
  const trainer: TrainerFile = {
    version: 1,
    step: progress.step,
    tokens: progress.tokens,
    data: { position: progress.position, order: run.data.order },
    seed: run.train.seed,
    generator: generatorAt(run.train.seed, progress.step),
    run,
  }
  const config = { ...toHuggingFace(model.config), torch_dtype: model.head.dtype }
  const { path } = await writeCheckpoint(
    folder,
    progress.step,
    async (files) => {
      await files.model(fileEntries(model.stateDict()))
      await files.tensors('optimizer.safetensors', fileEntries(optimizer.state()))
      await files.file('config.json', json(config))
      await files.file('trainer.json', json(trainer))
      for (const { name, data } of tokenizer.files()) await files.file(name, data)
    },
    disk ? { disk } : {},
  )
  return path
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

// What must be the same before and after for the numbers to go on as if never stopped.
const decisive = ['micro_batch_size', 'seq_len', 'seed', 'dtype'] as const

/**
 * Puts a checkpoint's state into the model and the optimiser.
 * @throws ConfigError naming a field of RUN.json that the checkpoint was not made with; Error naming a file that does not fit
 */
export async function loadState(path: string, state: RunState): Promise<Progress> {
  const file = readTrainerFile(join(path, 'trainer.json'))
  checkSame(path, file.run, state.run)
  await loadWeights(state.model, path)
  const reader = await SafetensorsReader.open(join(path, 'optimizer.safetensors'))
  try {
    await readInto(reader, state.optimizer.state())
  } finally {
    await reader.close()
  }
  state.optimizer.loadState(state.optimizer.state(), file.step)
  return { step: file.step, tokens: file.tokens, position: file.data.position }
}

/** The run configuration that a checkpoint was made with. */
export const readRun = (checkpoint: string): RunConfig => readTrainerFile(join(checkpoint, 'trainer.json')).run

function readTrainerFile(path: string): TrainerFile {
  let file: Partial<TrainerFile>
  try {
    file = JSON.parse(readFileSync(path, 'utf8'))
  } catch (e) {
    throw new ConfigError(path, ` cannot be read: ${(e as Error).message}`)
  }
  const whole = (n: unknown) => Number.isSafeInteger(n) && (n as number) >= 0
  if (!whole(file.step) || !whole(file.tokens) || !whole(file.data?.position) || !isRecord(file.run))
    throw new ConfigError(path, ' is not the state of a run: it must have step, tokens, data.position and run')
  return file as TrainerFile
}

function checkSame(path: string, before: RunConfig, now: RunConfig): void {
  const compare = (field: string, was: unknown, is: unknown) => {
    if (JSON.stringify(was) !== JSON.stringify(is))
      throw new ConfigError(
        field,
        ` is ${show(is)} but was ${show(was)} when ${path} was written; --resume goes on with the same`,
      )
  }
  for (const [name, value] of Object.entries(now.model))
    compare(`model.${name}`, before.model[name as keyof RunConfig['model']], value)
  for (const name of decisive) compare(`train.${name}`, before.train[name], now.train[name])
  compare('data.order', before.data.order, now.data.order)
}
