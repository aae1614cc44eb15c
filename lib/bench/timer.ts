// Timing of several contenders in turns, so that a noisy neighbour disturbs all of them alike.

/** Seconds of the runs of one contender. */
export interface Timing {
  median: number
  min: number
  max: number
  runs: number
}

export function summary(seconds: readonly number[]): Timing {
  const sorted = [...seconds].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
  return { median, min: sorted[0]!, max: sorted.at(-1)!, runs: sorted.length }
}

/** Runs once and answers with the seconds it took. */
export type Contender = () => Promise<number>

/**
 * Runs the contenders in turns, `rounds` times after `warmup` rounds that do not count.
 * Ratios between contenders should be taken with `ratio`, round by round.
 */
export async function interleave<K extends string>(
  contenders: Record<K, Contender>,
  { rounds = 7, warmup = 2 } = {},
): Promise<Record<K, number[]>> {
  const names = Object.keys(contenders) as K[]
  const seconds = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<K, number[]>
  for (let round = -warmup; round < rounds; round++)
    for (const name of names) {
      const s = await contenders[name]()
      if (round >= 0) seconds[name].push(s)
    }
  return seconds
}

/** How many times longer `a` took than `b`: the median over the rounds. */
export const ratio = (a: readonly number[], b: readonly number[]): number => summary(a.map((s, i) => s / b[i]!)).median

/** A contender out of a function that is awaited. */
export const timed =
  (fn: () => Promise<unknown>): Contender =>
  async () => {
    const start = performance.now()
    await fn()
    return (performance.now() - start) / 1000
  }
