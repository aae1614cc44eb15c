// The roofline (Williams, Waterman and Patterson, CACM 2009) as SVG: operations a second over operations a byte, the
// machine's two ceilings, and a point for each piece of work.

import type { Ceilings, Figures } from '../bench/measure.ts'
import { escapeHtml } from './figures.ts'

const [width, height] = [860, 480]
const [left, right, top, bottom] = [70, 20, 40, 50]
const palette = ['#2563eb', '#dc2626', '#059669', '#d97706', '#7c3aed', '#0891b2', '#be185d', '#4d7c0f']

const power = (n: number): string => {
  const names: Record<number, string> = { 9: 'G', 12: 'T', 15: 'P', 6: 'M' }
  const of = Math.floor(n / 3) * 3
  return `${10 ** (n - of)} ${names[of] ?? `e${of} `}`
}

/**
 * @param title what stands above it: machine, device, dtype
 * @returns a whole SVG document. Work without matrix products is drawn by the additions and multiplications of one a
 * byte: what it shares with the rest is the slope.
 */
export function roofline(title: string, figures: readonly Figures[], { bandwidth, rate }: Ceilings): string {
  const points = figures.map((f) => {
    const operations = f.operations || f.bytes
    return { f, x: operations / f.bytes, y: operations / f.seconds.median }
  })
  const ridge = rate / bandwidth
  const xs = [...points.map((p) => p.x), ridge || 1]
  const ys = [...points.map((p) => p.y), rate || bandwidth]
  const low = (v: readonly number[]) => Math.floor(Math.log10(Math.min(...v)) - 0.3)
  const high = (v: readonly number[]) => Math.ceil(Math.log10(Math.max(...v)) + 0.3)
  const [x0, x1, y0, y1] = [low(xs), high(xs), low(ys), high(ys)]
  const px = (x: number) => left + ((Math.log10(x) - x0) / (x1 - x0)) * (width - left - right)
  const py = (y: number) => height - bottom - ((Math.log10(y) - y0) / (y1 - y0)) * (height - top - bottom)
  const parts: string[] = []
  const line = (ax: number, ay: number, bx: number, by: number, style: string) =>
    parts.push(
      `<line x1="${px(ax).toFixed(1)}" y1="${py(ay).toFixed(1)}" x2="${px(bx).toFixed(1)}" y2="${py(by).toFixed(1)}" ${style}/>`,
    )
  for (let n = x0; n <= x1; n++) {
    line(10 ** n, 10 ** y0, 10 ** n, 10 ** y1, 'stroke="#e5e7eb"')
    parts.push(
      `<text x="${px(10 ** n)}" y="${height - bottom + 18}" text-anchor="middle">${n < 0 ? 10 ** n : power(n)}</text>`,
    )
  }
  for (let n = y0; n <= y1; n++) {
    line(10 ** x0, 10 ** n, 10 ** x1, 10 ** n, 'stroke="#e5e7eb"')
    parts.push(`<text x="${left - 8}" y="${py(10 ** n) + 4}" text-anchor="end">${power(n)}FLOP/s</text>`)
  }
  // The slope from the lower left edge to the ridge (or to the right edge), then the flat.
  const end = rate > 0 ? ridge : 10 ** x1
  const begin = Math.max(10 ** x0, 10 ** y0 / bandwidth)
  line(begin, begin * bandwidth, end, end * bandwidth, 'stroke="#111827" stroke-width="2"')
  if (rate > 0) line(ridge, rate, 10 ** x1, rate, 'stroke="#111827" stroke-width="2"')
  points.forEach(({ f, x, y }, i) => {
    const color = palette[i % palette.length]!
    const flip = px(x) > width * 0.7
    parts.push(
      `<circle cx="${px(x).toFixed(1)}" cy="${py(y).toFixed(1)}" r="4" fill="${color}"><title>${escapeHtml(`${f.name} ${f.shape}: ${(f.seconds.median * 1e3).toPrecision(3)} ms`)}</title></circle>`,
      `<text x="${(px(x) + (flip ? -8 : 8)).toFixed(1)}" y="${(py(y) + 4).toFixed(1)}" text-anchor="${flip ? 'end' : 'start'}" fill="${color}">${escapeHtml(`${f.name} ${f.shape}`)}</text>`,
    )
  })
  parts.push(
    `<text x="${left}" y="22" font-size="15" font-weight="600">${escapeHtml(title)}</text>`,
    `<text x="${(left + width - right) / 2}" y="${height - 12}" text-anchor="middle">operations a byte (row kernels: drawn at 1)</text>`,
  )
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, sans-serif" font-size="12" fill="#374151">`,
    `<rect width="${width}" height="${height}" fill="white"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n')
}
