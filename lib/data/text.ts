// Finds the data that a run names, a .bin of ids or text in one file, a folder or by a glob, and makes it a source of ids.
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { ConfigError } from '../nn/fields.ts'
import {
  DataError,
  joinTokens,
  memoryTokens,
  openShard,
  type TokenArray,
  type TokenSource,
  withinVocabulary,
} from './shards.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Whether a file is token ids (whatever the run's tokenizer is); any other is text. */
export const isShard = (path: string): boolean => path.endsWith('.bin')

/**
 * The files that a path stands for: itself, every file of a folder (at any depth, names that begin with a dot left out), or
 * those that a glob matches (`*` and `?` within a name, `**` for any depth). In the order of their names, the same everywhere.
 * @throws DataError when there are none
 */
export function findFiles(path: string): string[] {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat?.isDirectory()) {
    const files = walk(path).sort()
    if (files.length === 0) throw new DataError(path, 'is a folder without files')
    return files
  }
  if (stat || !/[*?]/.test(path)) {
    if (!stat) throw new DataError(path, 'does not exist')
    return [path]
  }
  const parts = path.split('/')
  const first = parts.findIndex((part) => /[*?]/.test(part))
  const root = parts.slice(0, first).join('/') || (path.startsWith('/') ? '/' : '.')
  const pattern = new RegExp(`^${parts.slice(first).map(globPart).join('')}$`)
  const depth = parts.includes('**') ? Number.POSITIVE_INFINITY : parts.length - first
  const files = statSync(root, { throwIfNoEntry: false })?.isDirectory()
    ? walk(root, depth).filter((file) => pattern.test(file.slice(join(root, 'x').length - 1)))
    : []
  if (files.length === 0) throw new DataError(path, 'matches no files')
  return files.sort()
}

function globPart(part: string, i: number, all: string[]): string {
  const last = i === all.length - 1
  if (part === '**') return last ? '.*' : '(?:.*/)?'
  const name = part
    .replaceAll(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '[^/]*')
    .replaceAll('?', '[^/]')
  return last ? name : `${name}/`
}

function walk(folder: string, depth = Number.POSITIVE_INFINITY): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.name.startsWith('.')) return []
    // A link counts as what it leads to, but a folder is not entered through one: that could go round.
    if (entry.isDirectory()) return depth > 1 ? walk(path, depth - 1) : []
    return statSync(path, { throwIfNoEntry: false })?.isFile() ? [path] : []
  })
}

/** Where a run's ids come from. */
export interface LoadedTokens {
  source: TokenSource
  /** What a shard's sidecar names; for text, the tokenizer that was used. */
  tokenizer?: string
  /** Bytes of text, where the data was text: for bits per byte. */
  bytes?: number
}

/**
 * Opens a run's data: a `.bin` of ids (or several, as one), else text, which is tokenized. Text files follow one another as
 * they are, in the order of {@link findFiles}.
 * @param path a file, folder or glob
 * @param options.field what errors call it, such as `data.val`
 * @param options.vocabSize the model's vocabulary
 * @throws ConfigError naming the field and the file: missing, empty, of a wrong length, not text, an id outside the vocabulary
 */
export async function loadTokens(
  path: string,
  tokenizer: Tokenizer,
  options: { vocabSize: number; field?: string },
): Promise<LoadedTokens> {
  const { vocabSize, field = 'data.train' } = options
  try {
    const files = findFiles(path)
    const shards = files.filter(isShard)
    if (shards.length === files.length) return openShards(path, files, vocabSize)
    if (shards.length > 0) throw new DataError(path, `holds both shards and text, such as ${shards[0]}`)
    if (tokenizer.vocabSize > vocabSize)
      throw new ConfigError(
        'model.vocab_size',
        ` is ${vocabSize} but must be at least the ${tokenizer.vocabSize} of the tokenizer ${tokenizer.name}`,
      )
    const parts: TokenArray[] = []
    let bytes = 0
    for (const file of files) {
      const data = readText(file, files.length > 1)
      bytes += data.length
      for (const ids of encodeText(file, data, tokenizer)) parts.push(ids)
    }
    if (bytes === 0) throw new DataError(path, 'is empty')
    return { source: memoryTokens(concatenate(parts), path), tokenizer: tokenizer.name, bytes }
  } catch (e) {
    throw e instanceof DataError ? new ConfigError(field, `: ${e.message}`) : e
  }
}

function openShards(path: string, files: string[], vocabSize: number): LoadedTokens {
  const sources = files.map((file) => openShard(file))
  const source = joinTokens(
    sources.map((s) => trusted(s, vocabSize)),
    path,
  )
  const tokenizer = sources[0]!.meta?.tokenizer
  return { source, ...(tokenizer && { tokenizer }) }
}

/** Checks a shard against the vocabulary; by its sidecar where that says enough. */
function trusted(source: ReturnType<typeof openShard>, vocabSize: number): TokenSource {
  const said = source.meta?.vocab_size
  if (said !== undefined && said > vocabSize)
    throw new ConfigError('model.vocab_size', ` is ${vocabSize} but must be at least the ${said} of ${source.name}`)
  return withinVocabulary(source, vocabSize)
}

function readText(file: string, oneOfMany: boolean): Uint8Array {
  let data: Uint8Array
  try {
    data = readFileSync(file)
  } catch (e) {
    throw new DataError(file, `cannot be read: ${(e as Error).message}`)
  }
  const zero = oneOfMany ? data.indexOf(0) : -1
  if (zero >= 0) throw new DataError(file, `is not text: byte ${zero} is 0; choose the files by a glob such as *.txt`)
  return data
}

/**
 * A text's ids, in pieces. GPT-2's are cut at line ends between two characters that are not white space, which does not
 * change the ids; other tokenizers get the text whole.
 * @throws DataError when the text is not UTF-8 (for `bytes` anything is text)
 */
export function* encodeText(file: string, data: Uint8Array, tokenizer: Tokenizer): Generator<TokenArray> {
  if (tokenizer.name === 'bytes') {
    yield data
    return
  }
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(data)
  } catch {
    throw new DataError(file, 'is not UTF-8 text')
  }
  const size = tokenizer.name === 'gpt2' ? pieceSize : Number.POSITIVE_INFINITY
  const lineEnd = /\S\n(?=\S)/g
  for (let at = 0; at < text.length; ) {
    lineEnd.lastIndex = Math.min(at + size, text.length)
    const end = lineEnd.exec(text) ? lineEnd.lastIndex : text.length
    yield tokenizer.encode(text.slice(at, end))
    at = end
  }
}
const pieceSize = 2 ** 20

function concatenate(parts: readonly TokenArray[]): TokenArray {
  if (parts.length === 1) return parts[0]!
  const length = parts.reduce((n, part) => n + part.length, 0)
  const widest = parts.reduce((w, part) => Math.max(w, part.BYTES_PER_ELEMENT), 1)
  const all = new ({ 1: Uint8Array, 2: Uint16Array }[widest] ?? Uint32Array)(length)
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
