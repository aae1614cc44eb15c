import { expect, test } from 'vitest'
import { Embedding } from '../../lib/nn/embedding.ts'
import { tensor } from '../../lib/ops/create.ts'

test('rows by id', () => {
  const layer = new Embedding(7, 3)
  const weight = layer.weight.dataSync() as Float32Array
  const y = layer.forward(
    tensor(
      [
        [6, 0],
        [2, 2],
      ],
      { dtype: 'int32' },
    ),
  )
  expect(y.shape).toEqual([2, 2, 3])
  expect(Array.from(y.dataSync() as Float32Array)).toEqual(
    [6, 0, 2, 2].flatMap((id) => Array.from(weight.slice(3 * id, 3 * id + 3))),
  )
})

test('an id that appears twice collects both gradients', () => {
  const layer = new Embedding(4, 2)
  layer
    .forward(tensor([1, 1, 3], { dtype: 'int32' }))
    .sum()
    .backward()
  expect(Array.from(layer.weight.grad!.dataSync() as Float32Array)).toEqual([0, 0, 2, 2, 0, 0, 1, 1])
})
