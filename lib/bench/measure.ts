// Measures pieces of work: checked first, then warmed up, then in turns with whatever does the same.
import { native } from '../native.ts'
import { type Device, deviceCode, synchronize } from '../tensor.ts'
import type { Peer } from './peer.ts'
import { type Contender, interleave, ratio, summary, type Timing } from './timer.ts'
import type { Work } from './work.ts'

/** Figures of one piece of work. Times in seconds for one run. */
export interface Figures {
  name: string
  shape: string
  dtype: string
  bytes: number
  operations: number
  seconds: Timing
  /** The middle half of the runs lies within this share of the median. */
  spread: number
  /** Bytes a second, of the fewest bytes that the work must move. */
  bandwidth: number
  /** Floating-point operations a second. */
  rate: number
  /** How many times longer each of the others took, round by round. */
  beside: Record<string, { seconds: Timing; ratio: number }>
}

/** What the machine reaches at best, as measured in the same run. */
export interface Ceilings {
  /** Bytes a second of our best copy, bytes read and written counted. */
  bandwidth: number
  /** Operations a second of our best product. */
  rate: number
}

export interface MeasureOptions {
  device: Device
  /** Rounds that count. Default 15. */
  rounds?: number
  /** At least so many seconds a round, by repeating short work. Default 0.02. */
  least?: number
  /** Other programs; each is asked for what `work.peer` says. */
  peers?: Readonly<Record<string, Peer>>
}

/** Seconds that the device took for what `queue` queues. */
function onDevice(device: number, queue: () => void): number {
  const from = native.mark(device)
  queue()
  return native.elapsed(device, from, native.mark(device))
}

/** The distance from the first to the third quartile, over the median. */
function spreadOf(seconds: readonly number[]): number {
  const sorted = [...seconds].sort((a, b) => a - b)
  const at = (share: number) => sorted[Math.round(share * (sorted.length - 1))]!
  return (at(0.75) - at(0.25)) / at(0.5)
}

/**
 * Checks a piece of work and measures it, its rivals in turns with it.
 * @throws Error when a result is wrong: then nothing is measured
 */
export async function measure(work: Work, options: MeasureOptions): Promise<Figures> {
  const { device, rounds = 15, least = 0.02, peers = {} } = options
  const code = deviceCode(device)
  work.check()
  await synchronize()
  let turn = 0
  const next = () => turn++ % work.sets
  // One run to see how long it takes, after one that pays for what only the first pays for.
  work.run(next())
  const once = onDevice(code, () => work.run(next()))
  const repeat = Math.max(1, Math.min(200, Math.ceil(least / Math.max(once, 1e-7))))
  const timed =
    (run: (set: number) => void): Contender =>
    async () =>
      onDevice(code, () => {
        for (let i = 0; i < repeat; i++) run(next())
      }) / repeat
  const contenders: Record<string, Contender> = { ours: timed(work.run.bind(work)) }
  for (const [name, run] of Object.entries(work.beside ?? {})) contenders[name] = timed(run)
  if (work.peer)
    for (const [name, peer] of Object.entries(peers)) {
      const request = { case_: { ...work.peer, dtype: work.dtype, sets: work.sets, variant: name }, repeat }
      try {
        await peer.run(request)
      } catch {
        continue // it has nothing like this
      }
      contenders[name] = () => peer.run(request)
    }
  const all = await interleave(contenders, { rounds })
  for (const peer of Object.values(peers)) await peer.forget().catch(() => {}) // a dead peer loses no figures of ours
  const seconds = summary(all.ours!)
  const { ours, ...others } = all
  return {
    name: work.name,
    shape: work.shape,
    dtype: work.dtype,
    bytes: work.bytes,
    operations: work.operations,
    seconds,
    spread: spreadOf(ours!),
    bandwidth: work.bytes / seconds.median,
    rate: work.operations / seconds.median,
    beside: Object.fromEntries(
      Object.entries(others).map(([name, s]) => [name, { seconds: summary(s), ratio: ratio(s, ours!) }]),
    ),
  }
}

/** The share of the roof, the lower of memory's and arithmetic's, that a piece of work reaches. */
export function shareOfRoof(f: Figures, { bandwidth, rate }: Ceilings): number {
  const atLeast = Math.max(f.bytes / bandwidth, rate > 0 ? f.operations / rate : 0)
  return atLeast / f.seconds.median
}
