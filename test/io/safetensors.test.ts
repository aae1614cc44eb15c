import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import {
  parseSafetensors,
  SafetensorsError,
  SafetensorsReader,
  type StoredDtype,
  saveModel,
  type TensorEntry,
  writeSafetensors,
  writeSafetensorsTo,
} from '../../lib/io/safetensors.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-safetensors-'))
afterAll(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'x.safetensors')
const golden = (name: string) => new URL(`../golden/${name}`, import.meta.url).pathname

/** A file from a header's text, as the format defines it. */
function file(header: string, data = 0, padTo = 0): Uint8Array {
  const json = Buffer.from(header.padEnd(padTo))
  const bytes = new Uint8Array(8 + json.length + data)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true)
  bytes.set(json, 8)
  return bytes
}
const one = (dtype: string, shape: unknown, offsets: unknown, data: number) =>
  file(JSON.stringify({ x: { dtype, shape, data_offsets: offsets } }), data)

describe('the format’s rules', () => {
  const cases: [string, Uint8Array, string][] = [
    ['empty file', new Uint8Array(0), 'f: is 0 bytes, too short for a safetensors file'],
    ['seven bytes', new Uint8Array(7), 'f: is 7 bytes, too short'],
    [
      'header longer than the file',
      file('{}').subarray(0, 9),
      'f: the header is 2 bytes but the file ends after 1 of them',
    ],
    ['empty header', file(''), 'f: the header does not start with "{"'],
    ['space before {', file(' {}'), 'f: the header does not start with "{"'],
    ['not JSON', file('{"x":}'), 'f: the header is not JSON'],
    ['text after the header', file('{}x'), 'f: the header is not JSON'],
    ['not UTF-8', file('{"x":1}').fill(0xff, 10, 11), 'f: the header is not UTF-8'],
    ['metadata a list', file('{"__metadata__":[]}'), 'f: __metadata__ is not an object'],
    ['metadata a number', file('{"__metadata__":{"a":1}}'), 'f: __metadata__ has "a", which is not a string'],
    ['entry a number', file('{"x":1}'), 'f: tensor "x": its entry is not an object'],
    [
      'unknown dtype',
      one('F31', [1], [0, 4], 4),
      'f: tensor "x": dtype "F31" is not one of the format’s'.replace('’', "'"),
    ],
    ['dtype of Object', one('toString', [1], [0, 4], 4), 'f: tensor "x": dtype "toString" is not'],
    ['no shape', one('F32', undefined, [0, 4], 4), 'f: tensor "x": shape undefined is not a list of sizes'],
    ['negative size', one('F32', [-1], [0, 4], 4), 'f: tensor "x": shape [-1] is not a list'],
    ['fraction', one('F32', [0.5], [0, 2], 2), 'f: tensor "x": shape [0.5] is not a list'],
    ['size above 2^53', one('F32', [2 ** 53], [0, 4], 4), 'f: tensor "x": shape [9007199254740992] is not a list'],
    [
      'overflow',
      one('F32', [2 ** 40, 2 ** 40], [0, 4], 4),
      'f: tensor "x": shape [1099511627776,1099511627776] is too large',
    ],
    ['overflow, then none', one('F32', [2 ** 40, 2 ** 40, 0], [0, 0], 0), 'is too large'],
    ['one offset', one('F32', [1], [0], 4), 'f: tensor "x": data_offsets [0] is not a pair'],
    ['backwards', one('F32', [0], [4, 0], 4), 'f: tensor "x": data_offsets [4, 0] end before they begin'],
    ['size and shape differ', one('F32', [2], [0, 4], 4), 'data_offsets [0, 4] hold 4 bytes, but F32 [2] needs 8'],
    ['does not begin at 0', one('F32', [1], [4, 8], 8), 'f: tensor "x": begins at 4 but must begin at 0 (a hole)'],
    ['cut short', one('F32', [2], [0, 8], 7), 'f: the tensors end at 8 but the file has 7 bytes of them (cut short)'],
    [
      'extra bytes',
      one('F32', [2], [0, 8], 9),
      'f: the tensors end at 8 but the file has 9 bytes of them (extra bytes)',
    ],
    ['bytes without tensors', file('{}', 1), 'f: the tensors end at 0 but the file has 1 bytes'],
    ['half a byte', one('F4', [3], [0, 1], 1), 'f: tensor "x": shape [3] ends within a byte'],
    [
      'hole',
      file(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}',
        3,
      ),
      'f: tensor "b": begins at 2 but must begin at 1 (a hole)',
    ],
    [
      'overlap',
      file(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        3,
      ),
      'f: tensor "b": begins at 1 but must begin at 2 (an overlap)',
    ],
    [
      'a name twice',
      file(
        '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      ),
      'f: the header has "a" twice',
    ],
    ['metadata twice', file('{"__metadata__":{},"__metadata__":{}}'), 'f: the header has "__metadata__" twice'],
    ['a key of metadata twice', file('{"__metadata__":{"k":"1","k":"2"}}'), 'f: the header has "k" twice'],
    ['dtype twice', file('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), 'has "dtype" twice'],
  ]
  test.each(cases)('%s', async (_, bytes, message) => {
    expect(() => parseSafetensors(bytes, 'f')).toThrow(SafetensorsError)
    expect(() => parseSafetensors(bytes, 'f')).toThrow(message)
    // The lazy reader says the same, of the file.
    writeFileSync(path, bytes)
    await expect(SafetensorsReader.open(path)).rejects.toThrow(message.replace(/^f:/, `${path}:`))
  })
  test('a header above 100,000,000 bytes', () => {
    const bytes = new Uint8Array(16)
    new DataView(bytes.buffer).setBigUint64(0, 100_000_001n, true)
    expect(() => parseSafetensors(bytes, 'f')).toThrow('the header is 100000001 bytes but must be at most 100000000')
    new DataView(bytes.buffer).setBigUint64(0, 2n ** 64n - 1n, true)
    expect(() => parseSafetensors(bytes, 'f')).toThrow('the header is 18446744073709551615 bytes but must be at most')
    new DataView(bytes.buffer).setBigUint64(0, 100_000_000n, true)
    expect(() => parseSafetensors(bytes, 'f')).toThrow('but the file ends after 8 of them')
  })
  test('what is allowed', () => {
    expect(parseSafetensors(file('{}')).tensors.size).toBe(0)
    expect(parseSafetensors(file('{}', 0, 8)).tensors.size).toBe(0)
    expect(parseSafetensors(one('F32', [], [0, 4], 4)).tensors.get('x')).toMatchObject({ shape: [], dtype: 'float32' })
    expect(parseSafetensors(one('F32', [0, 3], [0, 0], 0)).tensors.get('x')!.data.length).toBe(0)
    // Not ours to read, but a whole file all the same.
    expect(parseSafetensors(one('F8_E4M3', [3], [0, 3], 3)).tensors.get('x')).toMatchObject({
      dtype: undefined,
      format: 'F8_E4M3',
    })
    const names = file(
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"__proto__":"p"}}',
      1,
    )
    expect(parseSafetensors(names).tensors.get('__proto__')!.data.length).toBe(1)
    expect(Object.entries(parseSafetensors(names).metadata)).toEqual([['__proto__', 'p']])
    const quoted = file(
      '{"__metadata__":{"a\\"b":"\\"c\\":{}[]\\\\"},"x:":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}',
      1,
    )
    expect(parseSafetensors(quoted).metadata).toEqual({ 'a"b': '"c":{}[]\\' })
  })
})

const sizes: Record<StoredDtype, number> = {
  float64: 8,
  float32: 4,
  bfloat16: 2,
  float16: 2,
  int64: 8,
  int32: 4,
  uint8: 1,
  bool: 1,
}
const entry = fc
  .record({
    name: fc
      .string({ unit: 'grapheme', minLength: 0, maxLength: 12 })
      .filter((s) => s !== '__metadata__' && !/\p{Surrogate}/u.test(s)),
    dtype: fc.constantFrom(...(Object.keys(sizes) as StoredDtype[])),
    shape: fc.array(fc.nat(4), { maxLength: 4 }),
    seed: fc.nat(),
  })
  .map(({ name, dtype, shape, seed }) => {
    const data = new Uint8Array(shape.reduce((a, n) => a * n, sizes[dtype])).map((_, i) => seed * 31 + i * 7)
    return { name, dtype, shape, data }
  })
const entries = fc.uniqueArray(entry, { selector: (e) => e.name, maxLength: 8 })
const metadata = fc.dictionary(fc.string({ minLength: 1 }), fc.string(), { maxKeys: 3, noNullPrototype: true })

/** What the writer writes, without waiting for the disk. */
async function inMemory(list: TensorEntry[], meta?: Record<string, string>): Promise<Uint8Array> {
  const parts: Buffer[] = []
  const write = async (data: Uint8Array | string) => void parts.push(Buffer.from(data as Uint8Array))
  await writeSafetensorsTo({ path: 'memory', write }, list, meta)
  return Buffer.concat(parts)
}

describe('what is written reads back', () => {
  test('property', async () => {
    await fc.assert(
      fc.asyncProperty(entries, metadata, async (list, meta) => {
        const bytes = await inMemory(list, meta)
        const parsed = parseSafetensors(bytes)
        writeFileSync(path, bytes)
        expect(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true) % 8n).toBe(0n)
        expect(Object.entries(parsed.metadata).sort()).toEqual(Object.entries(meta).sort())
        expect(parsed.tensors.size).toBe(list.length)
        for (const e of list) {
          const t = parsed.tensors.get(e.name)!
          expect([t.dtype, t.shape, Buffer.from(t.data)]).toEqual([e.dtype, e.shape, Buffer.from(e.data)])
          expect(t.offsets[0] % sizes[e.dtype]).toBe(0)
        }
        const reader = await SafetensorsReader.open(path)
        for (const e of list) expect(Buffer.from((await reader.read(e.name)).data)).toEqual(Buffer.from(e.data))
        await reader.close()
      }),
      { numRuns: 100 },
    )
  })
  test('views, functions and promises bring the data', async () => {
    const values = new Float32Array([9, 1.5, -2]).subarray(1)
    await writeSafetensors(path, [
      { name: 'view', dtype: 'float32', shape: [2], data: values },
      { name: 'lazy', dtype: 'float32', shape: [2], data: () => values },
      { name: 'later', dtype: 'float32', shape: [2], data: async () => values },
    ])
    const { tensors } = parseSafetensors(readFileSync(path))
    for (const t of tensors.values()) expect([...new Float32Array(t.data.slice().buffer)]).toEqual([1.5, -2])
    expect([...tensors.keys()].sort()).toEqual(['later', 'lazy', 'view'])
  })
  const x = { name: 'x', dtype: 'float32', shape: [2], data: new Float32Array(2) } as const
  test.each<[string, TensorEntry[], string]>([
    ['twice', [x, x], 'tensor "x": stands twice'],
    ['too few bytes', [{ ...x, shape: [3] }], 'tensor "x": has 8 bytes but float32 [3] needs 12'],
    ['bad shape', [{ ...x, shape: [-2] }], 'tensor "x": shape [-2] is not a list of sizes'],
    ['reserved name', [{ ...x, name: '__metadata__' }], 'the name is'],
    ['not Unicode', [{ ...x, name: '\ud800' }], 'the name is not Unicode'],
    ['unknown type', [{ ...x, dtype: 'int16' as 'int32' }], 'dtype int16 is not written'],
  ])('refuses: %s; the old file stays', async (_, list, message) => {
    await writeSafetensors(path, [x])
    const before = readFileSync(path)
    await expect(writeSafetensors(path, list)).rejects.toThrow(message)
    expect(readFileSync(path)).toEqual(before)
    expect(readdirSync(folder).filter((n) => n.includes('.tmp-'))).toEqual([])
  })
})

test('files of PyTorch’s library', () => {
  const { tensors, metadata } = parseSafetensors(readFileSync(golden('ops/polynorm_r3_3x1536.safetensors')))
  expect(tensors.get('x')).toMatchObject({ dtype: 'float64', shape: [3, 1536] })
  expect(Object.keys(metadata).length).toBeGreaterThan(0)
  const { tensors: init } = parseSafetensors(readFileSync(golden('dense_polynorm/init.safetensors')))
  expect(init.get('model.embed_tokens.weight')).toMatchObject({ dtype: 'float32', shape: [256, 64] })
  expect(init.get('model.layers.0.mlp.act_fn.weight')!.shape).toEqual([3])
})

test('mutated files are refused or read, never anything else', () => {
  const good = readFileSync(golden('ops/polynorm_r3_7x33.safetensors'))
  const header = 8 + Number(new DataView(good.buffer, good.byteOffset).getBigUint64(0, true))
  const change = fc.tuple(fc.nat(header + 8), fc.nat(255), fc.constantFrom('set', 'insert', 'delete', 'swap digit'))
  let refused = 0
  let read = 0
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 3 }), (changes) => {
      const bytes = [...good]
      for (const [at, value, kind] of changes)
        if (kind === 'set') bytes[at] = value
        else if (kind === 'insert') bytes.splice(at, 0, value)
        else if (kind === 'delete') bytes.splice(at, 1)
        else if (bytes[at]! >= 48 && bytes[at]! <= 57) bytes[at] = 48 + (value % 10)
      try {
        const { tensors } = parseSafetensors(Uint8Array.from(bytes), 'f')
        // Whatever is accepted obeys the rules: the tensors tile the data.
        const sum = [...tensors.values()].reduce((a, t) => a + t.data.length, 0)
        const length = Number(new DataView(Uint8Array.from(bytes).buffer).getBigUint64(0, true))
        expect(sum).toBe(bytes.length - 8 - length)
        read++
      } catch (e) {
        expect(e).toBeInstanceOf(SafetensorsError)
        expect((e as Error).message).toMatch(/^f: /)
        refused++
      }
    }),
    { numRuns: 1500 },
  )
  expect(refused).toBeGreaterThan(500)
  expect(read).toBeGreaterThan(10)
})

describe('folders and shards', () => {
  const model = (n: number, scale = 1): TensorEntry[] =>
    Array.from({ length: n }, (_, i) => ({
      name: `w${i}`,
      dtype: 'float32',
      shape: [10],
      data: new Float32Array(10).fill(i * scale),
    }))
  const first = async (dir: string, name: string) => {
    const reader = await SafetensorsReader.open(dir)
    const value = new Float32Array((await reader.read(name)).data.buffer)[0]
    await reader.close()
    return value
  }
  test('above the limit: shards with an index, as Hugging Face names them', async () => {
    const dir = join(folder, 'sharded')
    await saveModel(dir, model(5), { shardBytes: 80 })
    expect(readdirSync(dir).sort()).toEqual([
      'model-00001-of-00003.safetensors',
      'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
      'model.safetensors.index.json',
    ])
    const index = JSON.parse(readFileSync(join(dir, 'model.safetensors.index.json'), 'utf8'))
    expect(index.metadata.total_size).toBe(200)
    expect(index.weight_map).toEqual({
      w0: 'model-00001-of-00003.safetensors',
      w1: 'model-00001-of-00003.safetensors',
      w2: 'model-00002-of-00003.safetensors',
      w3: 'model-00002-of-00003.safetensors',
      w4: 'model-00003-of-00003.safetensors',
    })
    for (const i of [0, 3, 4]) expect(await first(dir, `w${i}`)).toBe(i)
    expect(await first(join(dir, 'model.safetensors.index.json'), 'w4')).toBe(4)
  })
  test('old files go when the new ones are there', async () => {
    const dir = join(folder, 'again')
    mkdirSync(dir)
    writeFileSync(join(dir, 'config.json'), '{}')
    await saveModel(dir, model(5), { shardBytes: 80 })
    await saveModel(dir, model(5, 2))
    expect(readdirSync(dir).sort()).toEqual(['config.json', 'model.safetensors'])
    expect(await first(dir, 'w4')).toBe(8)
    await saveModel(dir, model(5, 3), { shardBytes: 100 })
    expect(readdirSync(dir)).not.toContain('model.safetensors')
    expect(await first(dir, 'w4')).toBe(12)
  })
  test('a tensor larger than a shard has one of its own', async () => {
    const dir = join(folder, 'large')
    await saveModel(dir, model(3), { shardBytes: 1 })
    expect(readdirSync(dir).length).toBe(4)
  })
  const broken = async (edit: (index: { weight_map: Record<string, unknown> }) => unknown) => {
    const dir = join(folder, 'broken')
    await saveModel(dir, model(4), { shardBytes: 80 })
    const at = join(dir, 'model.safetensors.index.json')
    const index = JSON.parse(readFileSync(at, 'utf8'))
    writeFileSync(at, JSON.stringify(edit(index) ?? index))
    return SafetensorsReader.open(dir)
  }
  test('an index at odds with its shards', async () => {
    await expect(broken((x) => void Object.assign(x.weight_map, { w0: x.weight_map.w3 }))).rejects.toThrow(
      'tensor "w0" is not in model-00002',
    )
    await expect(broken((x) => void delete x.weight_map.w0)).rejects.toThrow('does not list tensor "w0"')
    await expect(broken((x) => void Object.assign(x.weight_map, { w0: '../x.safetensors' }))).rejects.toThrow(
      'which is no shard',
    )
    await expect(broken((x) => void Object.assign(x.weight_map, { w0: 'y.safetensors' }))).rejects.toThrow(
      /cannot read .*y.safetensors: no such file/,
    )
    await expect(broken(() => [])).rejects.toThrow('has no weight_map')
    await expect(broken(() => ({ weight_map: 3 }))).rejects.toThrow('has no weight_map')
  })
  test('nothing to open', async () => {
    await expect(SafetensorsReader.open(join(folder, 'nothing'))).rejects.toThrow('no such file or folder (ENOENT)')
    mkdirSync(join(folder, 'empty'))
    await expect(SafetensorsReader.open(join(folder, 'empty'))).rejects.toThrow('holds neither model.safetensors nor')
  })
  test('a tensor of 5 GB is passed over without being read', async () => {
    const large = 5e9
    const entry = (shape: number[], begin: number, end: number) => ({ dtype: 'U8', shape, data_offsets: [begin, end] })
    const header = file(JSON.stringify({ large: entry([large], 0, large), small: entry([3], large, large + 3) }))
    // A file with a hole: the disk holds a few kilobytes of it.
    const fd = openSync(path, 'w')
    writeSync(fd, header)
    writeSync(fd, Uint8Array.of(7, 8, 9), 0, 3, header.length + large)
    closeSync(fd)
    const reader = await SafetensorsReader.open(path)
    expect([...(await reader.read('small')).data]).toEqual([7, 8, 9])
    expect(reader.tensors.get('large')!.offsets).toEqual([0, large])
    await reader.close()
    rmSync(path)
  })
  test('no such tensor, a type that is not read, a file cut while open', async () => {
    writeFileSync(path, one('U16', [3], [0, 6], 6))
    const reader = await SafetensorsReader.open(path)
    await expect(reader.read('y')).rejects.toThrow(`${path}: has no tensor "y"`)
    await expect(reader.read('x')).rejects.toThrow('tensor "x": dtype U16 is not read; those that are: F64, F32')
    await reader.close()
    await writeSafetensors(path, model(2))
    const again = await SafetensorsReader.open(path)
    truncateSync(path, statSync(path).size - 4)
    await expect(again.read('w1')).rejects.toThrow('the file was cut short while open')
    await again.close()
  })
})
