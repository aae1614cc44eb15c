import { expect, test } from 'vitest'
import { attentionProducts, linearProducts, operations } from '../../lib/bench/products.ts'
import { modelConfig } from '../../lib/nn/config.ts'

const base = { vocab_size: 100, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64 }

test('a dense step takes six operations a token for each weight of a matrix', () => {
  const weights = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 100 * 32
  expect(operations(linearProducts(modelConfig(base), 3, 8))).toBe(6 * weights * 3 * 8)
  const gated = 2 * (4 * 32 * 32 + 3 * 32 * 64) + 100 * 32
  expect(operations(linearProducts(modelConfig({ ...base, hidden_act: 'swiglu' }), 3, 8))).toBe(6 * gated * 3 * 8)
})

test('of the experts only those that a token is sent to count', () => {
  const moe = modelConfig({ ...base, num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 16 })
  const weights = 2 * (4 * 32 * 32 + 32 * 4 + 2 * 2 * 32 * 16) + 100 * 32
  expect(operations(linearProducts(moe, 2, 8))).toBe(6 * weights * 16)
})

test('attention: two products forward, four backward', () => {
  expect(operations(attentionProducts(modelConfig(base), 3, 8))).toBe(6 * 2 * 8 * 8 * 8 * 3 * 4 * 2)
})
