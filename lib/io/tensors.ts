// Tensors to and from safetensors files.
import { native } from '../native.ts'
import { getDefaultDevice } from '../ops/create.ts'
import { type Device, deviceCode, dtypeCode, Tensor } from '../tensor.ts'
import { SafetensorsReader, type TensorEntry, writeSafetensors } from './safetensors.ts'

/** A tensor as an entry to write; its values are fetched when it is their turn. @internal */
export const tensorEntry = (name: string, t: Tensor): TensorEntry => ({
  name,
  dtype: t.dtype,
  shape: t.shape,
  data: () => t.data(),
})

/** Reads one tensor of an open file. @internal */
export async function readTensor(
  reader: SafetensorsReader,
  name: string,
  device: Device = getDefaultDevice(),
): Promise<Tensor> {
  const { dtype, shape, data } = await reader.read(name)
  const t = new Tensor(native.empty(shape, dtypeCode(dtype), deviceCode(device)))
  native.write(t.handle, data)
  return t
}

/**
 * Writes tensors into one safetensors file, which is the old file or the whole new one at every moment.
 * @param metadata strings for the file's `__metadata__`
 * @throws DiskError when the disk is full or fails
 */
export async function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, Tensor>> | ReadonlyMap<string, Tensor>,
  metadata: Record<string, string> = {},
): Promise<void> {
  const all = tensors instanceof Map ? [...tensors] : Object.entries(tensors as Record<string, Tensor>)
  await writeSafetensors(
    path,
    all.map(([name, t]) => tensorEntry(name, t)),
    metadata,
  )
}

/**
 * Reads every tensor of a safetensors file, of an index.json of shards, or of a folder that holds either.
 * @throws SafetensorsError naming file and tensor where the file breaks a rule of the format; DiskError where reading fails
 */
export async function loadSafetensors(
  path: string,
  options: { device?: Device } = {},
): Promise<Record<string, Tensor>> {
  const reader = await SafetensorsReader.open(path)
  try {
    const tensors: Record<string, Tensor> = {}
    for (const name of reader.tensors.keys()) {
      const value = await readTensor(reader, name, options.device)
      Object.defineProperty(tensors, name, { value, enumerable: true, writable: true, configurable: true })
    }
    return tensors
  } finally {
    await reader.close()
  }
}
