// Rows of tokens for training and evaluation, as a function of one integer: the position from which a run resumes.
import { DataError, type TokenSource } from './shards.ts'

/** A micro-batch: `targets[i]` is the token after `inputs[i]`. */
export interface Batch {
  /** (rows, seqLen), row after row. */
  inputs: Int32Array
  /** (rows, seqLen). */
  targets: Int32Array
  rows: number
  seqLen: number
}

/** How {@link Batches} goes through a source. */
export interface BatchOptions {
  /** Rows of a micro-batch, B. */
  batchSize: number
  /** Tokens of a row, T. */
  seqLen: number
  order: 'sequential' | 'shuffled'
  /** For the shuffled order. Default 1. */
  seed?: number
  /** Where to go on, as `position` said. Default 0. */
  position?: number
  /** Which of several processes this is; each takes every `world`-th micro-batch. Default 0 of 1. */
  rank?: number
  world?: number
}

/**
 * The micro-batches of a run, without end.
 *
 * Sequential: a micro-batch takes the next B*T+1 tokens and the next one starts B*T further on; where fewer than B*T+1 are
 * left, it starts over at the first token. Shuffled: the source is cut into windows of T+1 tokens, T apart, and each epoch
 * goes through all of them once, in an order that depends on seed and epoch alone.
 */
export class Batches {
  /** Rows that all processes together have taken since the run began. Store it to resume. */
  position: number
  readonly #source: TokenSource
  readonly #options: Required<BatchOptions>
  /** Rows until the source starts over. */
  readonly #epoch: number

  /** @throws DataError when the source is too short for one micro-batch (sequential) or one row (shuffled) */
  constructor(source: TokenSource, options: BatchOptions) {
    this.#source = source
    this.#options = { seed: 1, position: 0, rank: 0, world: 1, ...options }
    this.position = this.#options.position
    const { batchSize, seqLen, order } = this.#options
    const windows = countWindows(source, seqLen)
    this.#epoch = order === 'shuffled' ? windows : windows - (windows % batchSize)
    if (this.#epoch === 0)
      throw new DataError(
        source.name,
        `has ${source.length} tokens, but a sequential micro-batch of ${batchSize} x ${seqLen} needs ${batchSize * seqLen + 1}`,
      )
  }

  /** The next micro-batch of this process; `position` moves on past those of all processes. */
  next(): Batch {
    const { batchSize, seqLen, rank, world } = this.#options
    const batch = emptyBatch(batchSize, seqLen)
    for (let process = 0; process < world; process++) {
      this.#startOver()
      if (process === rank)
        for (let row = 0; row < batchSize; row++) fillRow(batch, row, this.#source, this.#window(this.position + row))
      this.position += batchSize
    }
    return batch
  }

  /** A sequential micro-batch does not run over the end. */
  #startOver(): void {
    const { batchSize, order } = this.#options
    const row = this.position % this.#epoch
    if (order === 'sequential' && row + batchSize > this.#epoch) this.position += this.#epoch - row
  }

  #window(position: number): number {
    const row = position % this.#epoch
    if (this.#options.order === 'sequential') return row
    return shuffledIndex(this.#epoch, this.#options.seed, Math.floor(position / this.#epoch), row)
  }
}

/**
 * Every window of a source once, from its beginning: for evaluation. The last batch may have fewer rows.
 * @param options.batches at most so many batches. Default: all.
 * @throws DataError when the source is shorter than one window, seqLen + 1 tokens
 */
export function* evaluationBatches(
  source: TokenSource,
  options: { batchSize: number; seqLen: number; batches?: number },
): Generator<Batch, void, undefined> {
  const { batchSize, seqLen } = options
  const windows = Math.min(countWindows(source, seqLen), (options.batches ?? Number.POSITIVE_INFINITY) * batchSize)
  for (let at = 0; at < windows; at += batchSize) {
    const batch = emptyBatch(Math.min(batchSize, windows - at), seqLen)
    for (let row = 0; row < batch.rows; row++) fillRow(batch, row, source, at + row)
    yield batch
  }
}

/**
 * How many windows of `seqLen` inputs, each with the token after it, a source holds.
 * @throws DataError when it holds none
 */
export function countWindows(source: TokenSource, seqLen: number): number {
  const windows = Math.floor((source.length - 1) / seqLen)
  if (windows >= 1) return windows
  throw new DataError(
    source.name,
    `has ${source.length} tokens, but one window of seq_len ${seqLen} needs ${seqLen + 1}`,
  )
}

function emptyBatch(rows: number, seqLen: number): Batch {
  return { inputs: new Int32Array(rows * seqLen), targets: new Int32Array(rows * seqLen), rows, seqLen }
}

function fillRow(batch: Batch, row: number, source: TokenSource, window: number): void {
  const { seqLen } = batch
  const ids = source.read(window * seqLen, seqLen + 1)
  batch.inputs.set(ids.subarray(0, seqLen), row * seqLen)
  batch.targets.set(ids.subarray(1), row * seqLen)
}

/**
 * The place of `index` in a shuffled order of 0 .. n-1: a bijection for each (seed, epoch), computed without a table.
 * A Feistel network over the next power of four above n, walked until it lands below n again (Black and Rogaway,
 * "Ciphers with arbitrary finite domains", 2002). Its values must never change: resumed runs rely on them.
 */
export function shuffledIndex(n: number, seed: number, epoch: number, index: number): number {
  let half = 1
  while (4 ** half < n) half++
  const side = 2 ** half
  const keys: number[] = []
  for (let round = 0; round < rounds; round++)
    keys.push(mix(mix(mix(mix(round, seed), seed / 2 ** 32), epoch), epoch / 2 ** 32))
  let x = index
  do {
    let left = Math.floor(x / side)
    let right = x % side
    for (const key of keys) {
      const next = (left ^ mix(key, right)) & (side - 1)
      left = right
      right = next
    }
    x = left * side + right
  } while (x >= n)
  return x
}
const rounds = 8

/** Mixes 32 bits of `value` into a key: MurmurHash3's steps. */
function mix(key: number, value: number): number {
  let h = ((key + 0x9e3779b9) ^ Math.imul(value | 0, 0xcc9e2d51)) | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}
