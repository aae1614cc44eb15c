// The loss on held-out data.
import { evaluationBatches } from '../data/batches.ts'
import type { TokenSource } from '../data/shards.ts'
import type { Transformer } from '../nn/transformer.ts'
import { tensor } from '../ops/create.ts'
import { noGrad, scope } from '../tensor.ts'

/** What an evaluation found. */
export interface Evaluation {
  /** Mean cross-entropy in nats a token. */
  loss: number
  tokens: number
  batches: number
}

/**
 * The mean cross-entropy of a model over the windows of a source, from its beginning, dropout off.
 * @param options.batches at most so many micro-batches of `batchSize` rows; default: all of the source
 * @throws DataError when the source is shorter than one window, seqLen + 1 tokens
 */
export async function evaluate(
  model: Transformer,
  source: TokenSource,
  options: { batchSize: number; seqLen: number; batches?: number },
): Promise<Evaluation> {
  const modes = [...model.modules()].map(([, module]) => [module, module.training] as const)
  model.eval()
  try {
    const found: Evaluation = { loss: 0, tokens: 0, batches: 0 }
    let waiting: { loss: Promise<number>; tokens: number } | undefined
    const settle = async () => {
      if (!waiting) return
      found.loss += (await waiting.loss) * waiting.tokens
      found.tokens += waiting.tokens
    }
    for (const batch of evaluationBatches(source, options)) {
      const next = { loss: lossOf(model, batch), tokens: batch.rows * batch.seqLen }
      await settle() // one micro-batch is computed while the next is queued
      waiting = next
      found.batches++
    }
    await settle()
    return { ...found, loss: found.loss / found.tokens }
  } finally {
    for (const [module, mode] of modes) module.training = mode
  }
}

// The scope ends when all is queued, not when it is computed: two micro-batches then never hold memory at once.
async function lossOf(
  model: Transformer,
  batch: { inputs: Int32Array; targets: Int32Array; rows: number; seqLen: number },
): Promise<number> {
  const loss = noGrad(() =>
    scope(() => {
      const options = { shape: [batch.rows, batch.seqLen], device: model.head.device }
      return model.loss(tensor(batch.inputs, options), tensor(batch.targets, options)).loss
    }),
  )
  try {
    return await loss.item()
  } finally {
    loss.dispose()
  }
}
