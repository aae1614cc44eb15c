// Small runs for the tests of training: a model that learns in milliseconds, and tokens to learn.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

export const small = {
  vocab_size: 64,
  hidden_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 32,
  hidden_act: 'polynorm',
}
export const moe = {
  ...small,
  num_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: 16,
}

/** Ids below `vocab` with a pattern that can be learnt. */
export const pattern = (count: number, vocab = 64): Uint16Array =>
  Uint16Array.from({ length: count }, (_, i) => (i * i + 3 * (i >> 3)) % vocab)

/** Writes ids as a plain .bin and returns its path. */
export function writeTokens(folder: string, name: string, ids: ArrayLike<number>): string {
  const path = join(folder, name)
  writeFileSync(path, Uint16Array.from(ids))
  return path
}

/** Writes a RUN.json and returns its path. */
export function writeRun(folder: string, name: string, run: object): string {
  const path = join(folder, `${name}.json`)
  writeFileSync(path, JSON.stringify(run))
  return path
}
