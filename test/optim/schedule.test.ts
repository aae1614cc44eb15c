import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { constant, cosine, schedules, wsd } from '../../lib/optim/schedule.ts'

const golden = new URL('../golden/', import.meta.url)

describe('the golden runs', () => {
  for (const run of readdirSync(golden).filter((name) => /^(dense|moe)_/.test(name)))
    test(`gives the rates of the run ${run}`, () => {
      const { train } = JSON.parse(readFileSync(new URL(`${run}/config.json`, golden), 'utf8'))
      const lines = readFileSync(new URL(`${run}/expected.jsonl`, golden), 'utf8')
        .trim()
        .split('\n')
      const { lr, min_lr: minLr, steps, warmup_steps: warmupSteps } = train
      const kind: keyof typeof schedules = train.schedule ?? 'cosine'
      const schedule = schedules[kind]({ lr, minLr, steps, warmupSteps })
      expect(lines.length).toBe(steps)
      for (const line of lines) {
        const { step, lr: expected } = JSON.parse(line)
        expect(Math.abs(schedule(step) - expected)).toBeLessThanOrEqual(1e-12 + 1e-6 * expected)
      }
    })
})

describe('cosine', () => {
  test('reaches the smallest rate at the end, and stays', () => {
    const schedule = cosine({ lr: 1, minLr: 0.2, steps: 10, warmupSteps: 2 })
    expect([0, 1, 2].map(schedule)).toEqual([0.5, 1, 1])
    expect(schedule(6)).toBeCloseTo(0.6, 12)
    expect(schedule(9)).toBeGreaterThan(0.2)
    expect([schedule(10), schedule(1000)]).toEqual([0.2, 0.2])
    expect(cosine({ lr: 1, steps: 10 })(10)).toBeCloseTo(0.1, 12)
  })

  test('a warm-up as long as the run, or longer', () => {
    expect(cosine({ lr: 1, steps: 4, warmupSteps: 4 })(3)).toBe(1)
    expect(cosine({ lr: 1, steps: 4, warmupSteps: 8 })(3)).toBe(0.5)
    expect(cosine({ lr: 1, minLr: 0, steps: 4, warmupSteps: 4 })(4)).toBe(0)
  })
})

test('wsd: level, then linear over the last fifth', () => {
  const schedule = wsd({ lr: 1, minLr: 0, steps: 100, warmupSteps: 4 })
  expect([0, 3, 4, 79, 80].map(schedule)).toEqual([0.25, 1, 1, 1, 1])
  expect(schedule(90)).toBeCloseTo(0.5, 12)
  expect(schedule(99)).toBeCloseTo(0.05, 12)
  expect([schedule(100), schedule(200)]).toEqual([0, 0])
})

test('constant', () => {
  const schedule = constant({ lr: 2, steps: 10, warmupSteps: 2 })
  expect([0, 1, 2, 9, 20].map(schedule)).toEqual([1, 2, 2, 2, 2])
  expect(Object.keys(schedules)).toEqual(['cosine', 'wsd', 'constant'])
})
