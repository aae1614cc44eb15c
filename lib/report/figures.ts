// Figures as HTML with inline SVG: lines over steps and heat maps. Text keeps its size at every width; report.ts has style and script.

/** Points (x, y), x ascending. A y that is not finite is a gap. */
export type Points = readonly (readonly [number, number])[]

/** One line of a figure. */
export interface Series {
  name: string
  points: Points
  /** A CSS colour; default: the next of the palette. */
  color?: string
  /** `faint` for raw values behind a smoothed line; `dots` marks each point. Default `line`. */
  style?: 'line' | 'faint' | 'dots'
}

/** What {@link lineFigure} draws. */
export interface LineFigure {
  title: string
  /** What y is, shown beside the title. */
  unit?: string
  series: readonly Series[]
  /** Height in pixels. Default 200. */
  height?: number
  /** y begins at 0. */
  fromZero?: boolean
  /** Spans the page. */
  wide?: boolean
  /** Colours from one end of a ramp to the other, and only the ends in the legend: for many lines of one kind, such as layers. */
  ramp?: { from: string; to: string }
}

export const escapeHtml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

/**
 * At most `count` points that look the same: of each stretch the lowest and the highest, in their order, so that spikes stay.
 */
export function downsample(points: Points, count: number): Points {
  if (points.length <= count) return points
  const buckets = Math.max(1, Math.floor(count / 2))
  const out: (readonly [number, number])[] = []
  for (let b = 0; b < buckets; b++) {
    const from = Math.floor((b * points.length) / buckets)
    const to = Math.floor(((b + 1) * points.length) / buckets)
    let low = -1
    let high = -1
    for (let i = from; i < to; i++) {
      if (!Number.isFinite(points[i]![1])) continue
      if (low < 0 || points[i]![1] < points[low]![1]) low = i
      if (high < 0 || points[i]![1] > points[high]![1]) high = i
    }
    if (low < 0) out.push([points[from]![0], Number.NaN])
    else for (const i of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) out.push(points[i]!)
  }
  return out
}

/**
 * A mean of each point's neighbours on both sides, weighted by exp(-distance / span), so that it does not lag behind. Points that
 * are not finite are passed over.
 */
export function smooth(points: Points, span: number): Points {
  const finite = points.filter(([, y]) => Number.isFinite(y))
  const keep = Math.exp(-1 / Math.max(span, 1e-9))
  const sums = new Float64Array(finite.length)
  const weights = new Float64Array(finite.length)
  for (const way of [1, -1]) {
    let sum = 0
    let weight = 0
    for (let i = way > 0 ? 0 : finite.length - 1; i >= 0 && i < finite.length; i += way) {
      sum = sum * keep + finite[i]![1]
      weight = weight * keep + 1
      sums[i]! += sum
      weights[i]! += weight
    }
  }
  // The point itself was counted from both sides.
  return finite.map(([x, y], i) => [x, (sums[i]! - y) / (weights[i]! - 1)] as const)
}

/** Round values that cover low to high, about `count` of them. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count
  if (!(rough > 0) || !Number.isFinite(rough)) return [low]
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 2.5, 5].find((m) => m * power >= rough * 0.999) ?? 10)
  const out: number[] = []
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    out.push(Number((i * step).toPrecision(12)))
  return out
}

/** A number in few characters: `1.25`, `0.0003`, `3e-5`, `12k`. */
export function shortNumber(x: number): string {
  const size = Math.abs(x)
  if (!Number.isFinite(x)) return String(x)
  if (size >= 1e4) {
    const [unit, name] = size >= 1e12 ? [1e12, 'T'] : size >= 1e9 ? [1e9, 'G'] : size >= 1e6 ? [1e6, 'M'] : [1e3, 'k']
    return `${Number((x / (unit as number)).toPrecision(4))}${name}`
  }
  if (size > 0 && size < 1e-4) return x.toExponential(2).replace(/\.?0+e/, 'e')
  return String(Number(x.toPrecision(4)))
}

/** The range of y that a figure shows: a few early or wild values do not press the rest flat. */
function yRange(series: readonly Series[], fromZero: boolean): [number, number] {
  const solid = series.filter((s) => s.style !== 'faint')
  const values = (list: readonly Series[]) =>
    list
      .flatMap((s) => s.points.map(([, y]) => y))
      .filter(Number.isFinite)
      .sort((a, b) => a - b)
  const sure = values(solid.length ? solid : series)
  const faint = values(series.filter((s) => s.style === 'faint'))
  if (sure.length === 0) return [0, 1]
  const at = (list: number[], q: number) => list[Math.round(q * (list.length - 1))]!
  let low = sure[0]!
  let high = sure.at(-1)!
  if (faint.length > 0) {
    low = Math.min(low, at(faint, 0.01))
    high = Math.max(high, at(faint, 0.99))
  }
  if (fromZero) low = Math.min(0, low)
  const room = high > low ? (high - low) * 0.04 : Math.abs(high) * 0.1 || 1
  return [fromZero && low === 0 ? 0 : low - room, high + room]
}

const palette = ['var(--c1)', 'var(--c2)', 'var(--c3)', 'var(--c4)', 'var(--c5)', 'var(--c6)']
const size = 1000
const maxPoints = 1200

/** A colour between the ramp's ends. */
const rampColor = (i: number, n: number) =>
  `color-mix(in oklab, var(--ramp-from), var(--ramp-to) ${n > 1 ? Math.round((100 * i) / (n - 1)) : 100}%)`

/** Lines over steps, with a legend, round ticks, and values under the pointer. */
export function lineFigure(figure: LineFigure): string {
  const { title, unit, height = 200, wide = false, ramp } = figure
  const series = figure.series
    .filter((s) => s.points.length > 0)
    .map((s, i, all) => ({
      ...s,
      color: s.color ?? (ramp ? rampColor(i, all.length) : palette[i % palette.length]!),
      points: downsample(s.points, Math.max(100, Math.floor(maxPoints / Math.sqrt(all.length)))),
    }))
  if (series.length === 0) return ''
  const [low, high] = yRange(series, figure.fromZero ?? false)
  const xs = series.flatMap((s) => [s.points[0]![0], s.points.at(-1)![0]])
  const [first, last] = [Math.min(...xs), Math.max(...xs)]
  const x = (v: number) => (last > first ? ((v - first) / (last - first)) * size : size / 2)
  const y = (v: number) => ((high - v) / (high - low)) * size
  const round = (v: number) => Math.round(v * 10) / 10

  const yTicks = ticks(low, high, Math.max(2, Math.round(height / 45)))
  const xTicks = ticks(first, last, wide ? 10 : 5).filter(Number.isInteger)
  const grid = yTicks.map((v) => `M0 ${round(y(v))}H${size}`).join('')
  const draw = (s: Series, style: string) =>
    `<path class="${style}" stroke="${s.color}" d="${path(s, style === 'dots', x, y, round)}"/>`
  const lines = series.map((s) => (s.style === 'dots' ? draw(s, 'line') : '') + draw(s, s.style ?? 'line'))
  const labels = [
    ...yTicks.map((v) => `<span class="y" style="top:${round(y(v) / 10)}%">${shortNumber(v)}</span>`),
    ...xTicks.map((v) => `<span class="x" style="left:${round(x(v) / 10)}%">${shortNumber(v)}</span>`),
  ]
  const data = {
    range: [first, last, low, high],
    series: series.map((s) => ({
      name: s.name,
      color: s.color,
      x: s.points.map(([v]) => v),
      y: s.points.map(([, v]) => (Number.isFinite(v) ? Number(v.toPrecision(5)) : null)),
    })),
  }
  return `<figure class="chart${wide ? ' wide' : ''}">
<figcaption><b>${escapeHtml(title)}</b>${unit ? ` <span class="unit">${escapeHtml(unit)}</span>` : ''}${legend(series, ramp)}</figcaption>
<div class="plot" style="height:${height}px" tabindex="0" role="img" aria-label="${escapeHtml(describe(title, series))}">
<svg viewBox="0 0 ${size} ${size}" preserveAspectRatio="none" aria-hidden="true"><path class="grid" d="${grid}"/>${lines.join('')}</svg>
${labels.join('')}<i class="cross" hidden></i><div class="tip" hidden></div>
</div><script type="application/json">${safeJson(data)}</script></figure>`
}

function path(
  s: Series,
  dots: boolean,
  x: (v: number) => number,
  y: (v: number) => number,
  round: (v: number) => number,
): string {
  let d = ''
  let pen = false
  for (const [px, py] of s.points) {
    if (Number.isFinite(py)) {
      const to = `${round(x(px))} ${Math.max(-200, Math.min(size + 200, round(y(py))))}`
      // A dot is a line of no length with round ends: it stays round when the drawing is stretched.
      d += dots ? `M${to}h0` : `${pen ? 'L' : 'M'}${to}`
    }
    pen = Number.isFinite(py)
  }
  return d
}

function legend(series: readonly Series[], ramp: LineFigure['ramp']): string {
  if (ramp && series.length > 1)
    return `<span class="legend"><span>${escapeHtml(ramp.from)}</span><i class="ramp"></i><span>${escapeHtml(ramp.to)}</span></span>`
  if (series.length < 2) return ''
  const keys = series.map(
    (s) =>
      `<span><i${s.style === 'faint' ? ' class="pale"' : ''} style="background:${s.color}"></i>${escapeHtml(s.name)}</span>`,
  )
  return `<span class="legend">${keys.join('')}</span>`
}

function describe(title: string, series: readonly Series[]): string {
  const lines = series.map(({ name, points }) => {
    const ys = points.map(([, y]) => y).filter(Number.isFinite)
    return ys.length ? `${name} from ${shortNumber(ys[0]!)} to ${shortNumber(ys.at(-1)!)}` : `${name} without a number`
  })
  return `${title}: ${lines.join('; ')}`
}

/** JSON that may stand inside a script element. */
export const safeJson = (value: unknown): string => JSON.stringify(value).replaceAll('<', '\\u003c')

/** What {@link heatFigure} draws: a value for each row and column. */
export interface HeatFigure {
  title: string
  unit?: string
  rows: readonly { name: string; values: readonly number[] }[]
  /** What a column is, such as `expert`. */
  column: string
  /** The value that is as it should be, drawn neutral; below it one colour, above it the other. */
  neutral: number
}

/** A table of coloured cells: below the neutral value one colour, above it another. */
export function heatFigure(figure: HeatFigure): string {
  const { rows, neutral } = figure
  if (rows.length === 0) return ''
  const cell = (v: number, row: string, i: number) => {
    // By ratio: half and double are equally far from neutral.
    const far = v > 0 ? Math.max(-1, Math.min(1, Math.log2(v / neutral) / 2)) : -1
    const color = `color-mix(in oklab, var(--neutral), var(${far < 0 ? '--less' : '--more'}) ${Math.round(Math.abs(far) * 100)}%)`
    return `<td style="background:${color}" title="${escapeHtml(`${row}, ${figure.column} ${i}: ${shortNumber(v)}`)}"></td>`
  }
  const body = rows.map(
    (row) => `<tr><th>${escapeHtml(row.name)}</th>${row.values.map((v, i) => cell(v, row.name, i)).join('')}</tr>`,
  )
  return `<figure class="chart wide"><figcaption><b>${escapeHtml(figure.title)}</b>${figure.unit ? ` <span class="unit">${escapeHtml(figure.unit)}</span>` : ''}
<span class="legend"><span>a quarter</span><i class="heat"></i><span>four times</span></span></figcaption>
<table class="heatmap">${body.join('')}</table></figure>`
}
