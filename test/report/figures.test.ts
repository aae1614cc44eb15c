import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  downsample,
  escapeHtml,
  heatFigure,
  lineFigure,
  type Points,
  safeJson,
  shortNumber,
  smooth,
  ticks,
} from '../../lib/report/figures.ts'

const line = (n: number, f: (i: number) => number): Points => Array.from({ length: n }, (_, i) => [i, f(i)] as const)
/** The data that the pointer's script reads. */
const dataOf = (html: string) => JSON.parse(/<script type="application\/json">(.*?)<\/script>/s.exec(html)![1]!)

describe('downsample', () => {
  test('keeps the ends of the range, the order and every spike', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ noNaN: true, noDefaultInfinity: true }), { maxLength: 400 }),
        fc.integer({ min: 2, max: 60 }),
        (ys, count) => {
          const points = line(ys.length, (i) => ys[i]!)
          const few = downsample(points, count)
          expect(few.length).toBeLessThanOrEqual(Math.max(count, 2))
          expect(few.every((p, i) => i === 0 || p[0] > few[i - 1]![0])).toBe(true)
          if (ys.length === 0) return
          expect(Math.max(...few.map((p) => p[1]))).toBe(Math.max(...ys))
          expect(Math.min(...few.map((p) => p[1]))).toBe(Math.min(...ys))
        },
      ),
    )
  })
  test('a stretch without a number stays a gap', () => {
    const few = downsample(
      line(100, (i) => (i >= 40 && i < 60 ? Number.NaN : i)),
      20,
    )
    expect(few.filter((p) => Number.isNaN(p[1])).map((p) => p[0])).toEqual([40, 50])
  })
})

describe('smooth', () => {
  test('is the weighted mean of its definition', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -9, max: 9, noNaN: true }), { minLength: 1, maxLength: 20 }),
        fc.double({ min: 0.1, max: 30, noNaN: true }),
        (ys, span) => {
          const got = smooth(
            line(ys.length, (i) => ys[i]!),
            span,
          )
          for (let i = 0; i < ys.length; i++) {
            const w = ys.map((_, j) => Math.exp(-Math.abs(i - j) / span))
            const mean = ys.reduce((sum, y, j) => sum + w[j]! * y, 0) / w.reduce((a, b) => a + b)
            expect(Math.abs(got[i]![1] - mean)).toBeLessThan(1e-9)
          }
        },
      ),
    )
  })
  test('passes over what is not finite', () => {
    expect(
      smooth(
        [
          [0, 1],
          [1, Number.NaN],
          [2, 1],
        ],
        5,
      ),
    ).toEqual([
      [0, 1],
      [2, 1],
    ])
    expect(smooth([], 5)).toEqual([])
  })
})

test('ticks are round and inside', () => {
  expect(ticks(0, 10, 5)).toEqual([0, 2, 4, 6, 8, 10])
  expect(ticks(1.13, 1.52, 4)).toEqual([1.2, 1.3, 1.4, 1.5])
  expect(ticks(-0.05, 0.05, 4)).toEqual([-0.05, -0.025, 0, 0.025, 0.05])
  expect(ticks(3, 3, 4)).toEqual([3])
  fc.assert(
    fc.property(
      fc.double({ min: -1e6, max: 1e6, noNaN: true }),
      fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
      (low, room) => {
        const list = ticks(low, low + room, 5)
        expect(list.length).toBeGreaterThanOrEqual(2)
        expect(list.length).toBeLessThanOrEqual(7)
        expect(list.every((v) => v >= low - room * 1e-6 && v <= low + room * (1 + 1e-6))).toBe(true)
      },
    ),
  )
})

test('short numbers', () => {
  expect([0, 1.25, 0.0005, 0.00003, 9999, 12000, 1_229_000, 2.5e9, -0.1, 1 / 3].map(shortNumber)).toEqual([
    '0',
    '1.25',
    '0.0005',
    '3e-5',
    '9999',
    '12k',
    '1.229M',
    '2.5G',
    '-0.1',
    '0.3333',
  ])
})

describe('lineFigure', () => {
  test('draws what it is given, and carries the values for the pointer', () => {
    const html = lineFigure({
      title: 'a < b',
      unit: 'u',
      series: [
        {
          name: 'one',
          points: [
            [1, 0],
            [2, 5],
            [3, Number.NaN],
            [4, 10],
          ],
        },
      ],
      fromZero: true,
    })
    expect(html).toContain('<b>a &lt; b</b>')
    expect(dataOf(html)).toMatchObject({
      range: [1, 4, 0, 10.4],
      series: [{ name: 'one', x: [1, 2, 3, 4], y: [0, 5, null, 10] }],
    })
    // (1, 0) is bottom left; the pen is lifted over the gap.
    expect(html).toMatch(/class="line"[^>]* d="M0 1000L333.3 519.2M1000 38.5"/)
  })
  test('nothing to draw, one point, one value', () => {
    expect(lineFigure({ title: 't', series: [{ name: 'a', points: [] }] })).toBe('')
    for (const points of [
      [[5, 2]],
      [
        [1, 3],
        [2, 3],
      ],
      [[1, Number.NaN]],
    ] as Points[])
      expect(lineFigure({ title: 't', series: [{ name: 'a', points }] })).not.toMatch(/NaN|Infinity|undefined/)
  })
  test('a hundred thousand points stay a small figure, whose spike stays', () => {
    const html = lineFigure({
      title: 't',
      series: [{ name: 'a', points: line(100_000, (i) => (i === 54_321 ? 9 : Math.sin(i / 9000))) }],
    })
    expect(html.length).toBeLessThan(80_000)
    expect(Math.max(...dataOf(html).series[0].y)).toBe(9)
  })
  test('a few wild raw values do not press the curve flat', () => {
    const faint = {
      name: 'raw',
      style: 'faint',
      points: line(1000, (i) => (i % 500 === 7 ? 1e6 : 1 + (i % 10) / 10)),
    } as const
    const html = lineFigure({ title: 't', series: [faint, { name: 'smooth', points: line(1000, () => 1.5) }] })
    expect(dataOf(html).range[3]).toBeLessThan(3)
  })
})

test('heatFigure: a cell for each value, its number in its title', () => {
  const html = heatFigure({
    title: 'load',
    rows: [{ name: 'layer 0', values: [0.125, 0.5, 0] }],
    column: 'expert',
    neutral: 0.125,
  })
  const cells = [...html.matchAll(/var\((--\w+)\) (\d+)%\)" title="([^"]+)"/g)].map((m) => m.slice(1))
  expect(cells).toEqual([
    ['--more', '0', 'layer 0, expert 0: 0.125'],
    ['--more', '100', 'layer 0, expert 1: 0.5'],
    ['--less', '100', 'layer 0, expert 2: 0'],
  ])
  expect(heatFigure({ title: 'load', rows: [], column: 'expert', neutral: 1 })).toBe('')
})

test('escapes', () => {
  expect(escapeHtml('<a href="x">&')).toBe('&lt;a href=&quot;x&quot;&gt;&amp;')
  expect(safeJson({ a: '</script>' })).toBe('{"a":"\\u003c/script>"}')
  expect(JSON.parse(safeJson({ a: '</script>' }))).toEqual({ a: '</script>' })
})
