// metrics.jsonl and samples.jsonl: one JSON object a step, appended while a run goes on, cut back when it resumes.
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { diskError } from '../errors.ts'
import { type Disk, realDisk, replaceFile } from '../io/disk.ts'

/** What one step has to tell. Further fields may stand beside these. */
export interface StepMetrics {
  /** From 0. */
  step: number
  /** Mean cross-entropy of the step's tokens, in nats. */
  loss: number
  /** Global norm of the gradient, before clipping. */
  grad_norm: number
  lr: number
  /** Tokens trained on so far, this step's included. */
  tokens: number
  /** Of this step, without evaluation, sampling and saving. */
  tokens_per_second: number
  /** On the steps that evaluated. */
  val_loss?: number
  /** MoE: the load-balancing and z losses, before their coefficients. */
  aux_loss?: number
  z_loss?: number
  /** MoE: [layer][expert], shares of the layer's assignments. */
  expert_load?: number[][]
  /** Polynomial activations: a layer's coefficients, highest power first, then the bias; a list for each expert that has its own. */
  act_coefficients?: (number[] | number[][])[]
}

/** What the model wrote: a line of samples.jsonl. */
export interface Sample {
  /** Steps done. */
  step: number
  text: string
}

/**
 * A step's line. A float32 value has as many digits as it takes to read that float32 back, any other number as many as
 * read back the double; what is not finite is null.
 */
export function metricsLine(metrics: object): string {
  return JSON.stringify(metrics, (_, value) => (typeof value === 'number' ? shortest(value) : value))
}

function shortest(x: number): number {
  if (Number.isInteger(x) || Math.fround(x) !== x) return x
  for (let digits = 6; digits < 9; digits++) {
    const rounded = Number(x.toPrecision(digits))
    if (Math.fround(rounded) === x) return rounded
  }
  return Number(x.toPrecision(9))
}

/** Appends to a metrics.jsonl or samples.jsonl. A line that the disk does not take whole is taken back. */
export class MetricsWriter {
  readonly #fd: number
  /** @throws DiskError when the file cannot be opened */
  constructor(readonly path: string) {
    try {
      this.#fd = openSync(path, 'a')
    } catch (e) {
      throw diskError('write', path, e)
    }
  }

  /** @throws DiskError for a full or failing disk; the lines before are as they were */
  write(metrics: StepMetrics | Sample): void {
    const bytes = new TextEncoder().encode(`${metricsLine(metrics)}\n`)
    const before = fstatSync(this.#fd).size
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(this.#fd, bytes, at)
    } catch (e) {
      try {
        ftruncateSync(this.#fd, before)
      } catch {
        // Readers pass over a torn last line.
      }
      throw diskError('write', this.path, e)
    }
  }

  /** Waits until the disk has every line: before a checkpoint, which must not be ahead of its metrics. */
  sync(): void {
    try {
      fsyncSync(this.#fd)
    } catch (e) {
      throw diskError('write', this.path, e)
    }
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/** The lines of such a file; its last may be torn, and is then left out. */
function readLines<T extends { step: number }>(path: string): { line: string; value: T }[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw diskError('read', path, e)
  }
  const lines = text.split('\n')
  const out: { line: string; value: T }[] = []
  for (const [i, line] of lines.entries()) {
    if (line === '') continue
    const value = parseLine<T>(line)
    if (value) out.push({ line, value })
    else if (lines.slice(i + 1).some((later) => parseLine(later)))
      throw new Error(`${path}:${i + 1}: is not the line of a step: ${line.slice(0, 60)}`)
  }
  return out
}

function parseLine<T>(line: string): T | undefined {
  try {
    const value = JSON.parse(line)
    return Number.isSafeInteger(value?.step) ? value : undefined
  } catch {
    return undefined
  }
}

/**
 * Reads a metrics.jsonl. A torn last line is left out; a missing file has no lines.
 * @throws Error naming file and line for anything else that is not a step's metrics
 */
export const readMetrics = (path: string): StepMetrics[] => readLines<StepMetrics>(path).map(({ value }) => value)

/** Reads a samples.jsonl in the same way. */
export const readSamples = (path: string): Sample[] => readLines<Sample>(path).map(({ value }) => value)

/**
 * Cuts a metrics.jsonl or samples.jsonl back to a checkpoint, for a run that resumes there: keeps the lines of steps below `steps`, as they
 * stand. The file is the old one or the new one at every moment.
 * @returns how many lines were kept
 */
export async function cutMetrics(path: string, steps: number, disk: Disk = realDisk): Promise<number> {
  const kept = readLines(path).filter(({ value }) => value.step < steps)
  await replaceFile(disk, path, (writer) => writer.write(kept.map(({ line }) => `${line}\n`).join('')))
  return kept.length
}
