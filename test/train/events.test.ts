import { expect, test } from 'vitest'
import { NonFiniteError } from '../../lib/train/events.ts'

test('the message says what was not finite, at which step, and where the last good state is', () => {
  expect(new NonFiniteError(7, Number.NaN, 1, 'runs/a/checkpoints/step-00000007').message).toBe(
    'step 7: the loss is NaN; stopped before the update, the parameters of the last good step are in runs/a/checkpoints/step-00000007',
  )
  expect(new NonFiniteError(0, 2.5, Number.POSITIVE_INFINITY, undefined).message).toBe(
    "step 0: the gradient's norm is Infinity (the loss is 2.5); stopped before the update",
  )
})
