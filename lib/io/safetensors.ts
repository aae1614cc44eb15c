// The safetensors format: named arrays in one file, or in shards with an index, read lazily and written whole or not at all.
import { basename, dirname, join } from 'node:path'
import { diskError } from '../errors.ts'
import { type Disk, type DiskFile, type DiskWriter, readAt, readText, realDisk, replaceFile } from './disk.ts'

/** A tensor's type in a safetensors file, by its name in this library. */
export type StoredDtype = 'float64' | 'float32' | 'bfloat16' | 'float16' | 'int64' | 'int32' | 'uint8' | 'bool'

/** The types that polygrad reads and writes, with their names in the format. */
const formatOf: Record<StoredDtype, string> = {
  float64: 'F64',
  float32: 'F32',
  bfloat16: 'BF16',
  float16: 'F16',
  int64: 'I64',
  int32: 'I32',
  uint8: 'U8',
  bool: 'BOOL',
}
const dtypeOf = new Map(Object.entries(formatOf).map(([dtype, name]) => [name as string, dtype as StoredDtype]))

// Every type of the format, in bits: a file with one that we cannot read is still checked whole.
const bitsOf: Record<string, number> = {
  ...{ BOOL: 8, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8 },
  ...{ I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32 },
  ...{ I64: 64, U64: 64, F64: 64, C64: 64, F4: 4, F6_E2M3: 6, F6_E3M2: 6 },
}
const maxHeader = 100_000_000

/** A tensor's description in a file. */
export interface StoredTensor {
  readonly name: string
  /** undefined: a type of the format that polygrad does not read (`format` names it) */
  readonly dtype: StoredDtype | undefined
  readonly format: string
  readonly shape: readonly number[]
  /** Where its bytes stand, from the end of the header: [begin, end). */
  readonly offsets: readonly [number, number]
}

/** A tensor to write. Its bytes are little-endian, rows last, as in memory. */
export interface TensorEntry {
  name: string
  dtype: StoredDtype
  shape: readonly number[]
  /** The values, or a function that brings them when it is their turn (so that not all need be in memory at once). */
  data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>)
}

/** A file that breaks the format's rules. The message names the file and, where there is one, the tensor. */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError'
}

interface Header {
  tensors: Map<string, StoredTensor>
  metadata: Record<string, string>
  /** Where the tensors' bytes begin in the file. */
  start: number
}

/** Bytes of a tensor. Throws on a product above 2^53. */
function byteLength(shape: readonly number[], bits: number, fail: (why: string) => never): number {
  let size = bits
  for (const n of shape) {
    size *= n
    if (!Number.isSafeInteger(size)) fail(`shape [${shape}] is too large`)
  }
  return size % 8 === 0 ? size / 8 : fail(`shape [${shape}] ends within a byte`)
}

const isSize = (v: unknown): v is number => Number.isSafeInteger(v) && (v as number) >= 0 && !Object.is(v, -0)

function parseHeader(json: Uint8Array, fileSize: number, file: string): Header {
  const fail = (why: string): never => {
    throw new SafetensorsError(`${file}: ${why}`)
  }
  if (json[0] !== 0x7b) fail('the header does not start with "{"')
  let text = ''
  let parsed: Record<string, unknown> = {}
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json)
  } catch {
    fail('the header is not UTF-8')
  }
  try {
    parsed = JSON.parse(text)
  } catch (e) {
    fail(`the header is not JSON: ${(e as Error).message}`)
  }
  const twice = keyTwice(text)
  if (twice !== undefined) fail(`the header has ${JSON.stringify(twice)} twice`)

  const metadata: Record<string, string> = {}
  const tensors = new Map<string, StoredTensor>()
  for (const [name, entry] of Object.entries(parsed)) {
    if (name === '__metadata__') {
      if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) fail('__metadata__ is not an object')
      for (const [key, value] of Object.entries(entry as object)) {
        if (typeof value !== 'string') fail(`__metadata__ has ${JSON.stringify(key)}, which is not a string`)
        Object.defineProperty(metadata, key, { value, enumerable: true, writable: true, configurable: true })
      }
    } else
      tensors.set(
        name,
        parseEntry(name, entry, (why) => fail(`tensor ${JSON.stringify(name)}: ${why}`)),
      )
  }
  checkOffsets([...tensors.values()], fileSize - 8 - json.length, fail)
  return { tensors, metadata, start: 8 + json.length }
}

/**
 * The first key that stands twice within one object of a JSON text, at any depth.
 * JSON.parse, which has accepted it, keeps the last and says nothing.
 */
function keyTwice(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = []
  let at = 0
  while (at < text.length) {
    const c = text[at]
    if (c === '{') open.push(new Set())
    else if (c === '[') open.push(undefined)
    else if (c === '}' || c === ']') open.pop()
    else if (c === '"') {
      const begin = at
      for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++
      const key = isKey(text, at + 1) ? (JSON.parse(text.slice(begin, at + 1)) as string) : undefined
      const keys = open.at(-1)
      if (key !== undefined && keys?.has(key)) return key
      if (key !== undefined) keys?.add(key)
    }
    at++
  }
  return undefined
}

function isKey(text: string, at: number): boolean {
  while (text[at] === ' ' || text[at] === '\n' || text[at] === '\t' || text[at] === '\r') at++
  return text[at] === ':'
}

function parseEntry(name: string, entry: unknown, fail: (why: string) => never): StoredTensor {
  if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) return fail('its entry is not an object')
  const { dtype: format, shape, data_offsets: offsets } = entry as Record<string, unknown>
  if (typeof format !== 'string' || !Object.hasOwn(bitsOf, format))
    return fail(`dtype ${JSON.stringify(format)} is not one of the format's`)
  if (!Array.isArray(shape) || !shape.every(isSize))
    return fail(`shape ${JSON.stringify(shape)} is not a list of sizes from 0 to 2^53`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize))
    return fail(`data_offsets ${JSON.stringify(offsets)} is not a pair of sizes from 0 to 2^53`)
  const [begin, end] = offsets as [number, number]
  if (end < begin) fail(`data_offsets [${begin}, ${end}] end before they begin`)
  const size = byteLength(shape, bitsOf[format]!, fail)
  if (end - begin !== size)
    fail(`data_offsets [${begin}, ${end}] hold ${end - begin} bytes, but ${format} [${shape}] needs ${size}`)
  return { name, dtype: dtypeOf.get(format), format, shape, offsets: [begin, end] }
}

function checkOffsets(tensors: StoredTensor[], size: number, fail: (why: string) => never): void {
  tensors.sort((a, b) => a.offsets[0] - b.offsets[0] || a.offsets[1] - b.offsets[1])
  let at = 0
  for (const { name, offsets } of tensors) {
    if (offsets[0] !== at)
      fail(
        `tensor ${JSON.stringify(name)}: begins at ${offsets[0]} but must begin at ${at} (${offsets[0] > at ? 'a hole' : 'an overlap'})`,
      )
    at = offsets[1]
  }
  if (at !== size)
    fail(`the tensors end at ${at} but the file has ${size} bytes of them (${at > size ? 'cut short' : 'extra bytes'})`)
}

/** The header's length from the first eight bytes, checked against the format's limit and the file. */
function headerLength(first: Uint8Array, fileSize: number, file: string): number {
  if (first.length < 8) throw new SafetensorsError(`${file}: is ${fileSize} bytes, too short for a safetensors file`)
  const length = new DataView(first.buffer, first.byteOffset, 8).getBigUint64(0, true)
  if (length > maxHeader)
    throw new SafetensorsError(`${file}: the header is ${length} bytes but must be at most ${maxHeader}`)
  if (Number(length) + 8 > fileSize)
    throw new SafetensorsError(`${file}: the header is ${length} bytes but the file ends after ${fileSize - 8} of them`)
  return Number(length)
}

/**
 * Reads a safetensors file that is in memory.
 * @param file what errors call it
 * @returns the tensors by name, each with a view of its bytes (no copy)
 * @throws SafetensorsError naming what breaks the format's rules
 */
export function parseSafetensors(
  bytes: Uint8Array,
  file = 'safetensors',
): { tensors: Map<string, StoredTensor & { data: Uint8Array }>; metadata: Record<string, string> } {
  const length = headerLength(bytes.subarray(0, 8), bytes.length, file)
  const header = parseHeader(bytes.subarray(8, 8 + length), bytes.length, file)
  const tensors = new Map<string, StoredTensor & { data: Uint8Array }>()
  for (const [name, t] of header.tensors) {
    const [begin, end] = t.offsets
    // Not subarray: of a Buffer it would make Buffers, whose slice does not copy.
    const data = new Uint8Array(bytes.buffer, bytes.byteOffset + header.start + begin, end - begin)
    tensors.set(name, { ...t, data })
  }
  return { tensors, metadata: header.metadata }
}

/** An open safetensors file, or all the shards of one. Close it when done. */
export class SafetensorsReader {
  readonly #files = new Map<string, { path: string; file: DiskFile; header: Header }>()
  readonly #disk: Disk
  /** Every tensor's description, by name. */
  readonly tensors: Map<string, StoredTensor> = new Map()
  /** The files' `__metadata__`. */
  readonly metadata: Record<string, string> = {}

  private constructor(
    /** The file or folder that was opened. */
    readonly path: string,
    disk: Disk,
  ) {
    this.#disk = disk
  }

  /**
   * Opens a .safetensors file, a model.safetensors.index.json, or a folder that holds `model.safetensors` or such an index.
   * Reads the headers only.
   * @throws SafetensorsError naming file and tensor where a rule of the format is broken; DiskError where reading fails
   */
  static async open(path: string, disk: Disk = realDisk): Promise<SafetensorsReader> {
    const reader = new SafetensorsReader(path, disk)
    try {
      const names = await listFolder(disk, path)
      if (names?.includes('model.safetensors')) await reader.#add(join(path, 'model.safetensors'))
      else if (names?.includes(indexName)) await reader.#addShards(join(path, indexName))
      else if (names) throw new SafetensorsError(`${path}: holds neither model.safetensors nor ${indexName}`)
      else if (path.endsWith('.json')) await reader.#addShards(path)
      else await reader.#add(path)
    } catch (e) {
      await reader.close()
      throw e
    }
    return reader
  }

  async #add(path: string): Promise<Header> {
    let file: DiskFile
    let size: number
    try {
      file = await this.#disk.open(path, 'r')
    } catch (e) {
      throw diskError('read', path, e)
    }
    const opened = { path, file, header: { tensors: new Map(), metadata: {}, start: 0 } as Header }
    // Known before the header is read, so that close() reaches it after an error.
    this.#files.set(path, opened)
    try {
      size = (await file.stat()).size
    } catch (e) {
      throw diskError('read', path, e)
    }
    const length = headerLength(await readAt(file, path, 0, 8), size, path)
    const header = parseHeader(await readAt(file, path, 8, length), size, path)
    opened.header = header
    for (const [name, tensor] of header.tensors) {
      if (this.tensors.has(name))
        throw new SafetensorsError(`${path}: tensor ${JSON.stringify(name)} stands in two files`)
      this.tensors.set(name, tensor)
      this.#where.set(name, opened)
    }
    Object.assign(this.metadata, header.metadata)
    return header
  }
  readonly #where = new Map<string, { path: string; file: DiskFile; header: Header }>()

  async #addShards(index: string): Promise<void> {
    const map = await readIndex(this.#disk, index)
    for (const file of new Set(map.values())) await this.#add(join(dirname(index), file))
    for (const [name, file] of map) {
      const found = this.#where.get(name)
      if (!found || basename(found.path) !== file)
        throw new SafetensorsError(`${index}: tensor ${JSON.stringify(name)} is not in ${file}`)
    }
    for (const name of this.tensors.keys())
      if (!map.has(name)) throw new SafetensorsError(`${index}: does not list tensor ${JSON.stringify(name)}`)
  }

  /**
   * Reads one tensor's bytes: little-endian, as in memory.
   * @throws SafetensorsError when there is none of the name, or its type is one that polygrad does not read
   */
  async read(name: string): Promise<StoredTensor & { dtype: StoredDtype; data: Uint8Array }> {
    const found = this.#where.get(name)
    const tensor = this.tensors.get(name)
    if (!found || !tensor) throw new SafetensorsError(`${this.path}: has no tensor ${JSON.stringify(name)}`)
    const { dtype, format, offsets } = tensor
    if (dtype === undefined)
      throw new SafetensorsError(
        `${found.path}: tensor ${JSON.stringify(name)}: dtype ${format} is not read; those that are: ${Object.values(formatOf).join(', ')}`,
      )
    const data = await readAt(found.file, found.path, found.header.start + offsets[0], offsets[1] - offsets[0])
    if (data.length !== offsets[1] - offsets[0])
      throw new SafetensorsError(`${found.path}: tensor ${JSON.stringify(name)}: the file was cut short while open`)
    return { ...tensor, dtype, data }
  }

  /** Closes the files. */
  async close(): Promise<void> {
    for (const { file } of this.#files.values()) await file.close().catch(() => {})
    this.#files.clear()
  }
}

const indexName = 'model.safetensors.index.json'

/** A folder's names, or undefined for what is not a folder. */
async function listFolder(disk: Disk, path: string): Promise<string[] | undefined> {
  try {
    return await disk.readdir(path)
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined
    throw diskError('read', path, e)
  }
}

async function readIndex(disk: Disk, path: string): Promise<Map<string, string>> {
  let json: unknown
  try {
    json = JSON.parse(await readText(disk, path))
  } catch (e) {
    if (e instanceof SyntaxError) throw new SafetensorsError(`${path}: is not JSON: ${e.message}`)
    throw e
  }
  const map = (json as { weight_map?: unknown } | null)?.weight_map
  if (typeof map !== 'object' || map === null) throw new SafetensorsError(`${path}: has no weight_map`)
  // A name that leads out of the folder would read what the user did not ask for.
  for (const [name, file] of Object.entries(map))
    if (typeof file !== 'string' || basename(file) !== file || !file.endsWith('.safetensors'))
      throw new SafetensorsError(
        `${path}: tensor ${JSON.stringify(name)} is in ${JSON.stringify(file)}, which is no shard's name`,
      )
  return new Map(Object.entries(map as Record<string, string>))
}

/** The header's bytes with its length before it, and the tensors in the order in which they stand in the file. */
function layOut(entries: readonly TensorEntry[], metadata: Record<string, string>, file: string) {
  const fail =
    (name: string) =>
    (why: string): never => {
      throw new SafetensorsError(`${file}: tensor ${JSON.stringify(name)}: ${why}`)
    }
  // Wide types first, as the format's own library does: every tensor is then aligned to its type.
  const sorted = entries
    .map((entry) => ({
      entry,
      bits: bitsOf[formatOf[entry.dtype]] ?? fail(entry.name)(`dtype ${entry.dtype} is not written`),
    }))
    .sort((a, b) => b.bits - a.bits || (a.entry.name < b.entry.name ? -1 : a.entry.name > b.entry.name ? 1 : 0))
  const lines: string[] = Object.keys(metadata).length ? [`"__metadata__":${JSON.stringify(metadata)}`] : []
  const seen = new Set(['__metadata__'])
  let at = 0
  const tensors = sorted.map(({ entry, bits }) => {
    const { name, shape, dtype } = entry
    if (seen.has(name)) fail(name)(name === '__metadata__' ? 'the name is the format’s own' : 'stands twice')
    seen.add(name)
    if (/\p{Surrogate}/u.test(name)) fail(name)('the name is not Unicode')
    if (!shape.every(isSize)) fail(name)(`shape [${shape}] is not a list of sizes`)
    const bytes = byteLength(shape, bits, fail(name))
    const description = { dtype: formatOf[dtype], shape, data_offsets: [at, at + bytes] }
    lines.push(`${JSON.stringify(name)}:${JSON.stringify(description)}`)
    at += bytes
    return { entry, bytes }
  })
  const json = Buffer.from(`{${lines.join(',')}}`)
  const length = Math.ceil(json.length / 8) * 8
  if (length > maxHeader)
    throw new SafetensorsError(`${file}: the header is ${length} bytes but must be at most ${maxHeader}`)
  const header = new Uint8Array(8 + length).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true)
  header.set(json, 8)
  return { header, tensors }
}

/**
 * Writes a safetensors file through an open writer, one tensor in memory at a time.
 * @throws SafetensorsError when a name stands twice or data does not fit its shape and dtype
 */
export async function writeSafetensorsTo(
  writer: Pick<DiskWriter, 'path' | 'write'>,
  entries: readonly TensorEntry[],
  metadata: Record<string, string> = {},
): Promise<void> {
  const { header, tensors } = layOut(entries, metadata, writer.path)
  await writer.write(header)
  for (const { entry, bytes } of tensors) {
    const view = typeof entry.data === 'function' ? await entry.data() : entry.data
    if (view.byteLength !== bytes)
      throw new SafetensorsError(
        `${writer.path}: tensor ${JSON.stringify(entry.name)}: has ${view.byteLength} bytes but ${entry.dtype} [${entry.shape}] needs ${bytes}`,
      )
    await writer.write(new Uint8Array(view.buffer, view.byteOffset, view.byteLength))
  }
}

/** Writes one safetensors file: `path` is the old file or the whole new one at every moment, also if the machine stops. */
export async function writeSafetensors(
  path: string,
  entries: readonly TensorEntry[],
  metadata: Record<string, string> = {},
  disk: Disk = realDisk,
): Promise<void> {
  await replaceFile(disk, path, (writer) => writeSafetensorsTo(writer, entries, metadata))
}

/** Where a file of a model goes: given its name and how to write it. */
export type PutFile = (name: string, body: (writer: DiskWriter) => Promise<void>) => Promise<void>

/** The size above which a model is written in shards, in bytes: 5 GB, as Hugging Face. */
export const maxShardBytes = 5e9

/**
 * Writes a model's weights into a folder as Hugging Face does: `model.safetensors`, or above `shardBytes` numbered shards
 * and `model.safetensors.index.json`. A tensor larger than a shard has one of its own.
 * @param put writes one file; the index comes last
 */
export async function writeModel(
  put: PutFile,
  entries: readonly TensorEntry[],
  shardBytes = maxShardBytes,
): Promise<void> {
  const shards: TensorEntry[][] = []
  let size = 0
  let total = 0
  for (const entry of entries) {
    const bytes = entry.shape.reduce((a, n) => a * n, bitsOf[formatOf[entry.dtype]]! / 8)
    if (shards.length === 0 || (size > 0 && size + bytes > shardBytes)) {
      shards.push([])
      size = 0
    }
    shards.at(-1)!.push(entry)
    size += bytes
    total += bytes
  }
  const metadata = { format: 'pt' }
  if (shards.length <= 1) return put('model.safetensors', (writer) => writeSafetensorsTo(writer, entries, metadata))
  const digits = (n: number) => String(n).padStart(5, '0')
  const map: Record<string, string> = {}
  for (const [i, shard] of shards.entries()) {
    const file = `model-${digits(i + 1)}-of-${digits(shards.length)}.safetensors`
    for (const { name } of shard) {
      if (Object.hasOwn(map, name)) throw new SafetensorsError(`${file}: tensor ${JSON.stringify(name)}: stands twice`)
      map[name] = file
    }
    await put(file, (writer) => writeSafetensorsTo(writer, shard, metadata))
  }
  const index = { metadata: { total_size: total }, weight_map: map }
  await put(indexName, (writer) => writer.write(`${JSON.stringify(index, null, 2)}\n`))
}

/** Writes a model's weights into a folder that may hold older ones, which go when the new are there. */
export async function saveModel(
  folder: string,
  entries: readonly TensorEntry[],
  options: { shardBytes?: number; disk?: Disk } = {},
): Promise<void> {
  const disk = options.disk ?? realDisk
  const written = new Set<string>()
  try {
    await disk.mkdir(folder, { recursive: true })
  } catch (e) {
    throw diskError('create', folder, e)
  }
  await writeModel(
    async (name, body) => {
      await replaceFile(disk, join(folder, name), body)
      written.add(name)
    },
    entries,
    options.shardBytes,
  )
  const ours = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/
  for (const name of (await listFolder(disk, folder)) ?? [])
    if (ours.test(name) && !written.has(name)) await disk.rm(join(folder, name), { recursive: true, force: true })
}
