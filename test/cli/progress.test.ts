import { expect, test } from 'vitest'
import { count, duration, Progress } from '../../lib/cli/progress.ts'

function harness(isTTY: boolean, steps: number, columns = 100) {
  let written = ''
  let time = 0
  const stream = { write: (text: string) => (written += text), isTTY, columns }
  const progress = new Progress({ steps, stream, now: () => time })
  return {
    progress,
    at: (ms: number) => (time = ms),
    take: () => {
      const out = written
      written = ''
      return out
    },
  }
}
const clear = '\r\x1b[2K'

test('a terminal: one line that redraws itself, not more than ten times a second', () => {
  const { progress, at, take } = harness(true, 4)
  at(1000)
  progress.step({ step: 0, loss: 2.5, tokens_per_second: 12345 })
  expect(take()).toBe(`${clear}█████░░░░░░░░░░░░░░░ step 1/4  loss 2.5000  12.3k tok/s  3s left`)
  at(1050)
  progress.step({ step: 1, loss: 2.4, tokens_per_second: 12345 })
  expect(take()).toBe('')
  progress.step({ step: 2, loss: 2.3, val_loss: 2.2, tokens_per_second: 12345 })
  expect(take()).toContain('step 3/4  loss 2.3000  val 2.2000')
  progress.note('saved')
  expect(take()).toBe(
    `${clear}saved\n${clear}███████████████░░░░░ step 3/4  loss 2.3000  val 2.2000  12.3k tok/s  0s left`,
  )
  at(2000)
  progress.step({ step: 3, loss: 2.1, tokens_per_second: 12345 })
  expect(take()).toBe(`${clear}████████████████████ step 4/4  loss 2.1000  val 2.2000  12.3k tok/s`)
  progress.end()
  expect(take()).toBe('\n')
  progress.note('done')
  expect(take()).toBe('done\n')
})

test('the line never wraps', () => {
  const { progress, at, take } = harness(true, 1000, 40)
  at(500)
  progress.step({ step: 8, loss: 2.5, tokens_per_second: 12345 })
  expect(take().slice(clear.length).length).toBe(39)
})

test('not a terminal: plain lines every ten seconds, at an evaluation and at the end', () => {
  const { progress, at, take } = harness(false, 100)
  for (let step = 0; step < 100; step++) {
    at((step + 1) * 1000)
    progress.step({ step, loss: 2.5, tokens_per_second: 999, val_loss: step === 54 ? 2 : undefined })
  }
  const lines = take().trimEnd().split('\n')
  expect(lines[0]).toBe('step   1/100  loss 2.5000  999 tok/s  1m39s left')
  expect(lines.map((line) => Number(/step +(\d+)/.exec(line)![1]))).toEqual([
    1, 11, 21, 31, 41, 51, 55, 65, 75, 85, 95, 100,
  ])
  for (const mark of ['\r', '\x1b', '█']) expect(lines.join('')).not.toContain(mark)
  expect(lines.at(-1)).toBe('step 100/100  loss 2.5000  val 2.0000  999 tok/s')
})

test('the time left follows the last fifty steps', () => {
  const { progress, at, take } = harness(false, 1000)
  for (let step = 0; step < 100; step++) {
    at(step < 40 ? step * 60_000 : 39 * 60_000 + (step - 39) * 2000)
    progress.step({ step, loss: 1, tokens_per_second: 1 })
  }
  expect(take().trimEnd().split('\n').at(-1)).toMatch(/ (29|30)m\d\ds left$/)
})

test('counts and durations', () => {
  expect([0, 9.44, 950, 999.6, 1000, 12345, 999_600, 4_560_000, 7e9, 3e12, Number.NaN].map(count)).toEqual([
    '0',
    '9.4',
    '950',
    '1k',
    '1k',
    '12.3k',
    '1M',
    '4.56M',
    '7G',
    '3T',
    '?',
  ])
  expect([0, 45, 59.6, 185, 7620, 5 * 86400 + 3 * 3600, Number.POSITIVE_INFINITY].map(duration)).toEqual([
    '0s',
    '45s',
    '1m00s',
    '3m05s',
    '2h07m',
    '5d03h',
    '?',
  ])
})
