import { expect, test } from 'vitest'
import { devices, tensor } from '../../lib/index.ts'

// The project `cuda` runs the tests of every op on the GPU; here it is only said when there is none.
test('a CUDA device computes', async ({ skip }) => {
  const { cuda } = devices()
  if (!cuda.available) return skip(`no CUDA device: ${cuda.reason}`)
  expect([...(await tensor([1, 2, 3], { device: 'cuda' }).mul(2).data())]).toEqual([2, 4, 6])
})
