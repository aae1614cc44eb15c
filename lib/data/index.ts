// polygrad/data: tokenizers, shards of token ids, batches.
export { type Batch, Batches, type BatchOptions, countWindows, evaluationBatches, shuffledIndex } from './batches.ts'
export { heldOutPath, type Prepared, prepare } from './prepare.ts'
export {
  DataError,
  joinTokens,
  memoryTokens,
  metaPath,
  openShard,
  type ShardMeta,
  type TokenArray,
  type TokenSource,
  withinVocabulary,
  writeShard,
} from './shards.ts'
export { findFiles, isShard, type LoadedTokens, loadTokens } from './text.ts'
export { loadTokenizer, saveTokenizer, type TokenDecoder, type Tokenizer } from './tokenizer.ts'
