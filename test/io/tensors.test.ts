import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { SafetensorsReader } from '../../lib/io/safetensors.ts'
import { loadSafetensors, saveSafetensors } from '../../lib/io/tensors.ts'
import { tensor, zeros } from '../../lib/ops/create.ts'
import { transpose } from '../../lib/ops/index.ts'
import type { Dtype } from '../../lib/tensor.ts'

const folder = mkdtempSync(join(tmpdir(), 'tensors-'))

test('every dtype, views, no elements, no axes: written and read back', async () => {
  const path = join(folder, 'all.safetensors')
  const dtypes: Dtype[] = ['float32', 'float64', 'bfloat16', 'float16', 'int32', 'int64', 'uint8', 'bool']
  const tensors = Object.fromEntries(dtypes.map((dtype) => [dtype, tensor([1, 0, 3], { dtype })]))
  tensors.view = transpose(
    tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]),
  )
  tensors.empty = zeros([0, 3])
  tensors.scalar = tensor(7)
  await saveSafetensors(path, tensors, { made: 'here' })
  const back = await loadSafetensors(path)
  expect(Object.keys(back).sort()).toEqual(Object.keys(tensors).sort())
  for (const [name, t] of Object.entries(tensors)) {
    expect([back[name]!.dtype, back[name]!.shape], name).toEqual([t.dtype, t.shape])
    expect(back[name]!.dataSync(), name).toEqual(t.dataSync())
  }
  const reader = await SafetensorsReader.open(path)
  expect(reader.metadata).toEqual({ made: 'here' })
  await reader.close()
})

test('a Map of tensors, and names that objects have of their own', async () => {
  const path = join(folder, 'names.safetensors')
  await saveSafetensors(
    path,
    new Map([
      ['__proto__', tensor([1])],
      ['b', tensor([2])],
    ]),
  )
  const back = await loadSafetensors(path)
  expect(Object.keys(back).sort()).toEqual(['__proto__', 'b'])
  expect(
    Object.entries(back)
      .find(([name]) => name === '__proto__')![1]
      .dataSync(),
  ).toEqual(new Float32Array([1]))
})

test('a missing file is named', async () => {
  await expect(loadSafetensors(join(folder, 'none.safetensors'))).rejects.toThrow(/none\.safetensors/)
})
