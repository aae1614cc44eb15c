// Our own tokenizers as Hugging Face's tokenizer.json, so that other programs read a checkpoint's text as we do.

/** The character that stands for each byte in a byte-level tokenizer.json: itself where it can be seen, else one from U+0100 on. */
export function byteCharacters(): string[] {
  let next = 256
  return Array.from({ length: 256 }, (_, b) => {
    const visible = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae
    return String.fromCharCode(visible ? b : next++)
  })
}

function byteLevel(
  vocab: Record<string, number>,
  merges: string[],
  useRegex: boolean,
  special: Record<string, number>,
) {
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: useRegex }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: Object.entries(special).map(([content, id]) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: level,
    post_processor: null,
    decoder: level,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  }
}

/** The tokenizer of the 256 bytes: id = byte. */
export function bytesToTokenizerJson(): object {
  return byteLevel(Object.fromEntries(byteCharacters().map((c, b) => [c, b])), [], false, {})
}

/**
 * GPT-2's tokenizer. A rank list holds tokens only; the merge that made a token is found by merging its bytes with the
 * tokens before it until two parts are left.
 * @param tokens the tokens' bytes, by rank; the id is the rank
 */
export function gpt2ToTokenizerJson(tokens: readonly Uint8Array[]): object {
  const characters = byteCharacters()
  const words = tokens.map((bytes) => Array.from(bytes, (b) => characters[b]!).join(''))
  const rank = new Map(words.map((word, i) => [word, i]))
  const merges: string[] = []
  for (const [i, word] of words.entries()) if (word.length > 1) merges.push(lastMerge(word, i, rank).join(' '))
  const end = '<|endoftext|>'
  const vocab = Object.fromEntries([...rank, [end, tokens.length] as const])
  return byteLevel(vocab, merges, true, { [end]: tokens.length })
}

function lastMerge(word: string, limit: number, rank: ReadonlyMap<string, number>): [string, string] {
  const parts = [...word]
  while (parts.length > 2) {
    let best = limit
    let at = -1
    for (let i = 0; i + 1 < parts.length; i++) {
      const r = rank.get(parts[i]! + parts[i + 1]!)
      if (r !== undefined && r < best) {
        best = r
        at = i
      }
    }
    if (at < 0) throw new Error(`tokenizer: no merges lead to token ${limit}`)
    parts.splice(at, 2, parts[at]! + parts[at + 1]!)
  }
  return parts as [string, string]
}
