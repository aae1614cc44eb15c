import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Batches, type BatchOptions, countWindows, evaluationBatches, shuffledIndex } from '../../lib/data/batches.ts'
import { memoryTokens, openShard } from '../../lib/data/shards.ts'

/** 0, 1, 2, ...: a token tells its place. */
const counting = (n: number) =>
  memoryTokens(
    Int32Array.from({ length: n }, (_, i) => i),
    'counting',
  )
const starts = (b: { inputs: Int32Array; rows: number; seqLen: number }) =>
  Array.from({ length: b.rows }, (_, row) => b.inputs[row * b.seqLen]!)

function checkTargets(b: { inputs: Int32Array; targets: Int32Array; rows: number; seqLen: number }) {
  expect(b.inputs.length).toBe(b.rows * b.seqLen)
  const wrong = Array.from(b.inputs).findIndex((id, i) => {
    const first = b.inputs[i - (i % b.seqLen)]!
    return id !== first + (i % b.seqLen) || b.targets[i] !== id + 1
  })
  expect(wrong).toBe(-1)
}

/** What interchange.md says, in its own words: a micro-batch takes the next B*T+1 tokens, the next starts B*T further on. */
function* sequentialByTheBook(n: number, B: number, T: number): Generator<number[]> {
  for (let at = 0; ; at += B * T) {
    if (at + B * T + 1 > n) at = 0
    yield Array.from({ length: B }, (_, row) => at + row * T)
  }
}

describe('sequential', () => {
  test('is what interchange.md says, for every length, and starts over at the end', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 7 }), fc.nat(60), (B, T, extra) => {
        const n = B * T + 1 + extra
        const batches = new Batches(counting(n), { batchSize: B, seqLen: T, order: 'sequential' })
        const book = sequentialByTheBook(n, B, T)
        for (let i = 0; i < 30; i++) {
          const batch = batches.next()
          checkTargets(batch)
          expect(starts(batch)).toEqual(book.next().value)
        }
      }),
    )
  })
  test.each(['dense_polynorm', 'dense_polyrelu_gqa_tied', 'dense_swiglu', 'moe_polynorm'])(
    'a golden run ends with its last token: %s',
    (run) => {
      const at = (name: string) => new URL(`../golden/${run}/${name}`, import.meta.url).pathname
      const { train } = JSON.parse(readFileSync(at('config.json'), 'utf8'))
      const tokens = openShard(at('tokens.bin'))
      const [B, T] = [train.micro_batch_size, train.seq_len]
      const batches = new Batches(tokens, { batchSize: B, seqLen: T, order: 'sequential' })
      let last = batches.next()
      for (let i = 1; i < train.steps * train.grad_accum; i++) last = batches.next()
      expect([...last.targets]).toEqual([...tokens.read(tokens.length - B * T, B * T)])
      expect([...batches.next().inputs.subarray(0, T)]).toEqual([...tokens.read(0, T)])
    },
  )
  test('too short for one micro-batch', () => {
    const make = () => new Batches(counting(24), { batchSize: 3, seqLen: 8, order: 'sequential' })
    expect(make).toThrow('counting has 24 tokens, but a sequential micro-batch of 3 x 8 needs 25')
    expect(() => new Batches(counting(25), { batchSize: 3, seqLen: 8, order: 'sequential' })).not.toThrow()
  })
  test('goes on from a position that another batch size left', () => {
    const one = new Batches(counting(100), { batchSize: 2, seqLen: 3, order: 'sequential', position: 31 })
    // 33 windows, 32 rows an epoch: from row 31 two rows would run over the end.
    expect(starts(one.next())).toEqual([0, 3])
    expect(one.position).toBe(34)
  })
})

describe('shuffled', () => {
  test('each epoch takes every window once, each in another order', () => {
    const n = 5 * 12 + 4
    const batches = new Batches(counting(n), { batchSize: 4, seqLen: 5, order: 'shuffled' })
    const epochs = [0, 1, 2].map(() => [0, 1, 2].flatMap(() => starts(batches.next())))
    for (const epoch of epochs)
      expect([...epoch].sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, i) => i * 5))
    expect(epochs[0]).not.toEqual(epochs[1])
    expect(epochs[1]).not.toEqual(epochs[2])
  })
  test('a micro-batch runs over the end of an epoch', () => {
    const batches = new Batches(counting(16), { batchSize: 4, seqLen: 5, order: 'shuffled' })
    const rows = [0, 1, 2].flatMap(() => starts(batches.next()))
    for (const from of [0, 3, 6, 9]) expect(rows.slice(from, from + 3).sort((a, b) => a - b)).toEqual([0, 5, 10])
    expect(batches.position).toBe(12)
  })
  test('shorter than a window', () => {
    const make = () => new Batches(counting(8), { batchSize: 1, seqLen: 8, order: 'shuffled' })
    expect(make).toThrow('counting has 8 tokens, but one window of seq_len 8 needs 9')
  })
})

describe.each(['sequential', 'shuffled'] as const)('%s', (order) => {
  const source = counting(1234)
  const options: BatchOptions = { batchSize: 3, seqLen: 7, order, seed: 5 }
  test('goes on from a position as if never stopped', () => {
    fc.assert(
      fc.property(fc.nat(200), fc.nat(100), (before, after) => {
        const whole = new Batches(source, options)
        for (let i = 0; i < before; i++) whole.next()
        const resumed = new Batches(source, { ...options, position: whole.position })
        for (let i = 0; i < after; i++) whole.next()
        for (let i = 0; i < after; i++) resumed.next()
        expect(resumed.next()).toEqual(whole.next())
        expect(resumed.position).toBe(whole.position)
      }),
    )
  })
  test('several processes share the micro-batches of one', () => {
    const one = new Batches(source, options)
    const three = [0, 1, 2].map((rank) => new Batches(source, { ...options, rank, world: 3 }))
    for (let i = 0; i < 100; i++) for (const process of three) expect(process.next()).toEqual(one.next())
    expect(three.map((p) => p.position)).toEqual([one.position, one.position, one.position])
  })
})

describe('shuffledIndex', () => {
  test('is a bijection', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 700 }), fc.nat(), fc.nat(), (n, seed, epoch) => {
        const seen = new Set(Array.from({ length: n }, (_, i) => shuffledIndex(n, seed, epoch, i)))
        expect(seen.size).toBe(n)
        expect([...seen].every((x) => Number.isInteger(x) && x >= 0 && x < n)).toBe(true)
      }),
      { numRuns: 200 },
    )
  })
  test('of a huge range: in range, and no two alike', () => {
    const n = 2 ** 45 - 7
    const seen = new Set(Array.from({ length: 2000 }, (_, i) => shuffledIndex(n, 1, 2, n - 1 - i)))
    expect(seen.size).toBe(2000)
    for (const x of seen) expect(x >= 0 && x < n).toBe(true)
  })
  test('seed and epoch change the order, also above 2^32', () => {
    const order = (seed: number, epoch: number) =>
      Array.from({ length: 50 }, (_, i) => shuffledIndex(50, seed, epoch, i)).join()
    const all = [
      order(0, 0),
      order(0, 1),
      order(1, 0),
      order(1, 1),
      order(2 ** 32, 0),
      order(2 ** 33, 0),
      order(0, 2 ** 32),
    ]
    expect(new Set(all).size).toBe(all.length)
  })
  test.each([10, 100, 1000])('every place is as likely as another, n = %i', (n) => {
    // Where item 0 and item n-1 go in 200 n epochs: chi-squared with n-1 degrees of freedom, mean n-1, deviation sqrt(2n-2).
    for (const index of [0, n - 1]) {
      const counts = new Float64Array(n)
      for (let epoch = 0; epoch < 200 * n; epoch++) counts[shuffledIndex(n, 3, epoch, index)]!++
      const chi = counts.reduce((sum, c) => sum + (c - 200) ** 2 / 200, 0)
      expect(Math.abs(chi - (n - 1)) / Math.sqrt(2 * n - 2)).toBeLessThan(4)
    }
  })
  test('neighbours do not stay together', () => {
    const n = 1000
    const order = Array.from({ length: n }, (_, i) => shuffledIndex(n, 1, 0, i))
    const mean = order.slice(1).reduce((sum, x, i) => sum + Math.abs(x - order[i]!), 0) / (n - 1)
    // Two places drawn at random are n/3 apart; the mean of a thousand deviates by 0.0075 n.
    expect(Math.abs(mean / n - 1 / 3)).toBeLessThan(0.03)
  })
  test('its values do not change from one version to the next', () => {
    expect([0, 1, 2, 3, 4, 5].map((i) => shuffledIndex(1000, 1, 0, i))).toMatchInlineSnapshot(`
      [
        612,
        155,
        118,
        740,
        788,
        183,
      ]
    `)
    expect([0, 1, 2].map((i) => shuffledIndex(2 ** 40 + 1, 123456789012, 7, i))).toMatchInlineSnapshot(`
      [
        352878499884,
        276981504952,
        733924210969,
      ]
    `)
  })
})

describe('evaluationBatches', () => {
  test('takes every window once; the last batch may be smaller', () => {
    const all = [...evaluationBatches(counting(5 * 7 + 3), { batchSize: 3, seqLen: 5 })]
    expect(all.map((b) => b.rows)).toEqual([3, 3, 1])
    for (const b of all) checkTargets(b)
    expect(all.flatMap(starts)).toEqual([0, 5, 10, 15, 20, 25, 30])
  })
  test('at most so many batches', () => {
    expect([...evaluationBatches(counting(100), { batchSize: 3, seqLen: 5, batches: 2 })].map((b) => b.rows)).toEqual([
      3, 3,
    ])
  })
  test('a val set shorter than one window', () => {
    expect(() => [...evaluationBatches(counting(5), { batchSize: 3, seqLen: 5 })]).toThrow(
      'counting has 5 tokens, but one window of seq_len 5 needs 6',
    )
    expect(countWindows(counting(6), 5)).toBe(1)
  })
})
