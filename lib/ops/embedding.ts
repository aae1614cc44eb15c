// Rows of a table by their numbers.
import { native } from '../native.ts'
import { gradientInPlace, record, Tensor } from '../tensor.ts'

/**
 * `weight[ids]`.
 * @param ids (..), int32, int64 or uint8
 * @param weight (V, D)
 * @returns (.., D)
 * @throws Error if the dtypes or shapes do not fit. An id outside the vocabulary gives a row of NaN, and the next wait
 * throws, naming its position and value.
 */
export function embedding(ids: Tensor, weight: Tensor): Tensor {
  return record(
    'embedding',
    native.embedding(ids.handle, weight.handle),
    [weight],
    (dy) => {
      // In place, where there is a gradient already: few of its rows change.
      const sum = gradientInPlace(weight, dy.dtype === 'float64' ? 'float64' : 'float32')
      const handle = native.embeddingGrad(ids.handle, dy.handle, weight.shape[0]!, sum?.handle ?? null)
      if (!sum) return [new Tensor(handle)]
      native.release(handle)
      return [null]
    },
    [ids],
  )
}
