// polygrad/io: weights, checkpoints and Hugging Face folders.
export { type Disk, DiskError, type DiskFile, DiskWriter, realDisk, type Written } from './disk.ts'
export { fromHuggingFace, toHuggingFace } from './huggingface.ts'
export {
  maxShardBytes,
  type PutFile,
  parseSafetensors,
  SafetensorsError,
  SafetensorsReader,
  type StoredDtype,
  type StoredTensor,
  saveModel,
  type TensorEntry,
  writeModel,
  writeSafetensors,
  writeSafetensorsTo,
} from './safetensors.ts'
