// The progress of a run: one line that redraws itself on a terminal, plain lines now and then elsewhere.

/** What the progress shows of a step; a StepMetrics has these fields. */
export interface ProgressStep {
  step: number
  loss: number
  val_loss?: number
  tokens_per_second: number
}

/** How {@link Progress} draws. */
export interface ProgressOptions {
  /** Steps of the whole run. */
  steps: number
  stream?: { write(text: string): unknown; isTTY?: boolean; columns?: number }
  /** Milliseconds; for tests. */
  now?: () => number
}

const redrawEvery = 100
const plainEvery = 10_000
const clearLine = '\r\x1b[2K'

/** Shows how far a run is. */
export class Progress {
  readonly #steps: number
  readonly #stream: NonNullable<ProgressOptions['stream']>
  readonly #now: () => number
  /** Times at which the last steps ended. */
  readonly #ends: number[] = []
  #val: number | undefined
  #drawn = Number.NEGATIVE_INFINITY
  #last = ''
  /** A line stands on the terminal that is not ended. */
  #open = false

  constructor(options: ProgressOptions) {
    this.#steps = options.steps
    this.#stream = options.stream ?? process.stderr
    this.#now = options.now ?? Date.now
    this.#ends.push(this.#now())
  }

  /** A step has ended. */
  step(metrics: ProgressStep): void {
    const now = this.#now()
    this.#ends.push(now)
    if (this.#ends.length > 51) this.#ends.shift()
    this.#val = metrics.val_loss ?? this.#val
    this.#last = this.#line(metrics)
    const isLast = metrics.step + 1 >= this.#steps
    if (this.#stream.isTTY) {
      if (now - this.#drawn < redrawEvery && !isLast && metrics.val_loss === undefined) return
      this.#draw()
    } else if (now - this.#drawn >= plainEvery || isLast || metrics.val_loss !== undefined)
      this.#stream.write(`${this.#last}\n`)
    else return
    this.#drawn = now
  }

  /** Prints text of its own, above the line that redraws itself. */
  note(text: string): void {
    if (this.#open) this.#stream.write(clearLine)
    this.#open = false
    this.#stream.write(text.endsWith('\n') ? text : `${text}\n`)
    if (this.#stream.isTTY && this.#last) this.#draw()
  }

  /** Ends the line; after it others may write. */
  end(): void {
    if (this.#open) this.#stream.write('\n')
    this.#open = false
    this.#last = ''
  }

  #draw(): void {
    const width = (this.#stream.columns ?? 80) - 1
    this.#stream.write(clearLine + this.#last.slice(0, width))
    this.#open = true
  }

  #line(m: ProgressStep): string {
    const done = m.step + 1
    const parts = [
      `step ${String(done).padStart(String(this.#steps).length)}/${this.#steps}`,
      `loss ${m.loss.toFixed(4)}`,
      ...(this.#val === undefined ? [] : [`val ${this.#val.toFixed(4)}`]),
      `${count(m.tokens_per_second)} tok/s`,
    ]
    const took = (this.#ends.at(-1)! - this.#ends[0]!) / (this.#ends.length - 1)
    if (done < this.#steps) parts.push(`${duration(((this.#steps - done) * took) / 1000)} left`)
    const filled = Math.round((Math.min(done / this.#steps, 1) || 0) * barWidth)
    const bar = `${'█'.repeat(filled)}${'░'.repeat(barWidth - filled)}`
    return this.#stream.isTTY ? `${bar} ${parts.join('  ')}` : parts.join('  ')
  }
}
const barWidth = 20

/** A count in few characters: `950`, `12.3k`, `4.56M`. */
export function count(n: number): string {
  if (!Number.isFinite(n)) return '?'
  for (const [unit, name] of [
    [1e12, 'T'],
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const)
    if (n >= unit * 0.9995) return `${Number((n / unit).toPrecision(3))}${name}`
  return String(n < 10 ? Number(n.toPrecision(2)) : Math.round(n))
}

/** Seconds in two units: `45s`, `3m05s`, `2h07m`, `5d03h`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const s = Math.max(0, Math.round(seconds))
  const two = (n: number) => String(n).padStart(2, '0')
  if (s < 60) return `${s}s`
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`
  return `${Math.floor(s / 86400)}d${two(Math.floor((s % 86400) / 3600))}h`
}
