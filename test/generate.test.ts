import { describe, expect, test } from 'vitest'
import { loadTokenizer } from '../lib/data/tokenizer.ts'
import { type GenerateOptions, generate, generateText, Sampler } from '../lib/generate.ts'
import type { ModelConfigInput } from '../lib/nn/config.ts'
import { normal } from '../lib/nn/init.ts'
import { Transformer } from '../lib/nn/transformer.ts'
import { tensor } from '../lib/ops/create.ts'
import { randn, seed } from '../lib/ops/random.ts'
import { memory, noGrad } from '../lib/tensor.ts'

const make = (fields: ModelConfigInput = {}) => {
  seed(11)
  return new Transformer(
    {
      vocab_size: 256,
      hidden_size: 32,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      intermediate_size: 48,
      max_position_embeddings: 40,
      ...fields,
    },
    { init: normal(0.3) },
  )
}
async function idsOf(model: Transformer, prompt: number[], options: GenerateOptions): Promise<number[]> {
  const ids: number[] = []
  for await (const piece of generate(model, prompt, options)) if (piece.id !== undefined) ids.push(piece.id)
  return ids
}

describe.each<[string, ModelConfigInput]>([
  ['dense', {}],
  ['experts', { num_experts: 4, num_experts_per_tok: 2, qk_norm: true }],
])('%s', (_, fields) => {
  test('with the cache as without, token by token', async () => {
    const model = make(fields)
    const prompt = [72, 105, 33]
    const without: number[] = []
    for (let i = 0; i < 20; i++) {
      const ids = tensor([[...prompt, ...without]], { dtype: 'int32' })
      const logits = noGrad(() => model.forward(ids).logits.dataSync()) as Float32Array
      const last = logits.slice(-256)
      without.push(last.indexOf(Math.max(...last)))
    }
    expect(new Set(without).size).toBeGreaterThan(2)
    expect(await idsOf(model, prompt, { temperature: 0, maxTokens: 20 })).toEqual(without)
  })
})

test('the seed decides', async () => {
  const model = make()
  const run = (seed: number) => idsOf(model, [1], { seed, maxTokens: 16 })
  expect(await run(1)).toEqual(await run(1))
  expect(await run(2)).not.toEqual(await run(1))
})

test('it ends at maxTokens, at the end of the positions, at a stop id, and when told', async () => {
  const model = make()
  const greedy = { temperature: 0 }
  const ids = await idsOf(model, [5, 6], { ...greedy, maxTokens: 100 })
  expect(ids).toHaveLength(38)
  expect(await idsOf(model, [5, 6], { ...greedy, maxTokens: 7 })).toEqual(ids.slice(0, 7))
  expect(await idsOf(model, [5, 6], { ...greedy, maxTokens: 0 })).toEqual([])
  const stop = ids[3]!
  expect(await idsOf(model, [5, 6], { ...greedy, stop: [stop] })).toEqual(ids.slice(0, ids.indexOf(stop)))
  expect(await idsOf(model, new Array(40).fill(1), {})).toEqual([])
  const control = new AbortController()
  let made = 0
  for await (const _ of generate(model, [5], { signal: control.signal })) if (++made === 3) control.abort()
  expect(made).toBe(3)
})

test('nothing stays behind, also when the reader leaves early', async () => {
  const model = make()
  await idsOf(model, [1], { maxTokens: 3 })
  const before = memory().tensors
  for (let i = 0; i < 5; i++) for await (const _ of generate(model, [1, 2])) break
  await idsOf(model, [1], { maxTokens: 3 })
  expect(memory().tensors).toBe(before)
})

test('dropout is off, and the mode stays as it was', async () => {
  const model = make({ hidden_dropout: 0.5 })
  const greedy = { temperature: 0, maxTokens: 10 }
  const ids = await idsOf(model, [1], greedy)
  expect(model.training).toBe(true)
  expect(await idsOf(model, [1], greedy)).toEqual(ids)
  expect(await idsOf(model.eval(), [1], greedy)).toEqual(ids)
})

test('text comes in whole characters, and is the text of the ids', async () => {
  const tokenizer = await loadTokenizer('bytes')
  const model = make()
  const ids: number[] = []
  let text = ''
  for await (const piece of generate(model, 'é', { tokenizer, maxTokens: 30, seed: 3 })) {
    if (piece.id !== undefined) ids.push(piece.id)
    text += piece.text
  }
  expect(ids).toHaveLength(30)
  expect(text).toBe(tokenizer.decode([...tokenizer.encode('é'), ...ids]).slice(1))
  expect(await generateText(model, 'é', { tokenizer, maxTokens: 30, seed: 3 })).toBe(text)
})

test.each<[string | number[], GenerateOptions, RegExp]>([
  [[], {}, /at least one token/],
  ['a', {}, /needs a tokenizer/],
  [new Array(41).fill(1), {}, /41 tokens but the model only 40/],
  [[1], { temperature: -1 }, /temperature is -1/],
  [[1], { topK: 1.5 }, /topK is 1.5/],
  [[1], { topP: 0 }, /topP is 0/],
  [[1], { maxTokens: -1 }, /maxTokens is -1/],
  [[1], { seed: 0.5 }, /seed is 0.5/],
])('%#: a bad argument is named', async (prompt, options, message) => {
  await expect(generate(make(), prompt, options).next()).rejects.toThrow(message)
})

describe('Sampler', () => {
  const logits = [1, 3, -1, 2, 2, 0.5]
  // How often each id comes in 20000 draws.
  const shares = (options: ConstructorParameters<typeof Sampler>[0], from = logits) => {
    const sampler = new Sampler({ seed: 42, ...options })
    const count = new Array(from.length).fill(0)
    for (let i = 0; i < 20_000; i++) count[sampler.next(from)]++
    return count.map((n) => n / 20_000)
  }
  const expected = (ids: number[], temperature = 1) => {
    const e = logits.map((x, i) => (ids.includes(i) ? Math.exp(x / temperature) : 0))
    const sum = e.reduce((a, b) => a + b, 0)
    return e.map((x) => x / sum)
  }
  // Five standard errors of a share.
  const near = (got: number[], want: number[]) =>
    want.forEach((p, i) => {
      expect(Math.abs(got[i]! - p), `id ${i}: ${got[i]} of ${p}`).toBeLessThanOrEqual(
        5 * Math.sqrt((p * (1 - p)) / 20_000),
      )
    })
  const all = [0, 1, 2, 3, 4, 5]

  test('draws by softmax', () => near(shares({}), expected(all)))
  test('temperature', () => near(shares({ temperature: 0.5 }), expected(all, 0.5)))
  test('temperature 0: the first of the likeliest', () => {
    expect(new Sampler({ temperature: 0 }).next([0, 2, 1, 2])).toBe(1)
  })
  test('topK; of equal ones the first', () => {
    near(shares({ topK: 2 }), expected([1, 3]))
    near(shares({ topK: 4 }), expected([0, 1, 3, 4]))
    near(shares({ topK: 100 }), expected(all))
  })
  test('topP: the fewest that reach it', () => {
    // In order: 0.507, 0.187, 0.187, 0.069, 0.042, 0.009.
    near(
      shares({ topP: 0.5 }),
      expected([1]).map((p, i) => (i === 1 ? p : 0)),
    )
    near(shares({ topP: 0.6 }), expected([1, 3]))
    near(shares({ topP: 0.9 }), expected([0, 1, 3, 4]))
    near(shares({ topP: 0.999999 }), expected(all))
  })
  test('topP counts within topK', () => near(shares({ topK: 3, topP: 0.75 }), expected([1, 3])))
  test('impossible ids never come', () => {
    const share = shares({}, [Number.NEGATIVE_INFINITY, 0, Number.NEGATIVE_INFINITY, 0])
    expect([share[0], share[2]]).toEqual([0, 0])
  })
  test('NaN is an error, not a choice', () => {
    expect(() => new Sampler().next([0, Number.NaN])).toThrow('the logit of id 1 is NaN')
    expect(() => new Sampler().next([Number.NEGATIVE_INFINITY])).toThrow(/no logit/)
  })
  test('a large vocabulary: top-p and top-k agree with the definition', () => {
    seed(1)
    const big = Array.from(randn([5000]).dataSync() as Float32Array)
    const order = [...big.keys()].sort((a, b) => big[b]! - big[a]!)
    const sum = big.reduce((s, x) => s + Math.exp(x), 0)
    let reached = 0
    const nucleus = new Set<number>()
    for (const id of order) {
      if (reached >= 0.3 * sum) break
      nucleus.add(id)
      reached += Math.exp(big[id]!)
    }
    const sampler = new Sampler({ topP: 0.3 })
    const top = new Sampler({ topK: 50 })
    for (let i = 0; i < 2000; i++) {
      expect(nucleus.has(sampler.next(big))).toBe(true)
      expect(order.indexOf(top.next(big))).toBeLessThan(50)
    }
  })
})
