import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  fromHuggingFace,
  loadPretrained,
  loadWeights,
  readInto,
  savePretrained,
  toHuggingFace,
} from '../../lib/io/huggingface.ts'
import { parseSafetensors, SafetensorsReader } from '../../lib/io/safetensors.ts'
import { loadSafetensors, saveSafetensors } from '../../lib/io/tensors.ts'
import { activations, type ModelConfigInput, modelConfig } from '../../lib/nn/config.ts'
import { Transformer } from '../../lib/nn/transformer.ts'
import { tensor, zeros } from '../../lib/ops/create.ts'

// As transformers' save_pretrained writes them.
const llama = {
  _name_or_path: 'x',
  architectures: ['LlamaForCausalLM'],
  attention_bias: false,
  bos_token_id: 1,
  hidden_act: 'silu',
  hidden_size: 64,
  initializer_range: 0.02,
  intermediate_size: 172,
  max_position_embeddings: 4096,
  mlp_bias: false,
  model_type: 'llama',
  num_attention_heads: 4,
  num_hidden_layers: 2,
  num_key_value_heads: 2,
  pretraining_tp: 1,
  rms_norm_eps: 1e-6,
  rope_scaling: null,
  rope_theta: 500000.0,
  tie_word_embeddings: true,
  torch_dtype: 'bfloat16',
  use_cache: true,
  vocab_size: 1000,
  head_dim: null,
}
const olmoe = {
  model_type: 'olmoe',
  hidden_act: 'silu',
  hidden_size: 64,
  intermediate_size: 96,
  num_attention_heads: 4,
  num_hidden_layers: 2,
  num_experts: 8,
  num_experts_per_tok: 2,
  clip_qkv: null,
  norm_topk_prob: false,
  router_aux_loss_coef: 0.01,
  vocab_size: 1000,
}

describe('fromHuggingFace', () => {
  test('llama', () => {
    expect(fromHuggingFace(llama)).toMatchObject({
      hidden_act: 'swiglu',
      hidden_size: 64,
      head_dim: 16,
      num_key_value_heads: 2,
      rope_theta: 500000,
      rms_norm_eps: 1e-6,
      tie_word_embeddings: true,
      num_experts: 0,
      qk_norm: false,
    })
  })
  test('olmoe', () => {
    expect(fromHuggingFace(olmoe)).toMatchObject({
      hidden_act: 'swiglu',
      qk_norm: true,
      num_experts: 8,
      moe_intermediate_size: 96,
    })
  })
  test("transformers 5 keeps RoPE's base in rope_parameters", () => {
    const { rope_theta: _, ...rest } = llama
    const config = { ...rest, rope_parameters: { rope_type: 'default', rope_theta: 7777 } }
    expect(fromHuggingFace(config).rope_theta).toBe(7777)
    expect(fromHuggingFace(rest).rope_theta).toBe(10000)
  })
  test.each([
    [{ ...llama, attention_bias: true }, 'config.json.attention_bias', 'no biases'],
    [{ ...llama, rope_scaling: { rope_type: 'llama3', factor: 8 } }, 'config.json.rope_scaling', 'plain RoPE'],
    [{ ...olmoe, clip_qkv: 8 }, 'config.json.clip_qkv', 'no clipping'],
    [{ ...llama, hidden_size: '64' }, 'config.json.hidden_size', 'must be an integer'],
    [{ ...llama, hidden_act: 'quick_gelu' }, 'config.json.hidden_act', 'must be one of'],
    [null, 'config.json', 'must be an object'],
  ])('%#: what would change the numbers is an error', (json, field, message) => {
    expect(() => fromHuggingFace(json)).toThrow(
      expect.objectContaining({ field, message: expect.stringContaining(message) }),
    )
  })
  test('unknown fields, and a preset of ours, are passed over', () => {
    expect(fromHuggingFace({ ...llama, hiden_size: 3, preset: 'polycom-dense-1b' })).toEqual(fromHuggingFace(llama))
  })
})

describe('toHuggingFace', () => {
  const base = { vocab_size: 99, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 128 }
  const experts = { num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 96 }
  test('a SwiGLU model is transformers’ llama', () => {
    expect(toHuggingFace(modelConfig({ ...base, hidden_act: 'swiglu' }))).toMatchObject({
      model_type: 'llama',
      architectures: ['LlamaForCausalLM'],
      hidden_act: 'silu',
    })
  })
  test('a SwiGLU MoE with QK-norm is transformers’ olmoe, whose experts’ width is intermediate_size', () => {
    const config = modelConfig({ ...base, ...experts, hidden_act: 'swiglu', qk_norm: true })
    expect(toHuggingFace(config)).toMatchObject({ model_type: 'olmoe', intermediate_size: 96, hidden_act: 'silu' })
  })
  test.each(activations.flatMap((hidden_act) => [0, 1, 2].map((kind) => [hidden_act, kind] as const)))(
    'reads back: %s %i',
    (hidden_act, kind) => {
      const fields = { ...base, ...(kind ? experts : {}), qk_norm: kind === 2, initializer_cutoff: 3, hidden_act }
      const config = modelConfig(fields)
      const json = JSON.parse(JSON.stringify(toHuggingFace(config)))
      const back = fromHuggingFace(json)
      if (json.model_type === 'olmoe') config.intermediate_size = config.moe_intermediate_size
      expect(back).toEqual(config)
    },
  )
})

const folder = () => mkdtempSync(join(tmpdir(), 'huggingface-'))
const base = {
  vocab_size: 20,
  hidden_size: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 12,
}
const experts = { num_experts: 3, num_experts_per_tok: 2, moe_intermediate_size: 6 }
const ids = () => tensor([[1, 2, 3, 4]], { dtype: 'int32' })
const logitsOf = (model: Transformer) => model.forward(ids()).logits.dataSync()
const names = (path: string) => [...parseSafetensors(readFileSync(path)).tensors.keys()].sort()

describe.each<[string, ModelConfigInput]>([
  ['polynorm', {}],
  ['llama, tied', { hidden_act: 'swiglu', tie_word_embeddings: true, num_key_value_heads: 1 }],
  ['olmoe', { ...experts, hidden_act: 'swiglu', qk_norm: true }],
  ['experts with coefficients each', { ...experts, act_per_expert: true, num_shared_experts: 1 }],
])('%s', (_, fields) => {
  test('written and read back, the same logits', async () => {
    const path = folder()
    const model = new Transformer({ ...base, ...fields })
    await savePretrained(model, path)
    const back = await loadPretrained(path)
    expect(logitsOf(back)).toEqual(logitsOf(model))
    expect(back.config).toEqual({ ...model.config, intermediate_size: back.config.intermediate_size })
  })
  test('in shards', async () => {
    const path = folder()
    const model = new Transformer({ ...base, ...fields })
    await savePretrained(model, path, { shardBytes: 2000 })
    expect(readdirSync(path)).toContain('model.safetensors.index.json')
    expect(readdirSync(path).length).toBeGreaterThan(4)
    expect(logitsOf(await loadPretrained(path))).toEqual(logitsOf(model))
  })
})

test('the names and shapes in the file are Hugging Face’s, every expert apart', async () => {
  const path = folder()
  await savePretrained(
    new Transformer({ ...base, ...experts, num_hidden_layers: 1, hidden_act: 'swiglu', qk_norm: true }),
    path,
  )
  const { tensors } = parseSafetensors(readFileSync(join(path, 'model.safetensors')))
  const at = 'model.layers.0.'
  const expert = (e: number) => [
    [`${at}mlp.experts.${e}.up_proj.weight`, [6, 8]],
    [`${at}mlp.experts.${e}.gate_proj.weight`, [6, 8]],
    [`${at}mlp.experts.${e}.down_proj.weight`, [8, 6]],
  ]
  const expected = [
    ['model.embed_tokens.weight', [20, 8]],
    [`${at}input_layernorm.weight`, [8]],
    ...['q', 'k', 'v', 'o'].map((p) => [`${at}self_attn.${p}_proj.weight`, [8, 8]]),
    ...['q', 'k'].map((p) => [`${at}self_attn.${p}_norm.weight`, [8]]),
    [`${at}post_attention_layernorm.weight`, [8]],
    [`${at}mlp.gate.weight`, [3, 8]],
    ...[0, 1, 2].flatMap(expert),
    ['model.norm.weight', [8]],
    ['lm_head.weight', [20, 8]],
  ]
  expect(Object.fromEntries([...tensors].map(([name, t]) => [name, t.shape]))).toEqual(Object.fromEntries(expected))
  expect(JSON.parse(readFileSync(join(path, 'config.json'), 'utf8'))).toMatchObject({
    model_type: 'olmoe',
    torch_dtype: 'float32',
  })
})

test('coefficients of each expert stand with the expert, in their own shape', async () => {
  const path = folder()
  await savePretrained(new Transformer({ ...base, ...experts, act_per_expert: true, num_shared_experts: 2 }), path)
  const { tensors } = parseSafetensors(readFileSync(join(path, 'model.safetensors')))
  const shape = (name: string) => tensors.get(`model.layers.1.mlp.${name}`)?.shape
  expect(shape('experts.2.act_fn.weight')).toEqual([3])
  expect(shape('experts.2.act_fn.bias')).toEqual([1])
  expect(shape('shared_expert.act_fn.weight')).toEqual([3])
  expect(shape('shared_expert.up_proj.weight')).toEqual([12, 8])
  expect(shape('act_fn.weight')).toBeUndefined()
})

test('an expert’s matrix lands in its place', async () => {
  const path = folder()
  const model = new Transformer({ ...base, ...experts })
  await savePretrained(model, path)
  const up = (await loadSafetensors(path))['model.layers.1.mlp.experts.2.up_proj.weight']!
  const stacked = model.stateDict().get('model.layers.1.mlp.experts.up_proj.weight')!.dataSync() as Float32Array
  expect(up.dataSync()).toEqual(stacked.slice(2 * 48, 3 * 48))
})

test('types are converted both ways', async () => {
  const path = folder()
  // No coefficients: in a file they are rounded too, in a 16-bit model not.
  const model = new Transformer({ ...base, hidden_act: 'gelu' })
  await savePretrained(model, path, { dtype: 'bfloat16' })
  const { tensors } = parseSafetensors(readFileSync(join(path, 'model.safetensors')))
  expect(new Set([...tensors.values()].map((t) => t.dtype))).toEqual(new Set(['bfloat16']))
  const back = await loadPretrained(path)
  expect(new Set(back.parameters().map((p) => p.dtype))).toEqual(new Set(['float32']))
  expect(logitsOf(back)).toEqual(logitsOf(model.to({ dtype: 'bfloat16' }).to({ dtype: 'float32' })))
  const half = await loadPretrained(path, { dtype: 'bfloat16' })
  expect(half.head.dtype).toBe('bfloat16')
  expect(half.model.norm.weight.dtype).toBe('float32')
})

test('a tied model passes over an output matrix, every model over rotary frequencies', async () => {
  const path = join(folder(), 'model.safetensors')
  const model = new Transformer({ ...base, tie_word_embeddings: true })
  const extra = { 'lm_head.weight': zeros([20, 8]), 'model.layers.0.self_attn.rotary_emb.inv_freq': zeros([2]) }
  await saveSafetensors(path, { ...Object.fromEntries(model.stateDict()), ...extra })
  expect(await loadWeights(new Transformer({ ...base, tie_word_embeddings: true }), path)).toEqual({
    missing: [],
    unexpected: [],
  })
  await expect(loadWeights(new Transformer(base), path)).resolves.toBeDefined()
})

test('what is missing, unexpected or of another shape is named, and nothing is changed', async () => {
  const path = join(folder(), 'w.safetensors')
  const model = new Transformer(base)
  const { 'model.norm.weight': _, ...rest } = Object.fromEntries(model.stateDict())
  await saveSafetensors(path, { ...rest, other: zeros([1]), 'lm_head.weight': zeros([21, 8]) })
  const before = logitsOf(model)
  const error = await loadWeights(model, path).catch((e: Error) => e.message)
  expect(error).toContain(path)
  expect(error).toContain('has no model.norm.weight')
  expect(error).toContain('has other, which the model has not')
  expect(error).toContain("lm_head.weight is [21, 8] but the model's is [20, 8]")
  await expect(loadWeights(model, path, { strict: false })).rejects.toThrow('lm_head.weight')
  expect(logitsOf(model)).toEqual(before)
  await saveSafetensors(path, { ...rest, other: zeros([1]) })
  expect(await loadWeights(model, path, { strict: false })).toEqual({
    missing: ['model.norm.weight'],
    unexpected: ['other'],
  })
})

test('the optimiser’s tensors split by expert too', async () => {
  const path = join(folder(), 'o.safetensors')
  const stacked = () => zeros([3, 6, 8])
  const to = new Map([['model.layers.0.mlp.experts.up_proj.weight.exp_avg', stacked()]])
  const parts = [0, 1, 2].map((e) => [
    `model.layers.0.mlp.experts.${e}.up_proj.weight.exp_avg`,
    tensor(new Float32Array(48).fill(e), { shape: [6, 8] }),
  ])
  await saveSafetensors(path, Object.fromEntries(parts))
  const reader = await SafetensorsReader.open(path)
  await readInto(reader, to)
  await reader.close()
  const data = [...to.values()][0]!.dataSync() as Float32Array
  expect([data[0], data[48], data[143]]).toEqual([0, 1, 2])
})

test('a bad config.json, or none, is named', async () => {
  const path = folder()
  await savePretrained(new Transformer(base), path)
  writeFileSync(join(path, 'config.json'), '{')
  await expect(loadPretrained(path)).rejects.toThrow(/config\.json is not JSON/)
  rmSync(join(path, 'config.json'))
  await expect(loadPretrained(path)).rejects.toThrow(/config\.json/)
})

describe.each(['dense_polynorm', 'dense_polyrelu_gqa_tied', 'dense_swiglu', 'moe_polynorm'])('%s', (run) => {
  test('the weights that PyTorch wrote load, all of them, and are written under the same names', async () => {
    const golden = new URL(`../golden/${run}/`, import.meta.url).pathname
    const { model: fields } = JSON.parse(readFileSync(join(golden, 'config.json'), 'utf8'))
    const model = new Transformer(fields)
    await loadWeights(model, join(golden, 'init.safetensors'))
    const path = folder()
    await savePretrained(model, path)
    expect(names(join(path, 'model.safetensors'))).toEqual(names(join(golden, 'init.safetensors')))
    const [a, b] = await Promise.all([loadSafetensors(path), loadSafetensors(join(golden, 'init.safetensors'))])
    for (const [name, t] of Object.entries(b!)) expect(a![name]!.dataSync(), name).toEqual(t.dataSync())
  })
})
