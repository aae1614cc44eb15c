// report.html: what a run did, in one file that needs nothing else: curves, samples, configuration.
import { realDisk, replaceFile } from '../io/disk.ts'
import type { StepMetrics } from '../train/metrics.ts'
import { escapeHtml, heatFigure, lineFigure, type Points, type Series, shortNumber, smooth } from './figures.ts'
import { script, style } from './page.ts'

/** A text that the model wrote. */
export interface ReportSample {
  /** Steps trained when it was written. */
  step: number
  /** What it was given to begin with, shown apart. */
  prompt?: string
  text: string
}

/** What a report is made of. */
export interface ReportInput {
  title: string
  /** A line under the title: the machine, the date. */
  subtitle?: string
  metrics: readonly StepMetrics[]
  samples?: readonly ReportSample[]
  /** The run's configuration; each field of an object in it is shown as a row of that section. */
  config?: object
  /** Further figures for the top of the page, such as parameters or time taken. */
  facts?: readonly { name: string; value: string; note?: string }[]
  /** Bytes of text that a token stands for, to give the loss in bits a byte; 1 for `bytes`. */
  bytesPerToken?: number
}

/** The page, as HTML. */
export function reportHtml(input: ReportInput): string {
  const { title, subtitle, metrics, samples = [], config } = input
  const charts = [
    lossChart(metrics),
    ...smallCharts(metrics),
    ...coefficientCharts(metrics),
    ...expertCharts(metrics),
  ].filter(Boolean)
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(title)}</title><style>${style}</style></head><body><main>
<header><h1>${escapeHtml(title)}</h1>${subtitle ? `<p>${escapeHtml(subtitle)}</p>` : ''}</header>
${tiles(input)}
<section class="charts">${charts.join('\n') || '<p>No step has ended yet.</p>'}</section>
${samples.length ? `<section><h2>What the model writes</h2><div class="samples">${samples.map(sampleCard).join('')}</div></section>` : ''}
${config ? `<section><h2>Configuration</h2>${configTable(config)}</section>` : ''}
<footer>Written by polygrad.</footer></main><script>${script}</script></body></html>
`
}

/** Writes the page; the file is the old one or the whole new one at every moment. */
export async function writeReport(path: string, input: ReportInput): Promise<void> {
  const html = reportHtml(input)
  await replaceFile(realDisk, path, (writer) => writer.write(html))
}

function series(metrics: readonly StepMetrics[], value: (m: StepMetrics) => number | undefined | null): Points {
  const points: [number, number][] = []
  for (const m of metrics) {
    const y = value(m)
    if (y !== undefined) points.push([m.step + 1, y ?? Number.NaN])
  }
  return points
}

/** At most some 2000 of the steps, the last among them: enough for what changes slowly and has many lines. */
function thin(metrics: readonly StepMetrics[]): readonly StepMetrics[] {
  const every = Math.ceil(metrics.length / 2000)
  return metrics.filter((_, i) => (metrics.length - 1 - i) % every === 0)
}

/** A span for smoothing that suits a run's length. */
const spanOf = (metrics: readonly StepMetrics[]) => Math.min(50, Math.max(1, metrics.length / 100))

function tiles({ metrics, facts = [], bytesPerToken }: ReportInput): string {
  const last = metrics.at(-1)
  const evaluated = metrics.filter((m) => typeof m.val_loss === 'number')
  const best = evaluated.reduce<StepMetrics | undefined>((a, m) => (!a || m.val_loss! < a.val_loss! ? m : a), undefined)
  const final = evaluated.at(-1)
  const bits = (loss: number) =>
    bytesPerToken ? `${shortNumber(loss / Math.LN2 / bytesPerToken)} bits a byte` : undefined
  const speeds = metrics.map((m) => m.tokens_per_second).sort((a, b) => a - b)
  const list: { name: string; value: string; note?: string | undefined }[] = []
  if (final) list.push({ name: 'held-out loss', value: final.val_loss!.toFixed(4), note: bits(final.val_loss!) })
  if (best && final && best !== final)
    list.push({ name: 'best held-out loss', value: best.val_loss!.toFixed(4), note: `after step ${best.step + 1}` })
  if (last) {
    const smoothed = smooth(
      series(metrics, (m) => m.loss),
      spanOf(metrics),
    ).at(-1)?.[1]
    if (smoothed !== undefined) list.push({ name: 'training loss', value: smoothed.toFixed(4), note: 'smoothed' })
    list.push({ name: 'steps', value: String(last.step + 1), note: `${shortNumber(last.tokens)} tokens` })
    list.push({
      name: 'tokens a second',
      value: shortNumber(Math.round(speeds[speeds.length >> 1]!)),
      note: 'median of the steps',
    })
  }
  const all = [...list, ...facts]
  const tile = (t: (typeof all)[number]) =>
    `<div><span>${escapeHtml(t.name)}</span><b>${escapeHtml(t.value)}</b>${t.note ? `<small>${escapeHtml(t.note)}</small>` : ''}</div>`
  return all.length ? `<section class="tiles">${all.map(tile).join('')}</section>` : ''
}

function lossChart(metrics: readonly StepMetrics[]): string {
  const loss = series(metrics, (m) => m.loss)
  const val = series(metrics, (m) => m.val_loss)
  const lines: Series[] = [
    { name: 'training', points: loss, color: 'var(--c1)', style: 'faint' },
    { name: 'training, smoothed', points: smooth(loss, spanOf(metrics)), color: 'var(--c1)' },
    { name: 'held out', points: val, color: 'var(--c2)', style: 'dots' },
  ]
  return lineFigure({ title: 'Loss', unit: 'nats a token', series: lines, height: 320, wide: true })
}

function smallCharts(metrics: readonly StepMetrics[]): string[] {
  const withSmooth = (points: Points, color: string): Series[] => [
    { name: 'each step', points, color, style: 'faint' },
    { name: 'smoothed', points: smooth(points, spanOf(metrics)), color },
  ]
  const router: Series[] = [
    {
      name: 'load balance',
      points: smooth(
        series(metrics, (m) => m.aux_loss),
        spanOf(metrics),
      ),
    },
    {
      name: 'z',
      points: smooth(
        series(metrics, (m) => m.z_loss),
        spanOf(metrics),
      ),
    },
  ]
  return [
    lineFigure({
      title: 'Learning rate',
      series: [{ name: 'lr', points: series(metrics, (m) => m.lr), color: 'var(--c3)' }],
      fromZero: true,
    }),
    lineFigure({
      title: 'Gradient norm',
      unit: 'before clipping',
      series: withSmooth(
        series(metrics, (m) => m.grad_norm),
        'var(--c4)',
      ),
      fromZero: true,
    }),
    lineFigure({
      title: 'Speed',
      unit: 'tokens a second',
      series: withSmooth(
        series(metrics, (m) => m.tokens_per_second),
        'var(--c5)',
      ),
      fromZero: true,
    }),
    lineFigure({ title: 'Router losses', unit: 'smoothed, before their coefficients', series: router }),
  ]
}

/** One chart a coefficient, one line a layer. */
function coefficientCharts(metrics: readonly StepMetrics[]): string[] {
  const given = thin(metrics.filter((m) => m.act_coefficients?.length))
  const layers = given[0]?.act_coefficients?.map(overExperts) ?? []
  const order = (layers[0]?.length ?? 1) - 1
  return Array.from({ length: layers.length ? order + 1 : 0 }, (_, i) =>
    lineFigure({
      title: i === order ? 'Activation: bias' : `Activation: weight of ${powerName(order - i)}`,
      unit: 'by layer',
      series: layers.map((_, layer) => ({
        name: `layer ${layer}`,
        points: series(given, (m) => overExperts(m.act_coefficients?.[layer] ?? [])[i]),
      })),
      ramp: { from: 'layer 0', to: `layer ${layers.length - 1}` },
    }),
  )
}
/** A layer's coefficients; their means where each expert has its own. */
function overExperts(layer: number[] | number[][]): number[] {
  if (!Array.isArray(layer[0])) return layer as number[]
  const sets = layer as number[][]
  return layer[0].map((_, i) => sets.reduce((sum, set) => sum + set[i]!, 0) / sets.length)
}
const powerName = (k: number) => (k === 1 ? 'x' : `x${String(k).replaceAll(/\d/g, (d) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[Number(d)]!)}`)

function expertCharts(metrics: readonly StepMetrics[]): string[] {
  const given = thin(metrics.filter((m) => m.expert_load?.length))
  const last = given.at(-1)?.expert_load
  if (!last) return []
  const experts = last[0]!.length
  return [
    lineFigure({
      title: 'Busiest expert',
      unit: `its share, 1 = even (1/${experts}), smoothed`,
      series: last.map((_, layer) => ({
        name: `layer ${layer}`,
        points: smooth(
          series(given, (m) => Math.max(...(m.expert_load?.[layer] ?? [])) * experts),
          spanOf(given),
        ),
      })),
      ramp: { from: 'layer 0', to: `layer ${last.length - 1}` },
    }),
    heatFigure({
      title: 'Expert load',
      unit: `each layer’s ${experts} experts, at the last step; gray = an even share`,
      rows: last.map((values, layer) => ({ name: `layer ${layer}`, values })),
      column: 'expert',
      neutral: 1 / experts,
    }),
  ]
}

function sampleCard(sample: ReportSample): string {
  const when = sample.step === 0 ? 'before training' : `after step ${sample.step}`
  // Control characters, which a byte model may well write, are no HTML.
  const visible = (text: string) =>
    escapeHtml(Array.from(text, (c) => (c >= ' ' || c === '\n' || c === '\t' ? c : '\uFFFD')).join(''))
  const prompt = sample.prompt ? `<mark>${visible(sample.prompt)}</mark>` : ''
  return `<article><h3>${when}</h3><pre>${prompt}${visible(sample.text)}</pre></article>`
}

function configTable(config: object): string {
  const show = (value: unknown) => escapeHtml(typeof value === 'string' ? value : (JSON.stringify(value) ?? ''))
  const rows = (fields: [string, unknown][]) =>
    `<dl>${fields.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${show(value)}</dd>`).join('')}</dl>`
  const entries = Object.entries(config)
  const isSection = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value)
  const plain = entries.filter(([, value]) => !isSection(value))
  const sections = entries.filter(([, value]) => isSection(value))
  return `<div class="config">${[
    ...(plain.length ? [['run', Object.fromEntries(plain)] as [string, object]] : []),
    ...sections,
  ]
    .map(([name, value]) => `<div><h3>${escapeHtml(name)}</h3>${rows(Object.entries(value as object))}</div>`)
    .join('')}</div>`
}
