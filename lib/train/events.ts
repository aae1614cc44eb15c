// What a training run tells: the events that `for await (const event of trainer)` gives, in the order they happen.

import type { StepMetrics } from './metrics.ts'

/** What happened. */
export type TrainEvent =
  | {
      kind: 'start'
      /** The step the run begins with: 0, or where it was resumed. */
      step: number
      steps: number
      parameters: number
      /** The checkpoint it was resumed from, and the newer ones that were not whole. */
      resumed?: { path: string; skipped: { path: string; reason: string }[] }
      /** Where an earlier run's files were moved, because this one begins anew in its folder. */
      movedTo?: string
    }
  | ({ kind: 'step'; steps: number } & StepMetrics)
  | { kind: 'eval'; step: number; val_loss: number; batches: number }
  | { kind: 'sample'; step: number; text: string }
  | { kind: 'checkpoint'; step: number; path: string }
  | {
      kind: 'done'
      /** Steps done. */
      step: number
      /** Whether all steps of the run are done; else `stop()` ended it. */
      complete: boolean
      loss?: number
      val_loss?: number
      /** Wall-clock time of this process's part. */
      seconds: number
      /** The last checkpoint. */
      checkpoint: string
    }

/** The loss or the gradient is not finite. The parameters are as the last good step left them, and were saved. */
export class NonFiniteError extends Error {
  override readonly name = 'NonFiniteError'
  readonly code = 'ERR_NON_FINITE'
  constructor(
    readonly step: number,
    readonly loss: number,
    readonly gradNorm: number,
    /** The checkpoint of the last good step; undefined if it could not be written. */
    readonly checkpoint: string | undefined,
  ) {
    const what = Number.isFinite(loss)
      ? `the gradient's norm is ${gradNorm} (the loss is ${loss})`
      : `the loss is ${loss}`
    super(
      `step ${step}: ${what}; stopped before the update${checkpoint ? `, the parameters of the last good step are in ${checkpoint}` : ''}`,
    )
  }
}
