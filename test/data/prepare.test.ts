import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { heldOutPath, prepare } from '../../lib/data/prepare.ts'
import { openShard } from '../../lib/data/shards.ts'
import { loadTokenizer } from '../../lib/data/tokenizer.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-prepare-'))
afterAll(() => rmSync(folder, { recursive: true }))
const out = join(folder, 'out.bin')
const texts = ['The quick brown fox\n', 'jumps over\nthe lazy dog.\n']
for (const [i, text] of texts.entries()) writeFileSync(join(folder, `${i}.txt`), text)
const ids = (path: string) => {
  const shard = openShard(path)
  return [...shard.read(0, shard.length)]
}

test.each(['bytes', 'gpt2'])('text to a shard: %s', async (name) => {
  const tokenizer = await loadTokenizer(name)
  const seen: string[] = []
  const done = await prepare([join(folder, '*.txt')], tokenizer, out, { onFile: (path) => seen.push(path) })
  expect(done).toMatchObject({ files: 2, bytes: texts.join('').length, train: { path: out } })
  expect(done.val).toBeUndefined()
  expect(seen).toEqual([join(folder, '0.txt'), join(folder, '1.txt')])
  expect(tokenizer.decode(ids(out))).toBe(texts.join(''))
  const meta = JSON.parse(readFileSync(join(folder, 'out.meta.json'), 'utf8'))
  expect(meta).toEqual({ dtype: 'uint16', vocab_size: tokenizer.vocabSize, tokenizer: name, tokens: ids(out).length })
})

test('the last part is held out', async () => {
  const tokenizer = await loadTokenizer('bytes')
  const done = await prepare([join(folder, '0.txt'), join(folder, '1.txt')], tokenizer, out, { valFraction: 0.25 })
  const all = texts.join('')
  const val = Math.round(all.length / 4)
  expect(heldOutPath(out)).toBe(join(folder, 'out.val.bin'))
  expect(done.val!.meta.tokens).toBe(val)
  expect(tokenizer.decode(ids(out))).toBe(all.slice(0, -val))
  expect(tokenizer.decode(ids(heldOutPath(out)))).toBe(all.slice(-val))
  expect(readdirSync(folder).sort()).toEqual([
    '0.txt',
    '1.txt',
    'out.bin',
    'out.meta.json',
    'out.val.bin',
    'out.val.meta.json',
  ])
})

test('bad input', async () => {
  const tokenizer = await loadTokenizer('bytes')
  writeFileSync(join(folder, 'empty.txt'), '')
  await expect(prepare([join(folder, 'empty.txt')], tokenizer, out)).rejects.toThrow('empty.txt is empty')
  await expect(prepare([join(folder, 'none.txt')], tokenizer, out)).rejects.toThrow('none.txt does not exist')
  await expect(prepare([out], tokenizer, out)).rejects.toThrow('is a shard of token ids already')
  await expect(prepare([join(folder, '0.txt')], tokenizer, out, { valFraction: 0.001 })).rejects.toThrow(
    'has 20 tokens, too few to hold out 0.001',
  )
  expect(readdirSync(folder).filter((name) => /whole|tmp/.test(name))).toEqual([])
})
