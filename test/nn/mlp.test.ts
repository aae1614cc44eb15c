import { expect, test } from 'vitest'
import { activations, isGated, isPolynomial, modelConfig } from '../../lib/nn/config.ts'
import { normal } from '../../lib/nn/init.ts'
import { Mlp } from '../../lib/nn/mlp.ts'
import { randn } from '../../lib/ops/random.ts'
import { distance, feedForward, matrix, valuesOf } from './reference.ts'

test.each(activations)('%s', (act) => {
  const config = modelConfig({
    vocab_size: 1,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    hidden_size: 4,
    intermediate_size: 7,
    hidden_act: act,
    poly_order: 4,
  })
  const layer = new Mlp(
    { kind: 'dense', hidden: 4, intermediate: 7, act, order: 4 },
    { init: normal(1), dtype: 'float64' },
  )
  if (isPolynomial(act))
    layer.loadStateDict({ 'act_fn.weight': randn([4]), 'act_fn.bias': randn([1]) }, { strict: false })
  expect([...layer.namedParameters()].map(([name, p]) => [name, p.shape])).toEqual([
    ['up_proj.weight', [7, 4]],
    ...(isGated(act) ? [['gate_proj.weight', [7, 4]]] : []),
    ['down_proj.weight', [4, 7]],
    ...(isPolynomial(act)
      ? [
          ['act_fn.weight', [4]],
          ['act_fn.bias', [1]],
        ]
      : []),
  ])
  const x = randn([2, 3, 4], { dtype: 'float64' })
  const v = valuesOf(new Map([...layer.stateDict(), ['x', x.reshape([6, 4])]]))
  const { y } = layer.forward(x)
  expect(y.shape).toEqual([2, 3, 4])
  expect(distance(y.dataSync() as Float64Array, feedForward(matrix(v, 'x'), v, '', config).y.flat())).toBeLessThan(
    1e-12,
  )
})
