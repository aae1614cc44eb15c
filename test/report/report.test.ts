import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { reportHtml, writeReport } from '../../lib/report/report.ts'
import type { StepMetrics } from '../../lib/train/metrics.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-report-'))
afterAll(() => rmSync(folder, { recursive: true }))

const steps = (n: number, more: (step: number) => Partial<StepMetrics> = () => ({})): StepMetrics[] =>
  Array.from({ length: n }, (_, step) => ({
    step,
    loss: 2 + 3 / (step + 1),
    grad_norm: 1,
    lr: 1e-3,
    tokens: (step + 1) * 100,
    tokens_per_second: 1000,
    ...more(step),
  }))
const titles = (html: string) => [...html.matchAll(/<figcaption><b>([^<]*)<\/b>/g)].map((m) => m[1])

test('a dense run with PolyNorm', () => {
  const metrics = steps(40, (step) => ({
    ...(step % 10 === 9 && { val_loss: 2.5 - step / 100 + (step === 39 ? 0.2 : 0) }),
    act_coefficients: [
      [0.3, 0.2, 0.1, 0],
      [0.3, 0.3, 0.3, step],
    ],
  }))
  const html = reportHtml({ title: 'tiny', metrics, bytesPerToken: 1 })
  expect(titles(html)).toEqual([
    'Loss',
    'Learning rate',
    'Gradient norm',
    'Speed',
    'Activation: weight of x³',
    'Activation: weight of x²',
    'Activation: weight of x',
    'Activation: bias',
  ])
  // The last evaluation, also in bits a byte, and the best one.
  expect(html).toContain(
    `<span>held-out loss</span><b>2.3100</b><small>${(2.31 / Math.LN2).toPrecision(4)} bits a byte</small>`,
  )
  expect(html).toContain('<span>best held-out loss</span><b>2.2100</b><small>after step 30</small>')
  expect(html).toContain('<span>steps</span><b>40</b><small>4000 tokens</small>')
})

test('a MoE run', () => {
  const metrics = steps(20, () => ({
    aux_loss: 1.1,
    z_loss: 3,
    expert_load: [
      [0.25, 0.75],
      [0.5, 0.5],
    ],
  }))
  const html = reportHtml({ title: 'moe', metrics })
  expect(titles(html)).toEqual([
    'Loss',
    'Learning rate',
    'Gradient norm',
    'Speed',
    'Router losses',
    'Busiest expert',
    'Expert load',
  ])
  expect(html).toContain('layer 0, expert 1: 0.75')
  expect(html).toContain('"name":"layer 0"')
  expect(html).toMatch(/"y":\[1\.5,1\.5/)
})

test('samples and configuration, with nothing of theirs taken for HTML', () => {
  const html = reportHtml({
    title: '<i>run</i>',
    metrics: steps(3),
    samples: [
      { step: 0, text: '\0\x07é<script>alert(1)</script>\n' },
      { step: 3, prompt: 'in', text: 'terface X {}' },
    ],
    config: { name: 'x', model: { hidden_act: '<b>', preset: null }, list: [1, 2] },
  })
  expect(html).toContain('<h1>&lt;i&gt;run&lt;/i&gt;</h1>')
  expect(html).toContain('<h3>before training</h3><pre>\uFFFD\uFFFDé&lt;script&gt;alert(1)&lt;/script&gt;\n</pre>')
  expect(html).toContain('<h3>after step 3</h3><pre><mark>in</mark>terface X {}</pre>')
  expect(html).toContain('<dt>hidden_act</dt><dd>&lt;b&gt;</dd>')
  expect(html).toContain('<dt>list</dt><dd>[1,2]</dd>')
})

test('needs nothing from elsewhere', () => {
  const html = reportHtml({
    title: 'x',
    metrics: steps(30, () => ({ val_loss: 2 })),
    samples: [{ step: 1, text: 'a' }],
    config: {},
  })
  expect(html).not.toMatch(/\b(src|href)\s*=|url\(|@import|https?:/)
  expect(html).toContain("default-src 'none'")
  for (const [, json] of html.matchAll(/<script type="application\/json">(.*?)<\/script>/gs)) JSON.parse(json!)
  // The page's own script is JavaScript.
  const script = [...html.matchAll(/<script>(.*?)<\/script>/gs)].map((m) => m[1]!)
  expect(script.length).toBe(1)
  expect(() => new Function(script[0]!)).not.toThrow()
})

test('no step, one step, and a loss that is not a number', () => {
  expect(reportHtml({ title: 'x', metrics: [] })).toContain('No step has ended yet.')
  const html = reportHtml({ title: 'x', metrics: [...steps(1), { ...steps(2)[1]!, loss: null as unknown as number }] })
  expect(html).toContain('"y":[5,null]')
  expect(html.replace(/<script>.*?<\/script>/s, '')).not.toMatch(/NaN|undefined|Infinity/)
})

test('a long run stays a small page', () => {
  const metrics = steps(100_000, (step) => ({ act_coefficients: Array.from({ length: 8 }, () => [0.1, step, 0.2, 0]) }))
  const html = reportHtml({ title: 'x', metrics })
  expect(html.length).toBeLessThan(1_000_000)
})

test('is written whole', async () => {
  const path = join(folder, 'report.html')
  await writeReport(path, { title: 'x', metrics: steps(2) })
  expect(readFileSync(path, 'utf8')).toBe(reportHtml({ title: 'x', metrics: steps(2) }))
  expect(readdirSync(folder)).toEqual(['report.html'])
})
