// polygrad eval: the loss of a model on data.
import { loadTokens } from '../data/text.ts'
import { loadTokenizer } from '../data/tokenizer.ts'
import { ConfigError } from '../nn/fields.ts'
import { evaluate } from '../train/evaluate.ts'
import type { Arguments } from './arguments.ts'
import type { commands } from './commands.ts'
import { requireDevice } from './device.ts'
import { loadModel } from './model.ts'

export async function evalCommand({ positionals, options }: Arguments<typeof commands.eval>): Promise<number> {
  if (options.data === undefined) throw new ConfigError('--data', ' is missing: polygrad eval FOLDER --data FILE')
  const device = await requireDevice(options.device, options.threads)
  const { model, tokenizer, run } = await loadModel(positionals[0]!, device)
  const { vocab_size: vocabSize, max_position_embeddings: positions } = model.config
  const found = await loadTokens(options.data, tokenizer ?? (await loadTokenizer('bytes')), {
    vocabSize,
    field: '--data',
  })
  const { source } = found
  const seqLen = options['seq-len'] ?? run?.train.seq_len ?? Math.min(1024, positions, Math.max(1, source.length - 1))
  if (seqLen > positions) throw new ConfigError('--seq-len', ` is ${seqLen} but the model has ${positions} positions`)
  const result = await evaluate(model, source, {
    seqLen,
    batchSize: options['batch-size'] ?? run?.train.micro_batch_size ?? 8,
    batches: options.batches,
  })
  const loss = Math.fround(result.loss)
  // Only where every token of the file counts for a known number of bytes.
  const bytesPerToken = tokenizer?.name === 'bytes' ? 1 : found.bytes && found.bytes / source.length
  const bits = bytesPerToken && loss / Math.LN2 / bytesPerToken
  if (options.json) {
    const { tokens, batches } = result
    console.log(
      JSON.stringify({ loss, perplexity: Math.exp(loss), ...(bits && { bits_per_byte: bits }), tokens, batches }),
    )
  } else {
    const more = [
      `perplexity ${Math.exp(loss).toPrecision(6)}`,
      ...(bits ? [`${bits.toPrecision(6)} bits a byte`] : []),
    ]
    console.log(
      `loss ${loss} nats a token (${more.join(', ')}) over ${result.tokens} tokens in ${result.batches} ${result.batches === 1 ? 'batch' : 'batches'}`,
    )
  }
  return 0
}
