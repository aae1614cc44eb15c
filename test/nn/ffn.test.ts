import { expect, test } from 'vitest'
import { modelConfig } from '../../lib/nn/config.ts'
import { feedForward, ffnConfig } from '../../lib/nn/ffn.ts'
import { Mlp } from '../../lib/nn/mlp.ts'
import { Moe } from '../../lib/nn/moe.ts'

const base = { vocab_size: 9, num_hidden_layers: 1, num_attention_heads: 1, hidden_size: 4, intermediate_size: 6 }

test('a model without experts has dense layers', () => {
  const config = ffnConfig(modelConfig({ ...base, hidden_act: 'polyrelu', poly_order: 4, poly_eps: 1e-3 }))
  expect(config).toEqual({ kind: 'dense', hidden: 4, intermediate: 6, act: 'polyrelu', order: 4, eps: 1e-3 })
  const layer = feedForward(config)
  expect(layer).toBeInstanceOf(Mlp)
  expect((layer as Mlp).act_fn.weight!.shape).toEqual([4])
})

test('a model with experts has MoE layers, of the experts’ width', () => {
  const moe = { num_experts: 3, num_experts_per_tok: 2, moe_intermediate_size: 5, norm_topk_prob: true }
  const layer = feedForward(ffnConfig(modelConfig({ ...base, ...moe, num_shared_experts: 1 }))) as Moe
  expect(layer).toBeInstanceOf(Moe)
  expect(layer.experts.up_proj.weight.shape).toEqual([3, 5, 4])
  expect(layer.shared_expert!.up_proj.weight.shape).toEqual([5, 4])
  expect([layer.experts_per_token, layer.norm_topk_prob]).toEqual([2, true])
})
