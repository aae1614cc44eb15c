import { expect, test } from 'vitest'
import { byteCharacters, bytesToTokenizerJson, gpt2ToTokenizerJson } from '../../lib/data/tokenizer-json.ts'

test('the bytes’ characters are GPT-2’s', () => {
  const characters = byteCharacters()
  expect(new Set(characters).size).toBe(256)
  // From GPT-2's encoder.json: the space is Ġ, the line end Ċ, the soft hyphen Ń.
  expect([0x20, 0x0a, 0xad, 0x41, 0x00, 0xff].map((b) => characters[b])).toEqual(['Ġ', 'Ċ', 'Ń', 'A', 'Ā', 'ÿ'])
})

test('the bytes’ vocabulary: id = byte', () => {
  const { model } = bytesToTokenizerJson() as { model: { vocab: Record<string, number>; merges: string[] } }
  expect(Object.keys(model.vocab).length).toBe(256)
  expect(model.vocab.A).toBe(65)
  expect(model.vocab.Ġ).toBe(32)
  expect(model.merges).toEqual([])
})

test('merges are found from ranks', () => {
  const words = ['a', 'b', 'c', 'ab', 'abc', 'bc', 'aab']
  const json = gpt2ToTokenizerJson(words.map((w) => new TextEncoder().encode(w))) as { model: { merges: string[] } }
  // abc is merged from ab (rank 3) and c, since bc (rank 5) comes later.
  expect(json.model.merges).toEqual(['a b', 'ab c', 'b c', 'a ab'])
  expect(() => gpt2ToTokenizerJson([Uint8Array.of(97), Uint8Array.of(97, 98, 99)])).toThrow('no merges lead to token 1')
})
