import { expect, test } from 'vitest'
import { memoryTokens } from '../../lib/data/shards.ts'
import { Transformer } from '../../lib/nn/transformer.ts'
import { tensor } from '../../lib/ops/create.ts'
import { seed } from '../../lib/ops/random.ts'
import { memory } from '../../lib/tensor.ts'
import { evaluate } from '../../lib/train/evaluate.ts'
import { moe, pattern, small } from './runs.ts'

const T = 8
const source = memoryTokens(pattern(5 * T + 1 + 3))

// The mean over all windows, one window at a time.
async function byHand(model: Transformer, windows: number): Promise<number> {
  model.eval()
  let sum = 0
  for (let w = 0; w < windows; w++) {
    const ids = Int32Array.from(source.read(w * T, T + 1))
    const [x, y] = [ids.slice(0, T), ids.slice(1)].map((row) => tensor(row, { shape: [1, T] }))
    sum += await model.loss(x!, y!).loss.item()
  }
  return sum / windows
}

test.each([
  ['dense', { ...small, hidden_dropout: 0.5 }],
  ['experts', { ...moe, hidden_dropout: 0.5 }],
])('%s: the mean of the cross-entropy alone, over every whole window, without dropout', async (_, config) => {
  seed(3)
  const model = new Transformer(config as object)
  const found = await evaluate(model, source, { batchSize: 2, seqLen: T })
  expect(found).toMatchObject({ tokens: 5 * T, batches: 3 })
  expect([...model.modules()].every(([, module]) => module.training)).toBe(true)
  expect(Math.abs(found.loss - (await byHand(model, 5)))).toBeLessThan(1e-5)
  const part = await evaluate(model, source, { batchSize: 2, seqLen: T, batches: 2 })
  expect(Math.abs(part.loss - (await byHand(model, 4)))).toBeLessThan(1e-5)
})

test('leaves no tensors, and the mode as it was', async () => {
  const model = new Transformer(small as object).eval()
  const before = memory().tensors
  await evaluate(model, source, { batchSize: 2, seqLen: T })
  expect(memory().tensors).toBe(before)
  expect(model.training).toBe(false)
})

test('a source shorter than a window', async () => {
  const model = new Transformer(small as object)
  const short = memoryTokens(pattern(T), 'short.bin')
  await expect(evaluate(model, short, { batchSize: 2, seqLen: T })).rejects.toThrow(/^short\.bin has 8 tokens/)
})
