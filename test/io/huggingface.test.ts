import { describe, expect, test } from 'vitest'
import { fromHuggingFace, toHuggingFace } from '../../lib/io/huggingface.ts'
import { activations, modelConfig } from '../../lib/nn/config.ts'

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
