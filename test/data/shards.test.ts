import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import {
  DataError,
  joinTokens,
  memoryTokens,
  metaPath,
  openShard,
  withinVocabulary,
  writeShard,
} from '../../lib/data/shards.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-shards-'))
afterAll(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'x.bin')
const meta = join(folder, 'x.meta.json')
const write = (data: NodeJS.ArrayBufferView, sidecar?: object) => {
  rmSync(meta, { force: true })
  writeFileSync(path, data)
  if (sidecar) writeFileSync(meta, JSON.stringify(sidecar))
}
const llmc = (tokens: number[], head: number[] = [20240520, 1, tokens.length]) => {
  const header = new Int32Array(256)
  header.set(head)
  return Buffer.concat([Buffer.from(header.buffer), Buffer.from(Uint16Array.from(tokens).buffer)])
}
const all = (s: { length: number; read(a: number, n: number): ArrayLike<number> }) => Array.from(s.read(0, s.length))

describe('openShard', () => {
  test('nanoGPT: plain uint16', () => {
    write(Uint16Array.from([1, 2, 65535]))
    const shard = openShard(path)
    expect([shard.length, all(shard)]).toEqual([3, [1, 2, 65535]])
    expect([...shard.read(1, 1)]).toEqual([2])
    expect(shard.meta).toBeUndefined()
    shard.close()
  })
  test('llm.c: a header of 256 int32', () => {
    write(llmc([7, 8, 50256]))
    expect(all(openShard(path))).toEqual([7, 8, 50256])
  })
  test('llm.c: uint32 of its Llama 3 shards', () => {
    const header = new Int32Array(256)
    header.set([20240801, 7, 2])
    write(Buffer.concat([Buffer.from(header.buffer), Buffer.from(Uint32Array.from([128000, 3]).buffer)]))
    expect(all(openShard(path))).toEqual([128000, 3])
  })
  test.each([meta, `${path}.meta.json`])('uint32 by the sidecar %#', (at) => {
    write(Uint32Array.from([70000, 3]))
    writeFileSync(at, JSON.stringify({ dtype: 'uint32', vocab_size: 100000, tokenizer: 't', tokens: 2 }))
    const shard = openShard(path)
    expect(all(shard)).toEqual([70000, 3])
    expect(shard.meta).toMatchObject({ vocab_size: 100000, tokenizer: 't' })
    rmSync(at)
  })
  test('a golden run’s tokens', () => {
    const golden = openShard(new URL('../golden/dense_polynorm/tokens.bin', import.meta.url).pathname)
    expect(golden.length).toBe(40 * 2 * 4 * 64 + 1)
    expect(Buffer.from(golden.read(0, 13)).toString()).toBe('First Citizen')
  })
  test('windows anywhere', () => {
    const ids = Uint16Array.from({ length: 5000 }, (_, i) => (i * 7919) % 65536)
    write(ids)
    const shard = openShard(path)
    fc.assert(
      fc.property(fc.nat(5000), fc.nat(5000), (a, b) => {
        const [from, to] = a < b ? [a, b] : [b, a]
        expect(shard.read(from, to - from)).toEqual(ids.slice(from, to))
      }),
    )
    expect(() => shard.read(4999, 2)).toThrow('has 5000 tokens, but those from 4999 to 5001 were asked for')
    expect(() => shard.read(-1, 2)).toThrow(DataError)
  })
  // Without the pages that are gone, and within the last one that is left, which reads on as zeros.
  test.each([100, 4096, 9998])('a file that is cut to %i bytes while it is open', (bytes) => {
    const ids = Uint16Array.from({ length: 5000 }, (_, i) => i)
    write(ids)
    const shard = openShard(path)
    expect(shard.read(0, 5000)).toEqual(ids)
    truncateSync(path, bytes)
    for (const from of [bytes / 2 - 19, 4980])
      expect(() => shard.read(from, 20)).toThrow(new DataError(path, 'was cut short while it was open'))
    expect(shard.read(0, bytes / 2)).toEqual(ids.subarray(0, bytes / 2))
    shard.close()
  })
  test('is mapped until it is closed', () => {
    const alone = join(folder, 'mapped.bin')
    const mapped = () => readFileSync('/proc/self/maps', 'utf8').includes(alone)
    writeFileSync(alone, new Uint16Array(9))
    expect(mapped()).toBe(false)
    const shard = openShard(alone)
    expect(mapped()).toBe(true)
    shard.close()
    expect(mapped()).toBe(false)
    shard.close()
    expect(() => shard.read(0, 1)).toThrow(`${alone} cannot be read: the file is closed`)
  })

  const cases: [string, () => void, string][] = [
    ['missing', () => rmSync(path, { force: true }), 'does not exist'],
    ['empty', () => write(new Uint8Array(0)), 'is empty'],
    ['odd length', () => write(new Uint8Array(5)), 'has 5 bytes of tokens, which is not a whole number of uint16'],
    [
      'odd length of uint32',
      () => write(new Uint8Array(6), { dtype: 'uint32' }),
      'has 6 bytes of tokens, which is not a whole number of uint32',
    ],
    ['header cut short', () => write(llmc([]).subarray(0, 500)), "ends within llm.c's header of 1024 bytes"],
    ['header alone', () => write(llmc([])), 'has no tokens'],
    [
      'llm.c cut short',
      () => write(llmc([1, 2], [20240520, 1, 3])),
      'has 2 tokens but its header says 3: it was cut short',
    ],
    ['llm.c too long', () => write(llmc([1, 2], [20240520, 1, 1])), 'has 2 tokens but its header says 1'],
    [
      'llm.c of another version',
      () => write(llmc([1], [20240520, 2, 1])),
      "has llm.c's magic but version 2; version 1 is read",
    ],
    [
      'cut short by the sidecar',
      () => write(new Uint16Array(3), { tokens: 4 }),
      `has 3 tokens but ${meta} says 4: it was cut short`,
    ],
  ]
  test.each(cases)('%s', (_, make, message) => {
    write(new Uint16Array(1))
    make()
    expect(() => openShard(path)).toThrow(DataError)
    expect(() => openShard(path)).toThrow(`${path} ${message}`)
  })
  test.each([
    ['{', 'is not JSON'],
    ['{"dtype":"int16"}', 'has dtype "int16" but it must be "uint16" or "uint32"'],
    ['{"vocab_size":0}', 'has vocab_size 0 but it must be a whole number above 0'],
    ['{"tokens":"3"}', 'has tokens "3" but it must be'],
  ])('sidecar %s', (text, message) => {
    write(new Uint16Array(1))
    writeFileSync(meta, text)
    expect(() => openShard(path)).toThrow(`${meta} ${message}`)
    rmSync(meta)
  })
  test('a folder', () => expect(() => openShard(folder)).toThrow(`${folder} is a folder`))
})

describe('withinVocabulary', () => {
  test('names the id and its position', () => {
    const source = memoryTokens(Uint16Array.from([1, 2, 300, 256]), 'x.bin')
    expect(() => withinVocabulary(source, 256)).toThrow(
      'x.bin has token 300 at position 2, but the vocabulary has 256 (0 to 255)',
    )
    expect(all(withinVocabulary(source, 301))).toEqual([1, 2, 300, 256])
    expect(() => withinVocabulary(memoryTokens(Int32Array.of(0, -1)), 9)).toThrow('has token -1 at position 1')
  })
  test('a source too large to read through is checked as it is read', () => {
    const length = 2 ** 28 + 1
    const huge = { name: 'huge', length, read: (at: number, n: number) => new Uint16Array(n).fill(at), close: () => {} }
    const source = withinVocabulary(huge, 256)
    expect(source.read(255, 1)[0]).toBe(255)
    expect(() => source.read(256, 3)).toThrow('huge has token 256 at position 256')
  })
})

test('joinTokens reads across the borders', () => {
  const parts = [[1, 2, 3], [4], [5, 6, 70000]].map((p, i) => memoryTokens(Uint32Array.from(p), `p${i}`))
  const joined = joinTokens(parts, 'all')
  const whole = [1, 2, 3, 4, 5, 6, 70000]
  for (let from = 0; from <= 7; from++)
    for (let to = from; to <= 7; to++) expect(Array.from(joined.read(from, to - from))).toEqual(whole.slice(from, to))
  expect(() => joined.read(5, 3)).toThrow('all has 7 tokens')
  expect(joinTokens(parts.slice(0, 1), 'one')).toBe(parts[0])
})

describe('writeShard', () => {
  test('reads back, with its sidecar', async () => {
    const chunks = fc.array(fc.array(fc.nat(99999), { maxLength: 50 }), { minLength: 1, maxLength: 5 })
    await fc.assert(
      fc.asyncProperty(chunks, fc.boolean(), async (lists, wide) => {
        const ids = lists.map((list) => list.map((id) => (wide ? id : id % 1000)))
        fc.pre(ids.flat().length > 0)
        const vocab_size = wide ? 100_000 : 1000
        const info = await writeShard(path, ids, { vocab_size, tokenizer: 'bytes' })
        expect(info).toEqual({
          dtype: wide ? 'uint32' : 'uint16',
          vocab_size,
          tokenizer: 'bytes',
          tokens: ids.flat().length,
        })
        expect(JSON.parse(readFileSync(metaPath(path), 'utf8'))).toEqual(info)
        const shard = openShard(path)
        expect(all(shard)).toEqual(ids.flat())
        shard.close()
      }),
      { numRuns: 30 },
    )
  })
  test('65536 ids fit uint16, one more does not', async () => {
    expect((await writeShard(path, [[65535]], { vocab_size: 65536, tokenizer: 't' })).dtype).toBe('uint16')
    expect((await writeShard(path, [[65536]], { vocab_size: 65537, tokenizer: 't' })).dtype).toBe('uint32')
  })
  test('an id that does not fit leaves the old file', async () => {
    await writeShard(path, [[1, 2]], { vocab_size: 10, tokenizer: 't' })
    const bad = writeShard(path, [[1], [2, 10]], { vocab_size: 10, tokenizer: 't' })
    await expect(bad).rejects.toThrow(`${path} cannot hold token 10 at position 2: the vocabulary has 10`)
    await expect(writeShard(path, [[-1]], { vocab_size: 10, tokenizer: 't' })).rejects.toThrow('token -1 at position 0')
    expect(all(openShard(path))).toEqual([1, 2])
    expect(readdirSync(folder).filter((name) => name.includes('.tmp-'))).toEqual([])
    expect(existsSync(metaPath(path))).toBe(true)
  })
})
