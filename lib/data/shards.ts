// Files of token ids: nanoGPT's plain uint16, llm.c's with a header, uint32 by a sidecar. Mapped, and read in windows.
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { diskError } from '../errors.ts'
import { native } from '../native.ts'

/** Token ids as they are stored. */
export type TokenArray = Uint8Array | Uint16Array | Uint32Array | Int32Array

/** Token ids in order, wherever they are. */
export interface TokenSource {
  /** What errors call it: a path. */
  readonly name: string
  readonly length: number
  /** The ids from `offset` on. Throws a DataError when fewer than `count` are there. */
  read(offset: number, count: number): TokenArray
  close(): void
}

/** Data that cannot be used. The message begins with the path. */
export class DataError extends Error {
  override readonly name = 'DataError'
  constructor(
    readonly path: string,
    message: string,
  ) {
    super(`${path} ${message}`)
  }
}

/** What `X.meta.json` says of `X.bin`. */
export interface ShardMeta {
  dtype: 'uint16' | 'uint32'
  vocab_size: number
  /** `bytes`, `gpt2`, or the path that the tokenizer.json had. */
  tokenizer: string
  tokens: number
}

// llm.c's headers: 256 int32, of which the first three are magic, version and number of tokens.
const headers = [
  { magic: 20240520, version: 1, dtype: 'uint16' },
  { magic: 20240801, version: 7, dtype: 'uint32' },
] as const
const headerBytes = 1024

const width = (dtype: ShardMeta['dtype']) => (dtype === 'uint16' ? 2 : 4)
/** Where a shard's sidecar is: `X.meta.json` beside `X.bin`. */
export const metaPath = (path: string): string => `${path.replace(/\.bin$/, '')}.meta.json`

/** A reason in words for a system error. */
function reason(e: unknown): string {
  const code = (e as NodeJS.ErrnoException).code
  if (code === 'ENOENT') return 'does not exist'
  if (code === 'EISDIR') return 'is a folder'
  if (code === 'EACCES') return 'may not be read'
  return `cannot be read: ${(e as Error).message}`
}

/** Ids that are in memory, as a source. */
export function memoryTokens(ids: TokenArray, name = 'tokens'): TokenSource {
  return {
    name,
    length: ids.length,
    read: (offset, count) => {
      checkRange(name, ids.length, offset, count)
      return ids.subarray(offset, offset + count)
    },
    close: () => {},
  }
}

function checkRange(name: string, length: number, offset: number, count: number): void {
  if (offset < 0 || count < 0 || offset + count > length)
    throw new DataError(name, `has ${length} tokens, but those from ${offset} to ${offset + count} were asked for`)
}

/**
 * Opens a `.bin` of token ids. The file is mapped into memory and each window copied out of it: what is held is the
 * system's cache, shared with every process that reads the file. `close` unmaps it.
 * @returns the source, with what the sidecar says, if there is one
 * @throws DataError for a file that is missing, empty, of an odd length, shorter than its header or sidecar says, or longer
 */
export function openShard(path: string): TokenSource & { meta?: ShardMeta } {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (e) {
    throw new DataError(path, reason(e))
  }
  try {
    return shard(path, fd)
  } catch (e) {
    throw e instanceof DataError ? e : new DataError(path, reason(e))
  } finally {
    closeSync(fd)
  }
}

function shard(path: string, fd: number): TokenSource & { meta?: ShardMeta } {
  const size = fstatSync(fd).size
  if (size === 0) throw new DataError(path, 'is empty')
  const meta = readMeta(path)
  const head = new Int32Array(3)
  const header =
    size >= 12 && readSync(fd, head, 0, 12, 0) === 12 ? headers.find((h) => h.magic === head[0]) : undefined
  const dtype = header?.dtype ?? meta?.dtype ?? 'uint16'
  const start = header ? headerBytes : 0
  const bytes = size - start
  if (header && head[1] !== header.version)
    throw new DataError(path, `has llm.c's magic but version ${head[1]}; version ${header.version} is read`)
  if (bytes < 0) throw new DataError(path, `ends within llm.c's header of ${headerBytes} bytes`)
  if (bytes % width(dtype) !== 0)
    throw new DataError(path, `has ${bytes} bytes of tokens, which is not a whole number of ${dtype}`)
  const length = bytes / width(dtype)
  const promised = header ? head[2]! : meta?.tokens
  if (promised !== undefined && promised !== length) {
    const who = header ? 'its header' : metaPath(path)
    throw new DataError(
      path,
      `has ${length} tokens but ${who} says ${promised}${length < promised ? ': it was cut short' : ''}`,
    )
  }
  if (length === 0) throw new DataError(path, 'has no tokens')
  const file = native.mapFile(fd)
  return {
    name: path,
    length,
    ...(meta && { meta }),
    read: (offset, count) => {
      checkRange(path, length, offset, count)
      const ids = dtype === 'uint16' ? new Uint16Array(count) : new Uint32Array(count)
      let whole: boolean
      try {
        whole = native.readMapped(file, start + offset * width(dtype), ids)
      } catch (e) {
        throw new DataError(path, reason(e))
      }
      if (!whole) throw new DataError(path, 'was cut short while it was open')
      return ids
    },
    close: () => native.unmapFile(file),
  }
}

/** Reads a shard's sidecar: `X.meta.json`, or `X.bin.meta.json`. */
function readMeta(path: string): ShardMeta | undefined {
  for (const at of [metaPath(path), `${path}.meta.json`]) {
    let text: string
    try {
      text = readFileSync(at, 'utf8')
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code === 'ENOENT') continue
      throw new DataError(at, reason(e))
    }
    let json: Partial<ShardMeta> | null
    try {
      json = JSON.parse(text)
    } catch (e) {
      throw new DataError(at, `is not JSON: ${(e as Error).message}`)
    }
    const fail = (name: keyof ShardMeta, what: string) => {
      throw new DataError(at, `has ${name} ${JSON.stringify(json?.[name])} but it must be ${what}`)
    }
    const dtype = json?.dtype ?? 'uint16'
    if (dtype !== 'uint16' && dtype !== 'uint32') fail('dtype', '"uint16" or "uint32"')
    for (const name of ['vocab_size', 'tokens'] as const)
      if (json?.[name] !== undefined && !(Number.isSafeInteger(json[name]) && json[name]! > 0))
        fail(name, 'a whole number above 0')
    return { ...json, dtype } as ShardMeta
  }
  return undefined
}

/** Several sources, one after another, as one. */
export function joinTokens(sources: readonly TokenSource[], name: string): TokenSource {
  if (sources.length === 1) return sources[0]!
  const starts: number[] = []
  let length = 0
  for (const s of sources) {
    starts.push(length)
    length += s.length
  }
  return {
    name,
    length,
    read: (offset, count) => {
      checkRange(name, length, offset, count)
      let i = starts.findLastIndex((start) => start <= offset)
      let at = offset - starts[i]!
      if (at + count <= sources[i]!.length) return sources[i]!.read(at, count)
      const ids = new Uint32Array(count)
      for (let got = 0; got < count; i++, at = 0) {
        const part = sources[i]!.read(at, Math.min(count - got, sources[i]!.length - at))
        ids.set(part, got)
        got += part.length
      }
      return ids
    },
    close: () => {
      for (const s of sources) s.close()
    },
  }
}

// Larger sources are not read through at the start; what is read is checked in any case.
const scanLimit = 2 ** 28

/**
 * A source whose every id is below `vocabSize`. A source of up to 2^28 tokens is read through at once, so that a run does
 * not stop in its middle; of a larger one each window is checked when it is read.
 * @throws DataError naming the first id that is too large, and its position
 */
export function withinVocabulary(source: TokenSource, vocabSize: number): TokenSource {
  const check = (ids: TokenArray, offset: number): TokenArray => {
    for (let i = 0; i < ids.length; i++)
      if (ids[i]! >= vocabSize || ids[i]! < 0)
        throw new DataError(
          source.name,
          `has token ${ids[i]} at position ${offset + i}, but the vocabulary has ${vocabSize} (0 to ${vocabSize - 1})`,
        )
    return ids
  }
  const piece = 2 ** 20
  if (source.length <= scanLimit)
    for (let at = 0; at < source.length; at += piece) check(source.read(at, Math.min(piece, source.length - at)), at)
  return { ...source, read: (offset, count) => check(source.read(offset, count), offset), close: () => source.close() }
}

/**
 * Writes token ids as a plain `.bin` (uint16 when the vocabulary allows it, else uint32) and its sidecar. The file gets its
 * name when it is complete.
 * @throws DataError for an id that is not below `vocabSize`; DiskError for a full or failing disk; the old files stay
 */
export async function writeShard(
  path: string,
  chunks: Iterable<ArrayLike<number>> | AsyncIterable<ArrayLike<number>>,
  info: Pick<ShardMeta, 'vocab_size' | 'tokenizer'>,
): Promise<ShardMeta> {
  const dtype = info.vocab_size <= 2 ** 16 ? 'uint16' : 'uint32'
  const temporary = `${path}.tmp-${process.pid}`
  const temporaryMeta = `${metaPath(path)}.tmp-${process.pid}`
  const writing = <R>(fn: () => R): R => {
    try {
      return fn()
    } catch (e) {
      throw diskError('write', path, e)
    }
  }
  let tokens = 0
  try {
    const fd = writing(() => openSync(temporary, 'w'))
    try {
      for await (const chunk of chunks) {
        const ids = dtype === 'uint16' ? Uint16Array.from(chunk) : Uint32Array.from(chunk)
        for (let i = 0; i < ids.length; i++)
          if (ids[i] !== chunk[i] || ids[i]! >= info.vocab_size)
            throw new DataError(
              path,
              `cannot hold token ${chunk[i]} at position ${tokens + i}: the vocabulary has ${info.vocab_size}`,
            )
        const bytes = new Uint8Array(ids.buffer)
        for (let at = 0; at < bytes.length; ) at += writing(() => writeSync(fd, bytes, at))
        tokens += ids.length
      }
      writing(() => fsyncSync(fd))
    } finally {
      closeSync(fd)
    }
    const meta: ShardMeta = { dtype, vocab_size: info.vocab_size, tokenizer: info.tokenizer, tokens }
    writing(() => {
      writeFileSync(temporaryMeta, `${JSON.stringify(meta)}\n`)
      // An old sidecar must not describe the new file.
      rmSync(metaPath(path), { force: true })
      renameSync(temporary, path)
      renameSync(temporaryMeta, metaPath(path))
    })
    return meta
  } catch (e) {
    rmSync(temporary, { force: true })
    rmSync(temporaryMeta, { force: true })
    throw e
  }
}
