// The learning rate of each step.

export interface ScheduleOptions {
  /** The largest rate. */
  lr: number
  /** The rate at the end. Default lr / 10. */
  minLr?: number
  /** How many steps the run has. */
  steps: number
  /** Over how many steps the rate rises, from lr / warmupSteps at step 0. Default 0. */
  warmupSteps?: number
}

/** The learning rate of a step, the first being 0. */
export type Schedule = (step: number) => number

// `after` gets the step, and the options with nothing left out.
const warmedUp =
  (after: (step: number, options: Required<ScheduleOptions>) => number) =>
  ({ lr, minLr = lr / 10, steps, warmupSteps = 0 }: ScheduleOptions): Schedule =>
  (step) =>
    step < warmupSteps ? (lr * (step + 1)) / warmupSteps : after(step, { lr, minLr, steps, warmupSteps })

const clamped = (share: number): number => Math.min(1, Math.max(0, share))

/**
 * After the warm-up, half a cosine from `lr` to `minLr`, which it reaches at step `steps`; then it stays there
 * (Loshchilov and Hutter, arXiv 1608.03983, without restarts).
 */
export const cosine: (options: ScheduleOptions) => Schedule = warmedUp((step, { lr, minLr, steps, warmupSteps }) => {
  const share = steps > warmupSteps ? clamped((step - warmupSteps) / (steps - warmupSteps)) : 1
  return minLr + 0.5 * (lr - minLr) * (1 + Math.cos(Math.PI * share))
})

/** After the warm-up `lr`; over the last fifth of the steps linearly to `minLr` (warm-up, stable, decay). */
export const wsd: (options: ScheduleOptions) => Schedule = warmedUp((step, { lr, minLr, steps }) => {
  const tail = 0.2 * steps
  return lr + (minLr - lr) * (tail > 0 ? clamped((step - (steps - tail)) / tail) : 0)
})

/** After the warm-up `lr`. */
export const constant: (options: ScheduleOptions) => Schedule = warmedUp((_, { lr }) => lr)

/** The schedules by their names in a run configuration. */
export const schedules = { cosine, wsd, constant } as const
