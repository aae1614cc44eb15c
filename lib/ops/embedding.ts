// Rows of a table by their numbers.
import { native } from '../native.ts'
import { record, Tensor } from '../tensor.ts'

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
      const d = new Tensor(native.embeddingGrad(ids.handle, dy.handle, weight.shape[0]!))
      return [d.dtype === weight.dtype ? d : new Tensor(native.cast(d.handle, native.dtypeOf(weight.handle)))]
    },
    [ids],
  )
}
