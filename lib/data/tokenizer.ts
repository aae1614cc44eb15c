// Text to token ids and back: bytes, GPT-2's, or any Hugging Face tokenizer.json. Their libraries load when asked for.
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DataError, type TokenArray } from './shards.ts'
import { bytesToTokenizerJson, gpt2ToTokenizerJson } from './tokenizer-json.ts'

/** Turns text into token ids and back. */
export interface Tokenizer {
  /** What RUN.json calls it: `bytes`, `gpt2`, or the path of a tokenizer.json. */
  readonly name: string
  /** Every id is below it. */
  readonly vocabSize: number
  encode(text: string): TokenArray
  /** The text of ids; what is no valid UTF-8, or no token, becomes U+FFFD. */
  decode(ids: Iterable<number>): string
  /** Decodes one id at a time, for generation: a character comes out when all its bytes are there. */
  decoder(): TokenDecoder
  /**
   * The files that a checkpoint keeps: a tokenizer.json that Hugging Face's libraries read as well, and tokenizer_config.json.
   * {@link loadTokenizer} reads them back from the folder.
   */
  files(): { name: string; data: string }[]
}

/** Text of a stream of ids. */
export interface TokenDecoder {
  /** The text that this id completes; often empty in the middle of a character. */
  push(id: number): string
  /** What is left: U+FFFD for an unfinished character. */
  end(): string
}

/**
 * Gets a tokenizer by the name that RUN.json has: `bytes` (ids 0 to 255), `gpt2`, the path of a Hugging Face tokenizer.json,
 * or a folder that holds one, such as a checkpoint.
 * @throws DataError when there is no such file or it is not a tokenizer
 */
export async function loadTokenizer(name: string): Promise<Tokenizer> {
  if (name === 'bytes') return bytesTokenizer()
  if (name === 'gpt2') return gpt2Tokenizer()
  const isFolder = statSync(name, { throwIfNoEntry: false })?.isDirectory() ?? false
  const path = isFolder ? join(name, 'tokenizer.json') : name
  const config = readJson(path.replace(/tokenizer\.json$/, 'tokenizer_config.json'), true)
  const ours = (config as { polygrad_tokenizer?: unknown } | undefined)?.polygrad_tokenizer
  if (ours === 'bytes') return bytesTokenizer()
  if (ours === 'gpt2') return gpt2Tokenizer()
  return huggingFaceTokenizer(path, readJson(path, false), config)
}

/** Writes a tokenizer's files into a folder. */
export function saveTokenizer(tokenizer: Tokenizer, folder: string): void {
  mkdirSync(folder, { recursive: true })
  for (const { name, data } of tokenizer.files()) writeFileSync(join(folder, name), data)
}

function readJson(path: string, optional: boolean): unknown {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code
    if (optional && (code === 'ENOENT' || code === 'ENOTDIR')) return undefined
    throw new DataError(path, code === 'ENOENT' ? 'does not exist' : `cannot be read: ${(e as Error).message}`)
  }
  try {
    return JSON.parse(text)
  } catch (e) {
    throw new DataError(path, `is not JSON: ${(e as Error).message}`)
  }
}

/** A decoder of tokens that are byte strings. */
function byteDecoder(bytesOf: (id: number) => Uint8Array): TokenDecoder {
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })
  return { push: (id) => utf8.decode(bytesOf(id), { stream: true }), end: () => utf8.decode() }
}

function decodeAll(decoder: TokenDecoder, ids: Iterable<number>): string {
  let text = ''
  for (const id of ids) text += decoder.push(id)
  return text + decoder.end()
}

const noSuchToken = new TextEncoder().encode('\uFFFD')

function bytesTokenizer(): Tokenizer {
  const utf8 = new TextEncoder()
  const decoder = () => byteDecoder((id) => (id < 256 ? Uint8Array.of(id) : noSuchToken))
  return {
    name: 'bytes',
    vocabSize: 256,
    encode: (text) => utf8.encode(text),
    decode: (ids) => decodeAll(decoder(), ids),
    decoder,
    files: () => tokenizerFiles(JSON.stringify(bytesToTokenizerJson()), { polygrad_tokenizer: 'bytes' }),
  }
}

const gpt2End = 50256
const gpt2EndText = '<|endoftext|>'

async function gpt2Tokenizer(): Promise<Tokenizer> {
  const [{ encode }, { default: ranks }] = await Promise.all([
    import('gpt-tokenizer/encoding/r50k_base'),
    import('gpt-tokenizer/bpeRanks/r50k_base'),
  ])
  // The library's own handling of special tokens finds them only at the start of a text (4.0.0), so they are cut out here.
  const ordinary = { disallowedSpecial: new Set<string>() }
  const utf8 = new TextEncoder()
  const tokens = ranks.map((token) => (typeof token === 'string' ? utf8.encode(token) : Uint8Array.from(token)))
  tokens[gpt2End] = utf8.encode(gpt2EndText)
  const decoder = () => byteDecoder((id) => tokens[id] ?? noSuchToken)
  let files: { name: string; data: string }[] | undefined
  return {
    name: 'gpt2',
    vocabSize: gpt2End + 1,
    // As Hugging Face: the text <|endoftext|> is the one token.
    encode: (text) => {
      const ids: number[] = []
      for (const [i, part] of text.split(gpt2EndText).entries()) {
        if (i > 0) ids.push(gpt2End)
        for (const id of encode(part, ordinary)) ids.push(id)
      }
      return Uint16Array.from(ids)
    },
    decode: (ids) => decodeAll(decoder(), ids),
    decoder,
    files: () => {
      files ??= tokenizerFiles(JSON.stringify(gpt2ToTokenizerJson(tokens.slice(0, gpt2End))), {
        model_max_length: 1024,
        eos_token: gpt2EndText,
        polygrad_tokenizer: 'gpt2',
      })
      return files
    },
  }
}

const tokenizerFiles = (json: string, config: Record<string, unknown>) => [
  { name: 'tokenizer.json', data: json },
  {
    name: 'tokenizer_config.json',
    data: `${JSON.stringify({ tokenizer_class: 'PreTrainedTokenizerFast', ...config }, null, 2)}\n`,
  },
]

async function huggingFaceTokenizer(path: string, json: unknown, config: unknown): Promise<Tokenizer> {
  const model = (json as { model?: { vocab?: unknown } } | null)?.model
  if (typeof model !== 'object' || model === null) throw new DataError(path, 'is not a tokenizer.json: it has no model')
  const library = await import('@huggingface/tokenizers')
  let inner: InstanceType<typeof library.Tokenizer>
  let vocabSize = 0
  try {
    inner = new library.Tokenizer(json as object, (config as object) ?? {})
    for (const id of inner.get_vocab(true).values()) vocabSize = Math.max(vocabSize, id + 1)
  } catch (e) {
    throw new DataError(path, `is not a tokenizer that can be used: ${(e as Error).message}`)
  }
  const decode = (ids: number[]) => {
    const known = ids.filter((id) => id < vocabSize)
    if (known.length === 0) return ''
    return inner.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false })
  }
  return {
    name: path,
    vocabSize,
    encode: (text) => {
      const { ids } = inner.encode(text, { add_special_tokens: false })
      return vocabSize <= 2 ** 16 ? Uint16Array.from(ids) : Uint32Array.from(ids)
    },
    decode: (ids) => decode([...ids]),
    decoder: () => windowDecoder(decode),
    files: () => [
      { name: 'tokenizer.json', data: JSON.stringify(json) },
      ...(config ? [{ name: 'tokenizer_config.json', data: `${JSON.stringify(config, null, 2)}\n` }] : []),
    ],
  }
}

/**
 * A decoder for tokenizers whose tokens' text depends on their neighbours: decodes a window of the last ids with and
 * without the new one, and gives the difference once it does not end within a character.
 */
function windowDecoder(decode: (ids: number[]) => string): TokenDecoder {
  let ids: number[] = []
  // ids[0, shown) have been given out; they stay in the window as the neighbours of those that follow.
  let shown = 0
  const text = () => decode(ids).slice(decode(ids.slice(0, shown)).length)
  return {
    push(id) {
      ids.push(id)
      const fresh = text()
      // A character has at most four bytes; what is not complete after eight tokens never will be.
      if (fresh === '' || (fresh.endsWith('\uFFFD') && ids.length - shown < 8)) return ''
      ids = ids.slice(shown)
      shown = ids.length
      return fresh
    },
    end: () => text(),
  }
}
