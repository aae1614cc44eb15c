import { describe, expect, test } from 'vitest'
import { cases, worksOf } from '../../lib/bench/cases.ts'
import { bench, type Figures, measure, readShape, shareOfRoof, type Work } from '../../lib/bench/index.ts'
import { expectNear } from '../../lib/bench/work.ts'
import { getDefaultDevice } from '../../lib/ops/create.ts'
import { roofline } from '../../lib/report/roofline.ts'
import { scope } from '../../lib/tensor.ts'

const device = getDefaultDevice()
const tiny = {
  copy: '1000',
  gemm: '33x40x24',
  linear: '33x24x40',
  poly: '5x37',
  norm: '5x37',
  loss: '6x29',
  adamw: '1000',
  attention: '1x2x9x16',
  ffn: '6x16x24',
  moe: '9x16x24x4x2',
} as const

describe('every case is right before it is timed', () => {
  for (const name of Object.keys(cases) as (keyof typeof cases)[])
    for (const dtype of ['float32', 'bfloat16'] as const)
      test(`${name} in ${dtype}`, () =>
        scope(() => {
          const [make] = worksOf(name, { device, dtype }, tiny[name])
          const works = make!()
          expect(works.length).toBeGreaterThan(0)
          for (const work of works) {
            work.check()
            work.run(0)
            for (const run of Object.values(work.beside ?? {})) run(0)
            expect(work.bytes).toBeGreaterThan(0)
          }
        }))
})

test('a wrong result is named and not measured', async () => {
  let ran = 0
  const [make] = worksOf('copy', { device, dtype: 'float32' }, '100')
  await scope(async () => {
    const wrong: Work = {
      ...make!()[0]!,
      run: () => {
        ran++
      },
      check: () => expectNear([1, 2, 3.5], [1, 2, 3], 'float32', 'triple'),
    }
    await expect(measure(wrong, { device })).rejects.toThrow('triple is wrong: element 2 is 3.5, expected 3')
  })
  expect(ran).toBe(0)
  expect(() => expectNear([Number.NaN], [1], 'float32', 'x')).toThrow('x is wrong: element 0 is NaN')
})

test('a benchmark finds its ceilings, takes shares of them, and draws its roofline', async () => {
  const seen: string[] = []
  const result = await bench({
    device,
    dtype: 'float32',
    cases: ['copy'],
    shapes: { copy: '5000', gemm: '16x16x16' },
    rounds: 3,
    onFigures: (f) => seen.push(f.name),
  })
  expect(seen).toEqual(['copy'])
  const [copy] = result.figures
  expect(copy!.bytes).toBe(2 * 5000 * 4)
  expect(copy!.bandwidth).toBeCloseTo(copy!.bytes / copy!.seconds.median, 0)
  expect(result.ceilings.bandwidth).toBeCloseTo(copy!.bandwidth, 0)
  expect(result.ceilings.rate).toBeGreaterThan(0)
  const svg = roofline('a <machine>', result.figures, result.ceilings)
  expect(svg).toContain('a &lt;machine>'.replace('>', '&gt;'))
  expect(svg.match(/<circle/g)).toHaveLength(1)
  expect(svg).not.toContain('NaN')
})

test('a case that fails ends the benchmark, or is told of and the others go on', async () => {
  const shapes = { copy: '100', gemm: '8x8x8', norm: '5', adamw: '100' }
  const asked = { device, dtype: 'float32', cases: ['norm', 'adamw'], shapes, rounds: 3 } as const
  await expect(bench(asked)).rejects.toThrow('norm takes rows, columns')
  const failed: string[] = []
  const { figures } = await bench({ ...asked, onFailure: (name, error) => failed.push(`${name}: ${error.message}`) })
  expect(failed).toEqual([expect.stringMatching(/^norm: .*norm takes rows, columns/)])
  expect(figures.map((f) => f.name)).toEqual(['adamw'])
})

test('the share of the roof is that of the nearer ceiling', () => {
  const figures = { bytes: 100, operations: 1000, seconds: { median: 2, min: 2, max: 2, runs: 1 } } as Figures
  expect(shareOfRoof(figures, { bandwidth: 100, rate: 1e6 })).toBeCloseTo(0.5)
  expect(shareOfRoof(figures, { bandwidth: 1e6, rate: 1000 })).toBeCloseTo(0.5)
})

test('a shape that a case does not take is named', () => {
  expect(readShape('poly', '8192x8256')).toEqual([8192, 8256])
  expect(() => readShape('poly', '8192')).toThrow('--shape is "8192", but poly takes rows, columns, such as 4096x4096')
  expect(() => readShape('gemm', '1x2x0')).toThrow('gemm takes m, n, k')
})
