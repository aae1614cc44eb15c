// A training run: the loop, and when it evaluates, samples and saves. What happens is told by events.
import { existsSync, mkdirSync, readdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { Batches, countWindows } from '../data/batches.ts'
import type { TokenSource } from '../data/shards.ts'
import { loadTokens } from '../data/text.ts'
import { loadTokenizer, type Tokenizer } from '../data/tokenizer.ts'
import { latestCheckpoint } from '../io/checkpoint.ts'
import { type Disk, makeFolderOf } from '../io/disk.ts'
import { loadWeights } from '../io/huggingface.ts'
import { native } from '../native.ts'
import { ConfigError } from '../nn/fields.ts'
import { Transformer } from '../nn/transformer.ts'
import { seed, setGeneratorState } from '../ops/random.ts'
import { AdamW, type Schedule, schedules } from '../optim/index.ts'
import { type Device, keep } from '../tensor.ts'
import type { RunConfig } from './config.ts'
import { evaluate } from './evaluate.ts'
import { NonFiniteError, type TrainEvent } from './events.ts'
import { cutMetrics, MetricsWriter, type StepMetrics } from './metrics.ts'
import { generatorAt, loadState, type Progress, type RunState, saveState } from './state.ts'
import { TrainStep } from './step.ts'

export interface TrainerOptions {
  /** The run's folder: metrics.jsonl, samples.jsonl and checkpoints/ go there. Default `runs/<run's name>`. */
  out?: string
  device?: Device
  /** Go on from the newest whole checkpoint in `out`; from the beginning when nothing was saved yet. */
  resume?: boolean
  /** Writes a sample for `sample_every`; without it there are none. */
  sample?: (model: Transformer, tokenizer: Tokenizer, step: number) => Promise<string>
  /** As for `TrainStep`. */
  capture?: boolean
  /** The disk that checkpoints are written to; tests put a failing one here. */
  disk?: Disk
}

/**
 * A training run. It is iterated once, and tells what happens as it happens:
 *
 *     const trainer = await Trainer.create(readRunConfig('run.json'))
 *     for await (const event of trainer) if (event.kind === 'step') console.log(event.loss)
 *
 * Leaving the loop early ends the run without saving; `stop()` finishes the step and saves.
 */
export class Trainer implements AsyncIterable<TrainEvent> {
  readonly run: RunConfig
  readonly out: string
  readonly model: Transformer
  readonly optimizer: AdamW
  readonly tokenizer: Tokenizer
  readonly #state: RunState
  readonly #data: TokenSource
  readonly #val: TokenSource | undefined
  readonly #batches: Batches
  readonly #schedule: Schedule
  readonly #options: TrainerOptions
  readonly #start: Extract<TrainEvent, { kind: 'start' }>
  #progress: Progress
  #saved: { step: number; path: string } | undefined
  #stopping = false
  #started = false

  private constructor(
    parts: RunState & { out: string; data: TokenSource; val?: TokenSource },
    options: TrainerOptions,
    progress: Progress,
    start: Pick<Extract<TrainEvent, { kind: 'start' }>, 'resumed' | 'movedTo'>,
  ) {
    this.run = parts.run
    this.out = parts.out
    this.model = parts.model
    this.optimizer = parts.optimizer
    this.tokenizer = parts.tokenizer
    this.#state = parts
    this.#data = parts.data
    this.#val = parts.val
    this.#options = options
    this.#progress = progress
    this.#saved = start.resumed && { step: progress.step, path: start.resumed.path }
    this.#batches = batchesOf(parts.run, parts.data, progress.position)
    const { lr, min_lr: minLr, steps, warmup_steps: warmupSteps, schedule } = parts.run.train
    this.#schedule = schedules[schedule]({ lr, minLr, steps, warmupSteps })
    const parameters = parts.model.parameterCount()
    this.#start = { kind: 'start', step: progress.step, steps, parameters, ...start }
  }

  /**
   * Reads the data, makes the model and, with `resume`, puts it where it was. What is wrong with the configuration or a
   * file is found here, before anything is trained or written.
   * @throws ConfigError and DataError naming the field or file; Error naming a checkpoint or weights that do not fit
   */
  static async create(run: RunConfig, options: TrainerOptions = {}): Promise<Trainer> {
    const { train } = run
    const out = options.out ?? join('runs', run.name)
    const tokenizer = await namingField('data.tokenizer', () => loadTokenizer(run.data.tokenizer))
    const vocabSize = run.model.vocab_size
    const { source: data } = await loadTokens(run.data.train, tokenizer, { vocabSize })
    await namingField('data.train', () => void batchesOf(run, data, 0))
    let val: TokenSource | undefined
    if (run.data.val !== undefined) {
      val = (await loadTokens(run.data.val, tokenizer, { vocabSize, field: 'data.val' })).source
      await namingField('data.val', () => void countWindows(val!, train.seq_len))
    }

    const found = options.resume ? await findCheckpoint(out) : undefined
    seed(train.seed)
    // Drawn and loaded in float32: what a 16-bit run updates are the whole values, not rounded ones.
    const model = new Transformer(run.model, { device: options.device })
    if (run.init !== undefined && !found) await namingField('init', () => loadWeights(model, run.init!))
    const whole = new Map([...model.namedParameters()].map(([name, p]) => [name, keep(p.detach())]))
    model.to({ dtype: train.dtype })
    const { decay, noDecay } = model.parameterGroups()
    const optimizer = new AdamW(
      [
        { params: decay, weightDecay: train.weight_decay },
        { params: noDecay, weightDecay: 0 },
      ],
      { lr: train.lr, betas: [train.beta1, train.beta2], eps: train.adam_eps },
    )
    native.trim() // the optimiser has moved the parameters: what they were in fits nothing that comes
    optimizer.setMasters(whole)
    for (const t of whole.values()) t.dispose()
    const state: RunState = { run, model, optimizer, tokenizer }
    const progress = found ? await loadState(found.path, state) : { step: 0, tokens: 0, position: 0 }
    const movedTo = options.resume ? undefined : moveAside(out)
    makeFolderOf('--out', out)
    return new Trainer({ ...state, out, data, val }, options, progress, { resumed: found, movedTo })
  }

  /** Steps done. */
  get step(): number {
    return this.#progress.step
  }

  /** The checkpoints' folder. */
  get checkpoints(): string {
    return join(this.out, 'checkpoints')
  }

  get #samples(): string {
    return join(this.out, 'samples.jsonl')
  }

  /** Finishes the step that runs, saves, and ends the iteration with a `done` event that is not `complete`. */
  stop(): void {
    this.#stopping = true
  }

  /** Runs to the end without looking at the events, and returns the last one. */
  async finish(): Promise<Extract<TrainEvent, { kind: 'done' }>> {
    for await (const event of this) if (event.kind === 'done') return event
    throw new Error('the run did not end')
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TrainEvent, void, undefined> {
    if (this.#started) throw new Error('Trainer: a run is iterated once; make another Trainer to go on')
    this.#started = true
    const { train } = this.run
    const began = performance.now()
    const path = join(this.out, 'metrics.jsonl')
    await cutMetrics(path, this.step)
    // The sample of the step where it resumes is written again.
    if (existsSync(this.#samples)) await cutMetrics(this.#samples, this.step)
    const metrics = new MetricsWriter(path)
    const step = new TrainStep(this.model, this.optimizer, { capture: this.#options.capture })
    const last: { loss?: number; val_loss?: number } = {}
    const due = (every: number) => every > 0 && (this.step % every === 0 || this.step === train.steps)
    try {
      yield this.#start
      if (due(train.sample_every)) yield* this.#sample()
      this.model.train()
      while (this.step < train.steps && !this.#stopping) {
        const line = await this.#trainStep(step, metrics)
        if (this.#val && due(train.eval_every)) {
          const found = await evaluate(this.model, this.#val, {
            batchSize: train.micro_batch_size,
            seqLen: train.seq_len,
            batches: train.eval_batches,
          })
          line.val_loss = Math.fround(found.loss)
          yield { kind: 'eval', step: line.step, val_loss: line.val_loss, batches: found.batches }
        }
        metrics.write(line)
        Object.assign(last, { loss: line.loss, ...(line.val_loss !== undefined && { val_loss: line.val_loss }) })
        yield { kind: 'step', steps: train.steps, ...line }
        if (due(train.save_every)) yield* this.#save(metrics)
        if (due(train.sample_every)) yield* this.#sample()
      }
      yield* this.#save(metrics)
      const seconds = (performance.now() - began) / 1000
      const complete = this.step >= train.steps
      yield { kind: 'done', step: this.step, complete, ...last, seconds, checkpoint: this.#saved!.path }
    } finally {
      step.dispose()
      metrics.close()
      this.#data.close()
      this.#val?.close()
    }
  }

  async #trainStep(step: TrainStep, metrics: MetricsWriter): Promise<StepMetrics> {
    const { train } = this.run
    const began = performance.now()
    const before = this.#progress
    setGeneratorState(generatorAt(train.seed, before.step))
    const batches = Array.from({ length: train.grad_accum }, () => this.#batches.next())
    const lr = this.#schedule(before.step)
    const { finite, ...found } = await step.run(batches, { lr, maxNorm: train.grad_clip })
    if (!finite) {
      const checkpoint = await this.#write(metrics).catch(() => undefined) // what stopped the run is the news
      throw new NonFiniteError(before.step, found.loss, found.grad_norm, checkpoint)
    }
    const fresh = train.grad_accum * train.micro_batch_size * train.seq_len
    this.#progress = { step: before.step + 1, tokens: before.tokens + fresh, position: this.#batches.position }
    const tokens_per_second = fresh / ((performance.now() - began) / 1000)
    return { step: before.step, ...found, lr, tokens: this.#progress.tokens, tokens_per_second }
  }

  async *#sample(): AsyncGenerator<TrainEvent> {
    if (!this.#options.sample) return
    const sample = { step: this.step, text: await this.#options.sample(this.model, this.tokenizer, this.step) }
    const file = new MetricsWriter(this.#samples)
    try {
      file.write(sample)
    } finally {
      file.close()
    }
    yield { kind: 'sample', ...sample }
  }

  // Saves, unless this very step was saved before.
  async *#save(metrics: MetricsWriter): AsyncGenerator<TrainEvent> {
    if (this.#saved?.step === this.step) return
    yield { kind: 'checkpoint', step: this.step, path: await this.#write(metrics) }
  }

  async #write(metrics: MetricsWriter): Promise<string> {
    if (this.#saved?.step === this.step) return this.#saved.path
    metrics.sync() // a checkpoint's lines are on the disk before it is
    const path = await saveState(this.checkpoints, this.#state, this.#progress, this.#options.disk)
    this.#saved = { step: this.step, path }
    return path
  }
}

const batchesOf = (run: RunConfig, data: TokenSource, position: number): Batches =>
  new Batches(data, {
    batchSize: run.train.micro_batch_size,
    seqLen: run.train.seq_len,
    order: run.data.order,
    seed: run.train.seed,
    position,
  })

/** Runs `fn`; what is wrong is then said of a field of RUN.json. */
async function namingField<R>(field: string, fn: () => R | Promise<R>): Promise<R> {
  try {
    return await fn()
  } catch (e) {
    if (e instanceof ConfigError && e.field.startsWith(field)) throw e
    throw new ConfigError(field, `: ${(e as Error).message}`)
  }
}

/**
 * The checkpoint to resume from; undefined when nothing was saved yet.
 * @throws ConfigError when there are checkpoints but none is whole
 */
async function findCheckpoint(out: string) {
  const folder = join(out, 'checkpoints')
  const { path, skipped } = await latestCheckpoint(folder)
  if (path !== undefined) return { path, skipped }
  if (skipped.length === 0) return undefined
  const [newest] = skipped
  throw new ConfigError(
    '--resume',
    `: no checkpoint in ${folder} is whole; the newest, ${newest!.path}: ${newest!.reason}`,
  )
}

/** Moves what an earlier run wrote in its folder into a folder in it. @returns that folder, or undefined */
function moveAside(out: string): string | undefined {
  const old = ['metrics.jsonl', 'samples.jsonl', 'checkpoints', 'report.html'].filter((name) =>
    existsSync(join(out, name)),
  )
  if (old.length === 0) return undefined
  const taken = readdirSync(out).map((name) => Number(/^previous-(\d+)$/.exec(name)?.[1] ?? 0))
  const folder = join(out, `previous-${Math.max(0, ...taken) + 1}`)
  mkdirSync(folder)
  for (const name of old) renameSync(join(out, name), join(folder, name))
  return folder
}
