import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { writeShard } from '../../lib/data/shards.ts'
import { encodeText, findFiles, loadTokens } from '../../lib/data/text.ts'
import { loadTokenizer, type Tokenizer } from '../../lib/data/tokenizer.ts'
import { ConfigError } from '../../lib/nn/fields.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-text-'))
afterAll(() => rmSync(folder, { recursive: true }))
const at = (name: string) => join(folder, name)
const files: Record<string, string> = {
  'a.txt': 'first\n',
  'b.md': 'second\n',
  'sub/c.txt': 'third\n',
  'sub/deep/d.txt': 'fourth\n',
  'sub/.hidden/e.txt': 'hidden\n',
  'x+(y).txt': 'odd\n',
}
let bytes: Tokenizer
let gpt2: Tokenizer
beforeAll(async () => {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(at(name), '..'), { recursive: true })
    writeFileSync(at(name), text)
  }
  symlinkSync(at('sub'), at('sub/loop'))
  bytes = await loadTokenizer('bytes')
  gpt2 = await loadTokenizer('gpt2')
})

describe('findFiles', () => {
  test.each([
    ['a.txt', ['a.txt']],
    ['x+(y).txt', ['x+(y).txt']],
    ['', ['a.txt', 'b.md', 'sub/c.txt', 'sub/deep/d.txt', 'x+(y).txt']],
    ['*.txt', ['a.txt', 'x+(y).txt']],
    ['?.*', ['a.txt', 'b.md']],
    ['x+(*).txt', ['x+(y).txt']],
    ['sub/*.txt', ['sub/c.txt']],
    ['*/*.txt', ['sub/c.txt']],
    ['**/*.txt', ['a.txt', 'sub/c.txt', 'sub/deep/d.txt', 'x+(y).txt']],
    ['sub/**/d.txt', ['sub/deep/d.txt']],
    ['sub/**', ['sub/c.txt', 'sub/deep/d.txt']],
  ])('%s', (pattern, found) => {
    expect(findFiles(join(folder, pattern)).map((f) => relative(folder, f))).toEqual(found)
    const here = relative(process.cwd(), folder)
    expect(findFiles(join(here, pattern)).map((f) => relative(folder, f))).toEqual(found)
  })
  test('the corpus of the first example', () => {
    const all = readdirSync('node_modules/typescript/lib')
      .filter((name) => name.endsWith('.d.ts'))
      .sort()
    expect(
      findFiles('node_modules/typescript/lib/*.d.ts').map((f) => f.slice('node_modules/typescript/lib/'.length)),
    ).toEqual(all)
    expect(all.length).toBeGreaterThan(50)
  })
  test('none', () => {
    expect(() => findFiles(at('none.txt'))).toThrow(`${at('none.txt')} does not exist`)
    expect(() => findFiles(at('*.rs'))).toThrow(`${at('*.rs')} matches no files`)
    expect(() => findFiles(at('none/*.rs'))).toThrow('matches no files')
    mkdirSync(at('empty'))
    expect(() => findFiles(at('empty'))).toThrow('is a folder without files')
    rmSync(at('empty'), { recursive: true })
  })
})

describe('loadTokens', () => {
  const load = (name: string, t = bytes, vocabSize = 256, field?: string) =>
    loadTokens(at(name), t, { vocabSize, field })
  test('text: bytes are the ids', async () => {
    const { source, tokenizer, bytes: size } = await load('**/*.txt')
    const text = 'first\nthird\nfourth\nodd\n'
    expect(Buffer.from(source.read(0, source.length)).toString()).toBe(text)
    expect([tokenizer, size, source.length]).toEqual(['bytes', text.length, text.length])
  })
  test('text: gpt2', async () => {
    const { source } = await load('a.txt', gpt2, 50304)
    expect([...source.read(0, source.length)]).toEqual([...gpt2.encode('first\n')])
    const all = await load('*.txt', gpt2, 50304)
    expect(gpt2.decode(all.source.read(0, all.source.length))).toBe('first\nodd\n')
  })
  test('a .bin is ids whatever the tokenizer is; several are one', async () => {
    mkdirSync(at('bins'))
    await writeShard(at('bins/0.bin'), [[1, 2]], { vocab_size: 100, tokenizer: 'gpt2' })
    await writeShard(at('bins/1.bin'), [[3]], { vocab_size: 100, tokenizer: 'gpt2' })
    const one = await load('bins/0.bin', gpt2, 100)
    expect([one.tokenizer, ...one.source.read(0, 2)]).toEqual(['gpt2', 1, 2])
    const both = await load('bins/*.bin', bytes, 256)
    expect([...both.source.read(0, 3)]).toEqual([1, 2, 3])
  })
  test('errors name the field and the file', async () => {
    const fails = async (loading: Promise<unknown>, field: string, message: string) => {
      await expect(loading).rejects.toThrow(ConfigError)
      await expect(loading).rejects.toMatchObject({ field, message: `${field}${message}` })
    }
    writeFileSync(at('empty.txt'), '')
    writeFileSync(at('latin1.txt'), Buffer.from([0x66, 0xe9, 0x0a]))
    writeFileSync(at('odd.bin'), Buffer.alloc(3))
    writeFileSync(at('big.bin'), Uint16Array.of(5, 300))
    await fails(load('none.txt', bytes, 256, 'data.val'), 'data.val', `: ${at('none.txt')} does not exist`)
    await fails(load('empty.txt'), 'data.train', `: ${at('empty.txt')} is empty`)
    await fails(load('latin1.txt', gpt2, 50257), 'data.train', `: ${at('latin1.txt')} is not UTF-8 text`)
    await fails(
      load('odd.bin'),
      'data.train',
      `: ${at('odd.bin')} has 3 bytes of tokens, which is not a whole number of uint16`,
    )
    await fails(
      load('big.bin'),
      'data.train',
      `: ${at('big.bin')} has token 300 at position 1, but the vocabulary has 256 (0 to 255)`,
    )
    await fails(
      load('a.txt', gpt2, 256),
      'model.vocab_size',
      ' is 256 but must be at least the 50257 of the tokenizer gpt2',
    )
    await fails(
      load('bins/*.bin', bytes, 99),
      'model.vocab_size',
      ` is 99 but must be at least the 100 of ${at('bins/0.bin')}`,
    )
    await fails(load(''), 'data.train', `: ${folder} holds both shards and text, such as ${at('big.bin')}`)
    mkdirSync(at('mixed'))
    writeFileSync(at('mixed/a.txt'), 'a')
    writeFileSync(at('mixed/b.png'), Buffer.from([1, 0, 2]))
    await fails(
      load('mixed'),
      'data.train',
      `: ${at('mixed/b.png')} is not text: byte 1 is 0; choose the files by a glob such as *.txt`,
    )
    // Alone it is what the user asked for.
    expect((await load('mixed/b.png')).source.length).toBe(3)
    expect((await load('latin1.txt')).source.length).toBe(3)
  })
})

test('a long text in pieces has the same GPT-2 ids as at once', () => {
  const text = readFileSync('node_modules/typescript/lib/lib.dom.d.ts', 'utf8').slice(0, 1_500_000)
  const odd = `${text.slice(0, 2 ** 20 - 3)}\n\n  \n\n${'x '.repeat(50)}\r\n${text.slice(2 ** 20, 2 ** 20 + 50_000)}`
  for (const t of [text, odd]) {
    const pieces = [...encodeText('f', Buffer.from(t), gpt2)]
    expect(pieces.length).toBe(2)
    const ids = pieces.flatMap((p) => [...p])
    const once = [...gpt2.encode(t)]
    expect(ids.length).toBe(once.length)
    expect(ids.every((id, i) => id === once[i])).toBe(true)
  }
})
