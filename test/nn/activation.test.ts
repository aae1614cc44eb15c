import { expect, test } from 'vitest'
import { Activation } from '../../lib/nn/activation.ts'
import { activations, isGated, isPolynomial } from '../../lib/nn/config.ts'
import { randn } from '../../lib/ops/random.ts'
import { activation, distance, matrix, valuesOf } from './reference.ts'

test.each(activations.flatMap((act) => (isPolynomial(act) ? [2, 3, 4] : [3]).map((order) => [act, order] as const)))(
  '%s of order %i',
  (act, order) => {
    const layer = new Activation(act, { order, eps: 1e-3, dtype: 'float64' })
    if (isPolynomial(act)) {
      expect(Array.from(layer.weight!.dataSync() as Float64Array)).toEqual(new Array(order).fill(1 / order))
      expect(layer.bias!.dataSync()).toEqual(new Float64Array(1))
      layer.loadStateDict({ weight: randn([order]), bias: randn([1]) })
    } else expect(layer.parameters()).toEqual([])
    const up = randn([5, 7], { dtype: 'float64' })
    const gate = randn([5, 7], { dtype: 'float64' })
    const v = valuesOf(new Map([...layer.stateDict(), ['up', up], ['gate', gate]]))
    const [ups, gates] = [matrix(v, 'up'), matrix(v, 'gate')]
    const w = Array.from(v.weight?.data ?? [])
    const expected = ups.flatMap((row, i) => activation(act, row, gates[i]!, w, v.bias?.data[0] ?? 0, 1e-3))
    const y = layer.forward(up, isGated(act) ? gate : undefined)
    expect(distance(y.dataSync() as Float64Array, expected)).toBeLessThan(1e-12)
    expect(() => layer.forward(up, isGated(act) ? undefined : gate)).toThrow(act)
  },
)
