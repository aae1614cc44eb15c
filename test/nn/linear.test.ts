import { expect, test } from 'vitest'
import { Linear } from '../../lib/nn/linear.ts'
import { randn } from '../../lib/ops/random.ts'
import { distance, matrix, product, valuesOf } from './reference.ts'

test('x weight^T + bias', () => {
  const layer = new Linear(5, 3, { dtype: 'float64' })
  const x = randn([2, 4, 5], { dtype: 'float64' })
  const v = valuesOf(new Map([...layer.stateDict(), ['x', x.reshape([8, 5])]]))
  const expected = product(matrix(v, 'x'), matrix(v, 'weight')).flatMap((row) =>
    row.map((y, i) => y + v.bias!.data[i]!),
  )
  const y = layer.forward(x)
  expect(y.shape).toEqual([2, 4, 3])
  expect(distance(y.dataSync() as Float64Array, expected)).toBeLessThan(1e-14)
})

test('its parameters, and their initial range', () => {
  const layer = new Linear(16, 100)
  expect([...layer.namedParameters()].map(([name, p]) => [name, p.shape])).toEqual([
    ['weight', [100, 16]],
    ['bias', [100]],
  ])
  for (const p of layer.parameters()) {
    const most = Math.max(...(p.dataSync() as Float32Array).map(Math.abs))
    expect(most).toBeLessThanOrEqual(0.25)
    expect(most).toBeGreaterThan(0.2)
  }
  expect([...new Linear(2, 2, { bias: false }).namedParameters().keys()]).toEqual(['weight'])
})
