import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { DiskError } from '../../lib/errors.ts'
import { realDisk } from '../../lib/io/disk.ts'
import { cutMetrics, MetricsWriter, metricsLine, readMetrics, type StepMetrics } from '../../lib/train/metrics.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-metrics-'))
afterAll(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'metrics.jsonl')
const metrics = (step: number): StepMetrics => ({
  step,
  loss: Math.fround(5 / (step + 1)),
  grad_norm: 1.5,
  lr: 0.0006000000000000001,
  tokens: (step + 1) * 512,
  tokens_per_second: 1234.5,
})
function write(from: number, to: number) {
  const writer = new MetricsWriter(path)
  for (let step = from; step < to; step++) writer.write(metrics(step))
  writer.sync()
  writer.close()
}

describe('numbers', () => {
  test('a float32 reads back, in at most nine digits', () => {
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (x) => {
        const line = metricsLine({ x })
        expect(Math.fround(JSON.parse(line).x)).toBe(x === 0 ? 0 : x)
        if (Math.abs(x) < 1e6 && Math.abs(x) > 1e-4)
          expect(line.replace(/\D/g, '').replace(/^0+/, '').length).toBeLessThanOrEqual(9)
      }),
      { numRuns: 1000 },
    )
  })
  test('any other reads back as it is', () => {
    fc.assert(
      fc.property(
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        (x) => Math.fround(x) === x || JSON.parse(metricsLine({ x })).x === x,
      ),
    )
    expect(metricsLine({ loss: Math.fround(5.574148654937744), lr: 0.0006000000000000001 })).toBe(
      '{"loss":5.5741487,"lr":0.0006000000000000001}',
    )
  })
  test('nested ones too; what is not finite is null', () => {
    expect(metricsLine({ a: [[Math.fround(0.1)], [Number.NaN]], b: Number.POSITIVE_INFINITY })).toBe(
      '{"a":[[0.1],[null]],"b":null}',
    )
  })
})

describe('a file', () => {
  test('appends, and reads back', () => {
    rmSync(path, { force: true })
    expect(readMetrics(path)).toEqual([])
    write(0, 3)
    write(3, 5)
    expect(readMetrics(path).map((m) => m.step)).toEqual([0, 1, 2, 3, 4])
    expect(Math.fround(readMetrics(path)[2]!.loss)).toBe(metrics(2).loss)
  })
  test('a torn last line is left out', () => {
    write(0, 0)
    const whole = readFileSync(path, 'utf8')
    for (const torn of ['{"step":5,"lo', '{"step":5', '\0\0\0', '12', 'null']) {
      writeFileSync(path, whole + torn)
      expect(readMetrics(path).length).toBe(5)
    }
    appendFileSync(path, `\n${metricsLine(metrics(6))}\n`)
    expect(() => readMetrics(path)).toThrow(`${path}:6: is not the line of a step: null`)
    writeFileSync(path, whole)
  })
  test('is cut back to a checkpoint, byte for byte', async () => {
    const lines = readFileSync(path, 'utf8').split('\n')
    appendFileSync(path, '{"step":5,"lo')
    expect(await cutMetrics(path, 3)).toBe(3)
    expect(readFileSync(path, 'utf8')).toBe(`${lines.slice(0, 3).join('\n')}\n`)
    write(3, 4)
    expect(readMetrics(path).map((m) => m.step)).toEqual([0, 1, 2, 3])
    expect(await cutMetrics(path, 0)).toBe(0)
    expect(readFileSync(path, 'utf8')).toBe('')
    rmSync(path)
    expect(await cutMetrics(path, 5)).toBe(0)
    expect(readdirSync(folder)).toEqual(['metrics.jsonl'])
  })
  test('a failing disk leaves the old file when it is cut', async () => {
    write(0, 5)
    const before = readFileSync(path)
    const full = Object.assign(new Error('full'), { code: 'ENOSPC' })
    const disk = { ...realDisk, rename: () => Promise.reject(full) }
    await expect(cutMetrics(path, 2, disk)).rejects.toThrow('no space left on the disk (ENOSPC)')
    expect(readFileSync(path)).toEqual(before)
    expect(readdirSync(folder)).toEqual(['metrics.jsonl'])
  })
  test('a full disk is one clear line', () => {
    const writer = new MetricsWriter('/dev/full')
    expect(() => writer.write(metrics(0))).toThrow(DiskError)
    expect(() => writer.write(metrics(0))).toThrow('cannot write /dev/full: no space left on the disk (ENOSPC)')
    writer.close()
    expect(() => new MetricsWriter(join(folder, 'none', 'm.jsonl'))).toThrow('no such file or folder (ENOENT)')
  })
})
