import { expect, test } from 'vitest'
import { gradcheck, memory, ops, scope, seed, type Tensor, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import {
  generatorState,
  rand,
  randint,
  randn,
  StepGenerator,
  setGeneratorState,
  truncatedNormal,
} from '../../lib/ops/random.ts'
import { numbers } from '../check.ts'

// Philox4x32-10 in plain arithmetic, from the paper's definition.
function philox(counter: readonly number[], key: readonly number[]): number[] {
  let c = counter.map(BigInt)
  let k = key.map(BigInt)
  const mask = 0xffffffffn
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2511f53n * c[0]!
    const p1 = 0xcd9e8d57n * c[2]!
    c = [(p1 >> 32n) ^ c[1]! ^ k[0]!, p1 & mask, (p0 >> 32n) ^ c[3]! ^ k[1]!, p0 & mask]
    k = [(k[0]! + 0x9e3779b9n) & mask, (k[1]! + 0xbb67ae85n) & mask]
  }
  return c.map(Number)
}

test('the oracle gives the known answers of the Random123 distribution', () => {
  expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
  const ones = 0xffffffff
  expect(philox([ones, ones, ones, ones], [ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd])
  expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
    0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
  ])
})

// The words that a call uses: all 32 bits show in integers below 2^32.
const words = (t: Tensor): number[] => [...numbers(t)]

test('number i depends on the seed, the call and i, as the known answers say', () => {
  seed(0)
  expect(words(randint(0, 2 ** 32, [4], { dtype: 'int64' }))).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
  setGeneratorState({ seed: 0x29f31d0 * 2 ** 20 + 12345, counter: 7 })
  const key = [(0x29f31d0 * 2 ** 20 + 12345) % 2 ** 32, Math.floor((0x29f31d0 * 2 ** 20 + 12345) / 2 ** 32)]
  const got = words(randint(0, 2 ** 32, [3001], { dtype: 'int64' }))
  for (const block of [0, 1, 127, 128, 749])
    expect(got.slice(4 * block, 4 * block + 4)).toEqual(philox([block, 0, 7, 0], key))
  expect(got[3000]).toBe(philox([750, 0, 7, 0], key)[0])
  expect(generatorState().counter).toBe(8)
  expect(words(randint(0, 2 ** 32, [4], { dtype: 'int64' }))).toEqual(philox([0, 0, 8, 0], key))
})

test('every kind is made of those words', () => {
  const w = Array.from({ length: 16 }, (_, i) => philox([i >> 2, 0, 0, 0], [5, 0])[i & 3]!)
  const fresh = <T>(make: () => T): T => {
    seed(5)
    return make()
  }
  expect(words(fresh(() => rand([16])))).toEqual(w.map((v) => (v >>> 8) / 2 ** 24))
  expect(words(fresh(() => rand([16], { dtype: 'float64', low: -1, high: 3 })))).toEqual(
    w.map((v) => -1 + 4 * (v / 2 ** 32)),
  )
  expect(words(fresh(() => rand([16], { dtype: 'bfloat16' })))).toEqual(w.map((v) => (v >>> 24) / 256))
  expect(words(fresh(() => randint(-3, 4, [16])))).toEqual(w.map((v) => -3 + Math.floor((v / 2 ** 32) * 7)))
  const normal = words(fresh(() => randn([16], { dtype: 'float64' })))
  for (let i = 0; i < 16; i += 2) {
    const radius = Math.sqrt(-2 * Math.log((w[i]! + 0.5) / 2 ** 32))
    const angle = (2 * Math.PI * (w[i + 1]! + 0.5)) / 2 ** 32
    expect(normal[i]).toBeCloseTo(radius * Math.cos(angle), 12)
    expect(normal[i + 1]).toBeCloseTo(radius * Math.sin(angle), 12)
  }
  expect(fresh(() => randn([3], { dtype: 'float16' })).dtype).toBe('float16')
})

// Largest distance of the samples' distribution from a given one (Kolmogorov).
function distance(samples: readonly number[], cdf: (x: number) => number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  return sorted.reduce((d, x, i) => {
    const p = cdf(x)
    return Math.max(d, Math.abs(p - i / sorted.length), Math.abs((i + 1) / sorted.length - p))
  }, 0)
}
// The integral of the density by Simpson's rule.
function normalCdf(x: number): number {
  const n = 200
  const h = x / n
  const f = (t: number): number => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI)
  let sum = f(0) + f(x)
  for (let i = 1; i < n; i++) sum += f(i * h) * (i % 2 ? 4 : 2)
  return 0.5 + (sum * h) / 3
}

test('the distributions are what they should be', () => {
  seed(11)
  const n = 40_000
  const far = 1.63 / Math.sqrt(n) // exceeded by one seed in a hundred
  expect(distance(words(rand([n])), (x) => x)).toBeLessThan(far)
  expect(distance(words(randn([n], { mean: 1, std: 2 })), (x) => normalCdf((x - 1) / 2))).toBeLessThan(far)
  for (const cutoff of [0.5, 2, 3]) {
    const cut = words(truncatedNormal([n], { std: 0.02, cutoff }))
    expect(cut.every((v) => Math.abs(v) <= 0.02 * cutoff)).toBe(true)
    const mass = 2 * normalCdf(cutoff) - 1
    expect(distance(cut, (x) => (normalCdf(x / 0.02) - normalCdf(-cutoff)) / mass)).toBeLessThan(far)
  }
  const counts = new Array(7).fill(0)
  for (const v of words(randint(0, 7, [n]))) counts[v]++
  expect(counts.reduce((chi, c) => chi + (c - n / 7) ** 2 / (n / 7), 0)).toBeLessThan(16.8) // 1 % of 6 degrees
})

test('the numbers do not depend on the number of threads', () => {
  const threads = native.threads()
  const all = [1, 2, 3].map((count) => {
    native.setThreads(count)
    seed(3)
    return [words(randn([50_001])), words(ops.dropout(rand([50_001])))]
  })
  native.setThreads(threads)
  expect(all[1]).toEqual(all[0])
  expect(all[2]).toEqual(all[0])
})

test('a state goes on where it was taken', () => {
  seed(4)
  randn([5])
  const state = generatorState()
  expect(state).toEqual({ seed: 4, counter: 1 })
  const a = [words(rand([3])), words(rand([3]))]
  setGeneratorState(state)
  expect([words(rand([3])), words(rand([3]))]).toEqual(a)
  expect(generatorState()).toEqual({ seed: 4, counter: 3 })
  expect(() => seed(-1)).toThrow('seed')
  expect(() => setGeneratorState({ seed: 1, counter: 0.5 })).toThrow('counter')
})

test('the same recorded calls draw the numbers that come next', () => {
  seed(4)
  const direct = Array.from({ length: 3 }, () => [words(rand([3])), words(randn([3]))])
  seed(4)
  const generator = new StepGenerator(rand([1]).device)
  const calls = () => [words(rand([3])), words(randn([3]))]
  generator.record(calls) // how many there are
  expect(generatorState()).toEqual({ seed: 4, counter: 1 })
  seed(4)
  for (const [i, expected] of direct.entries()) {
    generator.advance()
    expect(generator.record(calls)).toEqual(expected)
    expect(generatorState()).toEqual({ seed: 4, counter: 2 * (i + 1) })
  }
  generator.dispose()
})

test('dropout zeroes a share p, scales the rest, and passes the gradient through the same mask', () => {
  seed(9)
  const x = tensor(new Float32Array(20_000).fill(2), { requiresGrad: true })
  const y = ops.dropout(x, { p: 0.3 })
  seed(1) // what is drawn or seeded later does not matter
  y.sum().backward()
  const [values, slopes] = [numbers(y), numbers(x.grad!)]
  const zeros = values.filter((v) => v === 0).length
  expect(Math.abs(zeros / 20_000 - 0.3)).toBeLessThan(0.01)
  for (let i = 0; i < values.length; i++) expect(slopes[i]! * 2).toBe(values[i]!)
  expect(new Set(values)).toEqual(new Set([0, Math.fround(2 / 0.7)]))
  expect(ops.dropout(x, { training: false })).toBe(x)
  expect([...numbers(ops.dropout(x, { p: 1 }))].every((v) => v === 0)).toBe(true)
  expect(() => ops.dropout(x, { p: 1.5 })).toThrow('dropout: p is 1.5')
  gradcheck(
    (t) => {
      seed(2)
      return ops.dropout(t, { p: 0.4 })
    },
    [
      tensor([
        [1, 2, 3],
        [4, 5, 6],
      ]),
    ],
  )
  gradcheck(
    (t) => {
      seed(2)
      return ops.dropout(t.transpose(), { p: 0.4 })
    },
    [
      tensor([
        [1, 2, 3],
        [4, 5, 6],
      ]),
    ],
  )
})

test('the state survives the scope that first needed it', () => {
  seed(77)
  const before = memory().tensors
  scope(() => rand([3])).dispose()
  expect(memory().tensors).toBe(before + 1)
  expect(words(rand([3])).length).toBe(3)
})
