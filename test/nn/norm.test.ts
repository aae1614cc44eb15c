import { describe, expect, test } from 'vitest'
import { LayerNorm, RMSNorm } from '../../lib/nn/norm.ts'
import { randn } from '../../lib/ops/random.ts'
import { distance, layerNorm, matrix, rmsNorm, valuesOf } from './reference.ts'

const kind = { dtype: 'float64' } as const

describe.each([
  ['RMSNorm', () => new RMSNorm(6, { eps: 0.1, ...kind }), rmsNorm],
  ['LayerNorm', () => new LayerNorm(6, { eps: 0.1, bias: false, ...kind }), layerNorm],
])('%s', (_, make, reference) => {
  const norm = make()
  norm.loadStateDict({ weight: randn([6], kind) })
  const x = randn([4, 6], kind)
  const residual = randn([4, 6], kind)
  const { weight, sum } = valuesOf(new Map([...norm.stateDict(), ['sum', x.add(residual)]]))
  const of = (rows: number[][]) => rows.flatMap((row) => reference(row, Array.from(weight!.data), 0.1))

  test('forward', () => {
    const rows = matrix(valuesOf(new Map([['x', x]])), 'x')
    expect(distance(norm.forward(x).dataSync() as Float64Array, of(rows))).toBeLessThan(1e-14)
  })
  test('addForward is the norm of the sum', () => {
    const both = norm.addForward(x, residual)
    expect(distance(both.sum.dataSync() as Float64Array, sum!.data)).toBe(0)
    expect(distance(both.y.dataSync() as Float64Array, of(matrix({ sum: sum! }, 'sum')))).toBeLessThan(1e-14)
  })
})

test('parameters: ones, and a bias of zeros for LayerNorm; float32 in a 16-bit model', () => {
  const layer = new LayerNorm(2, { dtype: 'bfloat16' })
  expect(
    [...layer.namedParameters()].map(([name, p]) => [name, p.dtype, Array.from(p.dataSync() as Float32Array)]),
  ).toEqual([
    ['weight', 'float32', [1, 1]],
    ['bias', 'float32', [0, 0]],
  ])
  expect([...new RMSNorm(2).namedParameters().keys()]).toEqual(['weight'])
})
