import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DataError } from '../../lib/data/shards.ts'
import { loadTokenizer, saveTokenizer, type Tokenizer } from '../../lib/data/tokenizer.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-tokenizer-'))
afterAll(() => rmSync(folder, { recursive: true }))
const corpus = readFileSync('node_modules/typescript/lib/lib.es5.d.ts', 'utf8').slice(0, 60_000)
const samples = ['', 'a', ' ', '\n\n', "it's  we'll", 'naïve 日本語 👩‍🚀 e\u0301', '  x\t\ty\r\n', '12345 67', corpus]

/** A small tokenizer of the SentencePiece family: ▁ for spaces, bytes for what is unknown, a hole in the ids. */
function sentencePiece() {
  const pieces = [
    '<unk>',
    '<s>',
    '</s>',
    ...Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`),
  ]
  const words = ['▁', 'h', 'e', 'l', 'o', 'he', 'll', 'llo', '▁h', '▁he', 'hello', '▁hello']
  return {
    version: '1.0',
    added_tokens: [
      { id: 700, content: '<end>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
    ],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: '<unk>',
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries([...pieces, ...words].map((piece, id) => [piece, id])),
      merges: ['h e', 'l l', 'll o', '▁ he', 'he llo', '▁he llo'],
    },
  }
}

let tokenizers: Record<string, Tokenizer>
const path = join(folder, 'tokenizer.json')
beforeAll(async () => {
  writeFileSync(path, JSON.stringify(sentencePiece()))
  tokenizers = {
    bytes: await loadTokenizer('bytes'),
    gpt2: await loadTokenizer('gpt2'),
    file: await loadTokenizer(path),
  }
})

describe.each(['bytes', 'gpt2', 'file'])('%s', (name) => {
  test('text comes back', () => {
    const t = tokenizers[name]!
    for (const text of samples.slice(0, name === 'file' ? -1 : undefined)) {
      const ids = t.encode(text)
      expect(t.decode(ids)).toBe(text)
      for (const id of ids) expect(id).toBeLessThan(t.vocabSize)
    }
  })
  test('one id at a time gives the same text, and never half a character', () => {
    const t = tokenizers[name]!
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', maxLength: 12 }).filter((s) => !s.includes('\uFFFD')),
        (text) => {
          const decoder = t.decoder()
          const parts = [...t.encode(text)].map((id) => decoder.push(id))
          for (const part of parts) expect(part).not.toContain('\uFFFD')
          expect(parts.join('') + decoder.end()).toBe(text)
        },
      ),
    )
  })
  test('any ids give some text, the same one by one as at once', () => {
    const t = tokenizers[name]!
    fc.assert(
      fc.property(fc.array(fc.nat(t.vocabSize + 50), { maxLength: 30 }), (ids) => {
        const decoder = t.decoder()
        const streamed = ids.map((id) => decoder.push(id)).join('') + decoder.end()
        if (name !== 'file') expect(streamed).toBe(t.decode(ids))
        expect(typeof t.decode(ids)).toBe('string')
      }),
    )
  })
  test('goes into a folder and comes back', async () => {
    const t = tokenizers[name]!
    const at = join(folder, `saved-${name}`)
    saveTokenizer(t, at)
    expect(readdirSync(at)).toContain('tokenizer.json')
    const back = await loadTokenizer(at)
    expect(back.vocabSize).toBe(t.vocabSize)
    if (name !== 'file') expect(back.name).toBe(name)
    for (const text of samples.slice(0, -1)) expect([...back.encode(text)]).toEqual([...t.encode(text)])
  })
})

test('bytes: the ids 0 to 255 and no others', () => {
  const t = tokenizers.bytes!
  expect([...t.encode('é!')]).toEqual([0xc3, 0xa9, 33])
  expect(t.decode([72, 105, 256, 300, 33])).toBe('Hi\uFFFD\uFFFD!')
  const decoder = t.decoder()
  expect([0xf0, 0x9f, 0x98].map((b) => decoder.push(b))).toEqual(['', '', ''])
  expect(decoder.end()).toBe('\uFFFD')
})

describe('gpt2', () => {
  // From OpenAI's encoder, as Hugging Face's documentation shows them.
  test('known ids', () => {
    const t = tokenizers.gpt2!
    expect([...t.encode('Hello world')]).toEqual([15496, 995])
    expect([...t.encode(' Hello world')]).toEqual([18435, 995])
    expect([...t.encode('a<|endoftext|>')]).toEqual([64, 50256])
    expect(t.decode([50256])).toBe('<|endoftext|>')
    expect(t.vocabSize).toBe(50257)
  })
  // Two implementations by different people: gpt-tokenizer's ids, and Hugging Face's library on the tokenizer.json we write.
  test('the tokenizer.json that a checkpoint keeps gives the same ids', async () => {
    const at = join(folder, 'gpt2-json')
    saveTokenizer(tokenizers.gpt2!, at)
    rmSync(join(at, 'tokenizer_config.json'))
    const other = await loadTokenizer(at)
    expect(other.name).toBe(join(at, 'tokenizer.json'))
    expect(other.vocabSize).toBe(50257)
    for (const text of [...samples, 'x<|endoftext|>y'])
      expect([...other.encode(text)]).toEqual([...tokenizers.gpt2!.encode(text)])
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect([...other.encode(text)]).toEqual([...tokenizers.gpt2!.encode(text)])
        expect(other.decode(other.encode(text))).toBe(text)
      }),
    )
  })
})

test('bytes as a tokenizer.json gives the bytes', async () => {
  const at = join(folder, 'bytes-json')
  saveTokenizer(tokenizers.bytes!, at)
  rmSync(join(at, 'tokenizer_config.json'))
  const other = await loadTokenizer(at)
  expect(other.vocabSize).toBe(256)
  for (const text of samples.slice(0, -1)) expect([...other.encode(text)]).toEqual([...Buffer.from(text)])
})

describe('a tokenizer.json', () => {
  test('ids, added tokens, bytes of what is unknown', () => {
    const t = tokenizers.file!
    const id = (piece: string) => sentencePiece().model.vocab[piece]!
    expect([...t.encode('hello hello')]).toEqual([id('▁hello'), id('▁hello')])
    expect([...t.encode('é')]).toEqual([id('▁'), id('<0xC3>'), id('<0xA9>')])
    expect(t.vocabSize).toBe(701)
    expect(t.decode([id('▁hello'), 700, 800])).toBe('hello<end>')
    expect(t.decode([])).toBe('')
  })
  test('what is none', async () => {
    const fails = async (text: string, message: string) => {
      const at = join(folder, 'bad.json')
      writeFileSync(at, text)
      await expect(loadTokenizer(at)).rejects.toThrow(DataError)
      await expect(loadTokenizer(at)).rejects.toThrow(`${at} ${message}`)
    }
    await fails('{', 'is not JSON')
    await fails('{}', 'is not a tokenizer.json: it has no model')
    await fails('null', 'is not a tokenizer.json')
    await fails('{"model":{"type":"Nonsense"}}', 'is not a tokenizer that can be used')
    await expect(loadTokenizer(join(folder, 'none.json'))).rejects.toThrow('none.json does not exist')
    mkdirSync(join(folder, 'empty'))
    await expect(loadTokenizer(join(folder, 'empty'))).rejects.toThrow('empty/tokenizer.json does not exist')
  })
})

test('the libraries load only when asked for', () => {
  const source = readFileSync('lib/data/tokenizer.ts', 'utf8')
  expect(source).not.toMatch(/^import [^\n]*(gpt-tokenizer|@huggingface)/m)
  expect(source).toMatch(/import\('gpt-tokenizer/)
  // And the names that are imported lazily exist for plain Node.
  const code =
    "await import('gpt-tokenizer/encoding/r50k_base'); await import('gpt-tokenizer/bpeRanks/r50k_base'); await import('@huggingface/tokenizers')"
  execFileSync(process.execPath, ['--input-type=module', '-e', code])
})
