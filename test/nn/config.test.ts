import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import {
  activations,
  isGated,
  isPolynomial,
  modelConfig,
  modelRules,
  presetName,
  presets,
} from '../../lib/nn/config.ts'

const small = {
  vocab_size: 256,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  intermediate_size: 128,
}
const moe = { ...small, num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 96 }

test('the defaults are those of interchange.md', () => {
  expect(modelConfig(small)).toEqual({
    ...small,
    num_key_value_heads: 4,
    head_dim: 16,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    max_position_embeddings: 2048,
    tie_word_embeddings: false,
    initializer_range: 0.02,
    initializer_cutoff: null,
    hidden_act: 'polynorm',
    poly_order: 3,
    poly_eps: 1e-6,
    num_experts: 0,
    num_experts_per_tok: 1,
    moe_intermediate_size: 128,
    norm_topk_prob: false,
    router_aux_loss_coef: 0.01,
    router_z_loss_coef: 0.001,
    num_shared_experts: 0,
    act_per_expert: false,
    qk_norm: false,
    hidden_dropout: 0,
    norm_type: 'rms',
  })
})

test('every field of a complete configuration has a rule that accepts it', () => {
  const full = modelConfig({ ...moe, preset: 'polycom-moe-1b-7b' })
  expect(Object.keys(full).sort()).toEqual(Object.keys(modelRules).sort())
  expect(modelConfig(full)).toEqual(full)
})

test.each(['dense_polynorm', 'dense_polyrelu_gqa_tied', 'dense_swiglu', 'moe_polynorm'])('golden %s', (run) => {
  const given = JSON.parse(readFileSync(new URL(`../golden/${run}/config.json`, import.meta.url), 'utf8')).model
  expect(modelConfig(given)).toMatchObject(given)
})

describe('presets', () => {
  test('the dense model of the paper', () => {
    const c = modelConfig({ preset: 'polycom-dense-1b' })
    expect(c).toMatchObject({
      vocab_size: 32000,
      hidden_size: 2048,
      num_hidden_layers: 24,
      num_attention_heads: 16,
      num_key_value_heads: 16,
      head_dim: 128,
      intermediate_size: 8256,
      hidden_act: 'polynorm',
      poly_order: 3,
      max_position_embeddings: 4096,
      tie_word_embeddings: false,
      num_experts: 0,
      initializer_cutoff: null,
      qk_norm: false,
    })
    expect(c.initializer_range).toBeCloseTo(0.013975424859373685, 15)
    // "1B" by the paper: two embeddings, and per layer attention and two matrices.
    const weights = 2 * 32000 * 2048 + 24 * (4 * 2048 ** 2 + 2 * 2048 * 8256)
    expect(weights / 1e9).toBeCloseTo(1.345, 2)
  })
  test('the MoE model of the paper', () => {
    expect(modelConfig({ preset: 'polycom-moe-1b-7b' })).toMatchObject({
      vocab_size: 50304,
      hidden_size: 2048,
      num_hidden_layers: 16,
      num_attention_heads: 16,
      num_experts: 64,
      num_experts_per_tok: 8,
      moe_intermediate_size: 1536,
      qk_norm: true,
      norm_topk_prob: false,
      router_aux_loss_coef: 0.01,
      router_z_loss_coef: 0.001,
      initializer_range: 0.02,
      initializer_cutoff: 3,
      max_position_embeddings: 4096,
      tie_word_embeddings: false,
    })
  })
  test('given fields override it', () => {
    expect(modelConfig({ preset: 'polycom-dense-1b', num_hidden_layers: 2, vocab_size: 256 })).toMatchObject({
      num_hidden_layers: 2,
      vocab_size: 256,
      hidden_size: 2048,
    })
  })
  test('a gated activation takes the width of equal parameters', () => {
    expect(modelConfig({ preset: 'polycom-dense-1b', hidden_act: 'swiglu' }).intermediate_size).toBe(5504)
    expect(modelConfig({ preset: 'polycom-moe-1b-7b', hidden_act: 'swiglu' }).moe_intermediate_size).toBe(1024)
    expect(3 * 5504).toBe(2 * 8256)
    expect(modelConfig({ preset: 'polycom-dense-1b', hidden_act: 'relu' }).intermediate_size).toBe(8256)
    const given = { preset: 'polycom-dense-1b', hidden_act: 'swiglu', intermediate_size: 7 }
    expect(modelConfig(given).intermediate_size).toBe(7)
  })
  test('by name', () => {
    expect(presetName('polycom-dense-1b')).toBe('polycom-dense-1b')
    expect(() => presetName('polycom-dense-1B7')).toThrow('did you mean "polycom-dense-1b"?')
    for (const name of Object.keys(presets)) expect(modelConfig({ preset: name }).preset).toBe(name)
  })
})

test('activations', () => {
  expect(activations.filter(isGated)).toEqual(['polynorm_glu', 'swiglu'])
  expect(activations.filter(isPolynomial)).toEqual(['polynorm', 'polyrelu', 'polynorm_glu'])
  expect(modelConfig({ ...small, hidden_act: 'silu' }).hidden_act).toBe('swiglu')
})

test('experts take their width from intermediate_size, and the other way round', () => {
  const { moe_intermediate_size: _, ...fromDense } = moe
  expect(modelConfig(fromDense).moe_intermediate_size).toBe(128)
  const { intermediate_size: __, ...fromMoe } = moe
  expect(modelConfig(fromMoe).intermediate_size).toBe(96)
})

test.each([
  [{ ...small, hidden_sise: 3 }, 'model.hidden_sise', 'did you mean "hidden_size"?'],
  [{ ...small, hidden_act: 'swiglue' }, 'model.hidden_act', 'did you mean "swiglu"?'],
  [{ ...small, hidden_size: undefined }, 'model.hidden_size', 'is missing: it must be an integer of at least 1'],
  [{ vocab_size: 256 }, 'model.hidden_size', 'is missing: it must be an integer of at least 1'],
  [{ ...small, hidden_size: 64.5 }, 'model.hidden_size', 'is 64.5 but must be an integer'],
  [{ ...small, num_attention_heads: 5 }, 'model.num_attention_heads', 'is 5 but must divide hidden_size, 64'],
  [{ ...small, num_key_value_heads: 3 }, 'model.num_key_value_heads', 'must divide num_attention_heads, 4'],
  [{ ...small, num_key_value_heads: 8 }, 'model.num_key_value_heads', 'must divide num_attention_heads, 4'],
  [{ ...small, num_attention_heads: 64 }, 'model.head_dim', 'is 1 but must be even'],
  [{ ...small, head_dim: 15 }, 'model.head_dim', 'must be even'],
  [{ ...small, poly_order: 9 }, 'model.poly_order', 'an integer from 1 to 8'],
  [{ ...small, hidden_dropout: 1 }, 'model.hidden_dropout', 'below 1'],
  [{ ...small, tie_word_embeddings: 'yes' }, 'model.tie_word_embeddings', 'true or false'],
  [{ ...small, preset: 'polycom' }, 'model.preset', 'did you mean "polycom-'],
  [{ ...moe, num_experts_per_tok: 9 }, 'model.num_experts_per_tok', 'must be at most num_experts, 8'],
  [{ ...small, num_experts: 4 }, 'model.num_experts_per_tok', 'is missing'],
  [{ ...moe, act_per_expert: true, hidden_act: 'relu' }, 'model.act_per_expert', 'has no coefficients'],
  [{ ...small, rms_norm_eps: 0 }, 'model.rms_norm_eps', 'above 0'],
])('%j', (fields, field, message) => {
  expect(() => modelConfig(fields)).toThrow(
    expect.objectContaining({ field, message: expect.stringContaining(message) }),
  )
})
