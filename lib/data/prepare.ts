// What `polygrad prepare` does: text to shards of token ids, with a held-out part if asked.
import { readFileSync, rmSync } from 'node:fs'
import { DataError, metaPath, openShard, type ShardMeta, type TokenArray, writeShard } from './shards.ts'
import { encodeText, findFiles, isShard } from './text.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Where the held-out part of `X.bin` goes: `X.val.bin`. */
export const heldOutPath = (out: string): string => `${out.replace(/\.bin$/, '')}.val.bin`

/** What {@link prepare} wrote. */
export interface Prepared {
  train: { path: string; meta: ShardMeta }
  val?: { path: string; meta: ShardMeta }
  files: number
  bytes: number
}

/**
 * Tokenizes text files, one after another, into a shard and its sidecar; memory does not grow with the text beyond one file.
 * @param inputs files, folders or globs
 * @param out the shard, `X.bin`
 * @param options.valFraction the last part of the tokens, 0 to below 1, goes to `X.val.bin` instead. Default 0: no such file.
 * @param options.onFile called before each file, for progress
 * @throws DataError for a file that is missing, empty or not text
 */
export async function prepare(
  inputs: readonly string[],
  tokenizer: Tokenizer,
  out: string,
  options: { valFraction?: number; onFile?: (path: string, index: number, files: number) => void } = {},
): Promise<Prepared> {
  const { valFraction = 0, onFile } = options
  const files = inputs.flatMap(findFiles)
  const info = { vocab_size: tokenizer.vocabSize, tokenizer: tokenizer.name }
  const done = { files: files.length, bytes: 0 }
  function* tokens(): Generator<TokenArray> {
    for (const [i, file] of files.entries()) {
      if (isShard(file)) throw new DataError(file, 'is a shard of token ids already, not text')
      onFile?.(file, i, files.length)
      const data = readFileSync(file)
      done.bytes += data.length
      yield* encodeText(file, data, tokenizer)
    }
    if (done.bytes === 0) throw new DataError(inputs.join(' '), 'is empty')
  }
  if (valFraction === 0) return { train: { path: out, meta: await writeShard(out, tokens(), info) }, ...done }

  // How many tokens there are is known at the end: all go to one shard, which is then split.
  const whole = `${out}.whole-${process.pid}.bin`
  try {
    await writeShard(whole, tokens(), info)
    const source = openShard(whole)
    try {
      const cut = source.length - Math.round(source.length * valFraction)
      if (cut === 0 || cut === source.length)
        throw new DataError(out, `has ${source.length} tokens, too few to hold out ${valFraction} of them`)
      const val = heldOutPath(out)
      return {
        val: { path: val, meta: await writeShard(val, range(source, cut, source.length), info) },
        train: { path: out, meta: await writeShard(out, range(source, 0, cut), info) },
        ...done,
      }
    } finally {
      source.close()
    }
  } finally {
    rmSync(whole, { force: true })
    rmSync(metaPath(whole), { force: true })
  }
}

function* range(source: { read(offset: number, count: number): TokenArray }, from: number, to: number) {
  const piece = 2 ** 20
  for (let at = from; at < to; at += piece) yield source.read(at, Math.min(piece, to - at))
}
