// What training minimises.
import { native } from '../native.ts'
import { record, recorded, Tensor } from '../tensor.ts'

export interface CrossEntropyOptions {
  /** Rows with this target count for nothing. Default -100. */
  ignoreIndex?: number
}

/**
 * The mean over rows of `logsumexp(logits) - logits[target]`, in nats; 0 if every row is ignored. The result is float32
 * (float64 for float64 logits).
 * @param logits (.., V)
 * @param targets (..), class numbers as int32, int64 or uint8
 * @throws Error if the shapes do not fit. A target that is neither a class nor `ignoreIndex` makes the result NaN, and the
 * next wait throws, naming its position and value.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const ignore = options.ignoreIndex ?? -100
  const [loss, statsHandle] = native.crossEntropy(logits.handle, targets.handle, ignore)
  if (!recorded([logits])) {
    native.release(statsHandle)
    return new Tensor(loss)
  }
  const stats = new Tensor(statsHandle)
  return record(
    'crossEntropy',
    loss,
    [logits],
    (dy) => [new Tensor(native.crossEntropyGrad(logits.handle, targets.handle, ignore, stats.handle, dy.handle))],
    [targets, stats],
  )
}
