import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { loadWeights } from '../../lib/io/huggingface.ts'
import type { ModelConfigInput } from '../../lib/nn/config.ts'
import { Mlp } from '../../lib/nn/mlp.ts'
import { Moe } from '../../lib/nn/moe.ts'
import { Transformer } from '../../lib/nn/transformer.ts'
import { tensor } from '../../lib/ops/create.ts'
import { randn, seed } from '../../lib/ops/random.ts'
import { noGrad, scope, type Tensor } from '../../lib/tensor.ts'
import { countParameters } from '../../lib/train/estimate.ts'
import { crossEntropy, distance, transformer, valuesOf } from './reference.ts'

const base = {
  vocab_size: 11,
  hidden_size: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 12,
  initializer_range: 0.4,
}
const experts = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 6 }
const kinds: [string, ModelConfigInput][] = [
  ['polynorm', {}],
  [
    'polyrelu of order 4, tied, grouped heads',
    { hidden_act: 'polyrelu', poly_order: 4, tie_word_embeddings: true, num_key_value_heads: 1 },
  ],
  ['swiglu, QK-norm, long heads', { hidden_act: 'swiglu', qk_norm: true, head_dim: 6, rope_theta: 100 }],
  ['gelu, LayerNorm', { hidden_act: 'gelu', norm_type: 'layer', rms_norm_eps: 0.01 }],
  ['polynorm_glu, one layer', { hidden_act: 'polynorm_glu', num_hidden_layers: 1 }],
  ['experts', { ...experts, qk_norm: true }],
  ['experts, swiglu, one shared', { ...experts, hidden_act: 'swiglu', norm_topk_prob: true, num_shared_experts: 1 }],
  [
    'experts, coefficients each, tied',
    { ...experts, act_per_expert: true, num_shared_experts: 2, tie_word_embeddings: true },
  ],
]

function make(fields: ModelConfigInput) {
  seed(7)
  const model = new Transformer({ ...base, ...fields }, { dtype: 'float64' })
  // Values that a mistake in any of them would show up in.
  for (const [name, p] of model.namedParameters())
    if (/norm|act_fn/.test(name))
      model.loadStateDict({ [name]: randn(p.shape, { dtype: 'float64' }).mul(0.5).add(1) }, { strict: false })
  return model
}
const ids = [
  [3, 1, 4, 1, 5],
  [9, 2, 6, 10, 0],
]
const targets = [
  [1, 4, 1, 5, 9],
  [2, -100, 10, 0, 8],
]
const int = (rows: number[][]) => tensor(rows, { dtype: 'int32' })

describe.each(kinds)('%s', (_, fields) => {
  const model = make(fields)
  const expected = transformer(ids, valuesOf(model.stateDict()), model.config)

  test('logits as defined', () => {
    const { logits } = model.forward(int(ids))
    expect(logits.shape).toEqual([2, 5, 11])
    expect(distance(logits.dataSync() as Float64Array, expected.logits.flat(2))).toBeLessThan(1e-11)
    const last = model.forward(int(ids), { last: true }).logits
    expect(last.shape).toEqual([2, 1, 11])
    expect(
      distance(
        last.dataSync() as Float64Array,
        expected.logits.flatMap((rows) => rows[4]!),
      ),
    ).toBeLessThan(1e-11)
  })

  test('losses as defined', () => {
    const { loss, aux, z, total, expertLoad } = model.loss(int(ids), int(targets))
    const entropy = crossEntropy(expected.logits, targets)
    expect(loss.itemSync()).toBeCloseTo(entropy, 11)
    if (!model.config.num_experts) return expect([aux, z, expertLoad, total]).toEqual([null, null, null, loss])
    expect(aux!.itemSync()).toBeCloseTo(expected.aux, 11)
    expect(z!.itemSync()).toBeCloseTo(expected.z, 11)
    expect(total.itemSync()).toBeCloseTo(entropy + 0.01 * expected.aux + 0.001 * expected.z, 11)
    expect(expertLoad!.shape).toEqual([2, 4])
    expect(distance(expertLoad!.dataSync() as Float32Array, expected.loads.flat())).toBeLessThan(1e-6)
  })

  test('every gradient agrees with finite differences', () => {
    const total = () => model.loss(int(ids), int(targets)).total
    model.zeroGrad()
    total().backward()
    const value = () => noGrad(() => scope(() => total().itemSync()))
    let worst = 0
    for (const [name, p] of model.namedParameters()) {
      const data = p.dataSync() as Float64Array
      const g = p.grad!.dataSync() as Float64Array
      const scale = Math.max(...g.map(Math.abs), 1e-3)
      // A few elements of each tensor, spread over it.
      for (let i = 0; i < 5; i++) {
        const at = Math.floor(((i + 0.5) / 5) * p.size)
        const h = 1e-5
        const shifted = (by: number) => {
          const moved = data.slice()
          moved[at]! += by
          model.loadStateDict({ [name]: tensor(moved, { shape: p.shape }) }, { strict: false })
          return value()
        }
        const slope = (shifted(h) - shifted(-h)) / (2 * h)
        worst = Math.max(worst, Math.abs(slope - g[at]!) / scale)
        expect(worst, `${name}[${at}]: ${g[at]}, but by differences ${slope}`).toBeLessThan(1e-6)
      }
      model.loadStateDict({ [name]: tensor(data, { shape: p.shape }) }, { strict: false })
    }
  })

  test('the parameters are as many as the configuration says', () => {
    expect(countParameters(model.config).total).toBe(model.parameterCount())
  })
})

test('names of the parameters are those of files, experts stacked', () => {
  const names = [...make({ ...experts, qk_norm: true, num_hidden_layers: 1 }).namedParameters()].map(([n, p]) => [
    n,
    p.shape,
  ])
  const layer = (name: string, ...shape: number[]) => [`model.layers.0.${name}`, shape]
  expect(names).toEqual([
    ['model.embed_tokens.weight', [11, 8]],
    layer('input_layernorm.weight', 8),
    layer('self_attn.q_proj.weight', 8, 8),
    layer('self_attn.k_proj.weight', 8, 8),
    layer('self_attn.v_proj.weight', 8, 8),
    layer('self_attn.o_proj.weight', 8, 8),
    layer('self_attn.q_norm.weight', 8),
    layer('self_attn.k_norm.weight', 8),
    layer('post_attention_layernorm.weight', 8),
    layer('mlp.gate.weight', 4, 8),
    layer('mlp.experts.up_proj.weight', 4, 6, 8),
    layer('mlp.experts.down_proj.weight', 4, 8, 6),
    layer('mlp.act_fn.weight', 3),
    layer('mlp.act_fn.bias', 1),
    ['model.norm.weight', [8]],
    ['lm_head.weight', [11, 8]],
  ])
  expect([...make({ tie_word_embeddings: true }).namedParameters().keys()]).not.toContain('lm_head.weight')
})

test('one expert equals the dense model, values and gradients', () => {
  const one = make({ num_experts: 1, num_experts_per_tok: 1, moe_intermediate_size: 12, router_z_loss_coef: 0 })
  const dense = make({})
  const plain = (name: string) => name.replace('experts.', '')
  dense.loadStateDict(
    Object.fromEntries(
      [...one.stateDict()]
        .filter(([name]) => !name.endsWith('mlp.gate.weight'))
        .map(([name, t]) => [plain(name), t.rank === 3 ? t.reshape(t.shape.slice(1)) : t]),
    ),
  )
  const [a, b] = [one, dense].map((model) => {
    const { loss, total } = model.loss(int(ids), int(targets))
    total.backward()
    return loss.itemSync()
  })
  expect(a).toBeCloseTo(b!, 13)
  const others = dense.namedParameters()
  for (const [name, p] of one.namedParameters()) {
    const g = p.grad!.dataSync() as Float64Array
    if (name.endsWith('mlp.gate.weight')) expect(Math.max(...g.map(Math.abs))).toBeLessThan(1e-15)
    else expect(distance(g, others.get(plain(name))!.grad!.dataSync() as Float64Array)).toBeLessThan(1e-10)
  }
})

test('a feed-forward layer of its own for each block', () => {
  const kind = { hidden: 8, act: 'relu2', intermediate: 4 } as const
  const model = new Transformer(base, {
    ffn: (layer) => (layer === 0 ? { kind: 'dense', ...kind } : { kind: 'moe', experts: 2, topK: 1, ...kind }),
  })
  expect(model.model.layers.map((l) => l.mlp.constructor)).toEqual([Mlp, Moe])
  const { total, expertLoad } = model.loss(int(ids), int(ids))
  expect(expertLoad!.shape).toEqual([1, 2])
  total.backward()
  expect(model.parameters().every((p) => p.grad)).toBe(true)
})

test('initial values: normal as configured, norms 1, coefficients 1 / order and 0; the same for the same seed', () => {
  const init = (fields: ModelConfigInput = {}) => {
    seed(3)
    const config = {
      ...base,
      vocab_size: 500,
      hidden_size: 64,
      intermediate_size: 300,
      initializer_range: 0.05,
      ...fields,
    }
    return new Map([...new Transformer(config).stateDict()].map(([name, t]) => [name, t.dataSync() as Float32Array]))
  }
  const values = init()
  for (const [name, x] of values) {
    if (name.endsWith('norm.weight')) expect(new Set(x)).toEqual(new Set([1]))
    else if (name.endsWith('act_fn.weight')) expect(x).toEqual(new Float32Array(3).fill(1 / 3))
    else if (name.endsWith('act_fn.bias')) expect(x).toEqual(new Float32Array(1))
    else {
      const std = Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length)
      expect(Math.abs(std / 0.05 - 1), name).toBeLessThan(5 / Math.sqrt(2 * x.length))
    }
  }
  expect(init()).toEqual(values)
  const [a, b] = ['q', 'k'].map((p) => values.get(`model.layers.0.self_attn.${p}_proj.weight`))
  expect(a).not.toEqual(b)
  const cut = init({ initializer_cutoff: 2 }).get('lm_head.weight')!
  expect(Math.max(...cut.map(Math.abs))).toBeLessThanOrEqual(0.1)
})

test('a cache of positions gives the logits of the whole sequence', () => {
  const model = make({ num_key_value_heads: 1, ...experts })
  const whole = model.forward(int(ids)).logits.dataSync() as Float64Array
  const cache = model.cache(2, 5)
  noGrad(() => {
    for (const [from, to] of [
      [0, 2],
      [2, 3],
      [3, 5],
    ] as const) {
      const { logits } = model.forward(int(ids.map((row) => row.slice(from, to))), { cache })
      const expected = [0, 1].flatMap((b) => Array.from(whole.slice((b * 5 + from) * 11, (b * 5 + to) * 11)))
      expect(distance(logits.dataSync() as Float64Array, expected)).toBeLessThan(1e-12)
      expect(cache.length).toBe(to)
    }
    expect(() => model.forward(int([[1], [2]]), { cache })).toThrow('the cache has 5 positions but needs 6')
    cache.reset()
    expect(() => model.forward(int([[1, 2, 3]]), { cache })).toThrow('for 2 sequences but there are 1')
  })
  cache.dispose()
})

test('bfloat16 matrices: the loss is near that of float32, gradients arrive', () => {
  for (const fields of [{}, experts]) {
    seed(5)
    const model = new Transformer({ ...base, ...fields })
    const before = model.loss(int(ids), int(targets)).loss.itemSync()
    const { loss, total } = model.to({ dtype: 'bfloat16' }).loss(int(ids), int(targets))
    expect(Math.abs(loss.itemSync() / before - 1)).toBeLessThan(0.02)
    total.backward()
    for (const [name, p] of model.namedParameters()) expect(p.grad?.shape, name).toEqual(p.shape)
  }
})

test('bad input is named', async () => {
  const model = make({})
  expect(() => model.forward(tensor([1, 2], { dtype: 'int32' }))).toThrow('ids are [2] but should be [B, T]')
  expect(() => model.loss(int(ids), int([[1]]))).toThrow('targets are [1, 1] but should be as ids, [2, 5]')
  expect(() => new Transformer({ ...base, hiden_act: 'relu' } as ModelConfigInput)).toThrow(/hiden_act.*hidden_act/)
  await expect(model.forward(int([[1, 11]])).logits.data()).rejects.toThrow(/11/)
})

test('two runs with one seed give the same bits', () => {
  const run = (): Tensor[] => {
    const model = make({ ...experts, hidden_dropout: 0.1 })
    seed(9)
    model.loss(int(ids), int(targets)).total.backward()
    return model.parameters().map((p) => p.grad!)
  }
  const [a, b] = [run(), run()]
  expect(a.map((t) => t.dataSync())).toEqual(b.map((t) => t.dataSync()))
})

// Whole runs are test/train's; here the first step of each, from its weights and tokens.
describe.each(['dense_polynorm', 'dense_polyrelu_gqa_tied', 'dense_swiglu', 'moe_polynorm'])('%s of PyTorch', (run) => {
  const folder = fileURLToPath(new URL(`../golden/${run}/`, import.meta.url))
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8'))
  const expected = JSON.parse(readFileSync(join(folder, 'expected.jsonl'), 'utf8').split('\n')[0]!)
  const bytes = readFileSync(join(folder, 'tokens.bin'))
  const tokens = Int32Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readUInt16LE(2 * i))
  const { micro_batch_size: B, seq_len: T, grad_accum: A } = config.train

  test.each(['float32', 'float64'] as const)('the first loss and norm of the gradient, %s', async (dtype) => {
    const model = new Transformer(config.model, { dtype })
    await loadWeights(model, join(folder, 'init.safetensors'))
    let loss = 0
    for (let a = 0; a < A; a++) {
      const at = (from: number) => tensor(tokens.slice(from, from + B * T), { shape: [B, T] })
      const losses = model.loss(at(a * B * T), at(a * B * T + 1))
      losses.total.mul(1 / A).backward()
      loss += losses.loss.itemSync() / A
    }
    const squares = model.parameters().map((p) => (p.grad!.dataSync() as Float64Array).reduce((s, g) => s + g * g, 0))
    const norm = Math.sqrt(squares.reduce((a, b) => a + b, 0))
    expect(Math.abs(loss - expected.loss)).toBeLessThan(dtype === 'float32' ? 1e-5 : 3e-6)
    expect(Math.abs(norm / expected.grad_norm - 1)).toBeLessThan(5e-5)
  })
})
