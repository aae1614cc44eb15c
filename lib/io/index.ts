// polygrad/io: weights, checkpoints and Hugging Face folders.

export { DiskError } from '../errors.ts'
export {
  type CheckpointFiles,
  checkpointName,
  checkpointProblem,
  type LatestCheckpoint,
  latestCheckpoint,
  writeCheckpoint,
} from './checkpoint.ts'
export { type Disk, type DiskFile, DiskWriter, realDisk, type Written } from './disk.ts'
export {
  fileEntries,
  fileTensors,
  fromHuggingFace,
  loadPretrained,
  loadWeights,
  readInto,
  savePretrained,
  toHuggingFace,
} from './huggingface.ts'
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
