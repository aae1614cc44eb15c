// polygrad prepare: text to shards of token ids.
import { dirname } from 'node:path'
import { prepare } from '../data/prepare.ts'
import { loadTokenizer } from '../data/tokenizer.ts'
import { makeFolderOf } from '../io/disk.ts'
import { ConfigError } from '../nn/fields.ts'
import type { Arguments } from './arguments.ts'
import type { commands } from './commands.ts'
import { requireDevice } from './device.ts'

export async function prepareCommand({ positionals, options }: Arguments<typeof commands.prepare>): Promise<number> {
  const { out } = options
  if (out === undefined)
    throw new ConfigError('--out', ' is missing: polygrad prepare TEXT... --tokenizer T --out FILE.bin')
  if (!out.endsWith('.bin')) throw new ConfigError('--out', ` is "${out}" but must end in .bin`)
  await requireDevice(options.device) // tokenizing uses none, but asking for one that is not there is a mistake
  const tokenizer = await loadTokenizer(options.tokenizer ?? 'bytes')
  makeFolderOf('--out', dirname(out))
  const done = await prepare(positionals, tokenizer, out, { valFraction: options['val-fraction'] ?? 0 })
  for (const part of [done.train, done.val])
    if (part)
      console.log(`${part.path}: ${part.meta.tokens} tokens, ${part.meta.dtype}, vocabulary ${part.meta.vocab_size}`)
  console.log(`${done.files} ${done.files === 1 ? 'file' : 'files'}, ${done.bytes} bytes of text`)
  return 0
}
