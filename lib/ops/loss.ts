// What training minimises.
import { native } from '../native.ts'
import { type Dtype, dtypeCode, record, recorded, Tensor } from '../tensor.ts'

export interface CrossEntropyOptions {
  /** Rows with this target count for nothing. Default -100. */
  ignoreIndex?: number
}

/**
 * The mean over rows of `logsumexp(logits) - logits[target]`, in nats; 0 if every row is ignored. The result is float32
 * (float64 for float64 logits).
 * @param logits (.., V)
 * @param targets (..), class numbers as int32, int64 or uint8
 * @param options.inPlace lets `backward()` write the gradient over the logits, which saves their size in memory, and give
 * the tensor up: using it afterwards throws. Logits stay as they are where that is not possible: leaves, those that
 * another tensor shares memory with, and those of a graph that is kept. Default false
 * @throws Error if the shapes do not fit. A target that is neither a class nor `ignoreIndex` makes the result NaN, and the
 * next wait throws, naming its position and value.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions & { inPlace?: boolean } = {},
): Tensor {
  const { ignoreIndex: ignore = -100, inPlace = false } = options
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
    (dy, last) => {
      const { handle } = logits
      const over = inPlace && last && logits.node !== null && !logits.requiresGrad && native.ownsMemory(handle)
      const d = new Tensor(native.crossEntropyGrad(handle, targets.handle, ignore, stats.handle, dy.handle, over))
      if (over) logits.giveUp()
      return [d]
    },
    [targets, stats],
  )
}

/**
 * `crossEntropy(x @ weight^T, targets)` without ever holding all the logits: they are made for some rows at a time, and
 * turned in place into their own gradient, and that into those of x and weight, at once (Hsu et al., Liger Kernel,
 * arXiv 2410.10989).
 * @param x (.., D)
 * @param weight (V, D)
 * @param targets (..), class numbers as int32, int64 or uint8
 * @throws Error as `crossEntropy`
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions = {},
): Tensor {
  const inputs = [x, weight]
  const [wantX, wantWeight] = recorded(inputs) ? [x.tracked, weight.tracked] : [false, false]
  const ignore = options.ignoreIndex ?? -100
  const handles = native.linearCrossEntropy(x.handle, weight.handle, targets.handle, ignore, wantX, wantWeight)
  const gradients = handles.slice(1).map((handle, i) => {
    if (i ? wantWeight : wantX) return new Tensor(handle)
    native.release(handle)
    return null
  })
  // They are those of the loss itself: what arrives scales them.
  const scaled = (d: Tensor | null, dy: Tensor, dtype: Dtype): Tensor | null => {
    if (!d) return null
    const y = new Tensor(native.mul(d.handle, dy.handle))
    return y.dtype === dtype ? y : new Tensor(native.cast(y.handle, dtypeCode(dtype)))
  }
  return record(
    'linearCrossEntropy',
    handles[0],
    inputs,
    (dy) => [scaled(gradients[0]!, dy, x.dtype), scaled(gradients[1]!, dy, weight.dtype)],
    gradients.filter((d) => d !== null),
  )
}
