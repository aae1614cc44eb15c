// Rows of every length and address that cuda/ treats in its own way: a few lanes, a warp, a block, 4 or 8 packs a thread, in
// parts; made of whole packs of 16 bytes or not; in tensors that begin off a multiple of 16 bytes.
import { describe, expect, test } from 'vitest'
import { type Handle, native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { permute } from '../../lib/ops/view.ts'
import { Tensor } from '../../lib/tensor.ts'
import { expectClose, numbers } from '../check.ts'
import { noise } from '../golden.ts'
import { size } from '../nd.ts'
import { AdamW, rope } from '../reference.ts'

type Float = 'float64' | 'float32' | 'bfloat16' | 'float16'
type Length = [rows: number, n: number]
const near: Record<Float, number> = { float64: 1e-12, float32: 4e-6, bfloat16: 2 ** -8, float16: 2 ** -11 }

// A contiguous tensor that begins `offset` elements behind a multiple of 16 bytes, and its numbers.
function held(shape: number[], seed: number, dtype: Float, offset = 0, change = (v: number, _i: number) => v) {
  const flat = tensor(noise([offset + size(shape)], seed).data.map(change), { dtype })
  const t = new Tensor(native.windowOf(flat.handle, shape, offset))
  return { flat, t, handle: t.handle, data: numbers(t), shape }
}

// f(row, number of the row) writes `n` numbers to each row of the result.
function eachRow(
  rows: number,
  n: number,
  f: (at: (i: number) => number, set: (i: number, v: number) => void, row: number) => void,
) {
  const data = new Float64Array(rows * n)
  for (let r = 0; r < rows; r++)
    f(
      (i) => r * n + i,
      (i, v) => {
        data[r * n + i] = v
      },
      r,
    )
  return { data, shape: [rows, n] }
}
const total = (n: number, f: (i: number) => number) => {
  let s = 0
  for (let i = 0; i < n; i++) s += f(i)
  return s
}
const close = (
  handle: Handle,
  expected: { data: Float64Array; shape: readonly number[] },
  dtype: Float,
  what: string,
) => expectClose(new Tensor(handle), expected, near[dtype], what)

const lengths: [Float, Length[]][] = [
  // In packs of 8: 1 lane, 8 lanes, a warp, two warps, the most that 512 threads hold by 4, by 8, and in parts.
  ['bfloat16', [[5, 8], [3, 136], [6, 1024], [3, 1040], [1, 16384], [2, 16392], [1, 32768], [2, 32776], [1, 65536]]], // biome-ignore format: a table
  [
    'bfloat16',
    [
      [3, 7],
      [70, 33],
      [3, 1001],
      [2, 16383],
      [2, 65537],
    ],
  ],
  [
    'float16',
    [
      [40, 64],
      [2, 4104],
      [2, 4097],
    ],
  ],
  // In packs of 4.
  [
    'float32',
    [
      [5, 4],
      [3, 512],
      [3, 516],
      [1, 8192],
      [2, 8196],
      [2, 16388],
      [1, 65536],
      [130, 3],
      [2, 65537],
    ],
  ],
]
const cases = lengths.flatMap(([dtype, all]) =>
  all.flatMap(([rows, n]) =>
    // Where x and dy begin: the last two make rows that lie differently in the two, and in the result.
    (n === 136 || n === 1001 || n === 516
      ? [
          [0, 0],
          [3, 3],
          [1, 2],
        ]
      : [[0, 0]]
    ).map((at) => [dtype, rows, n, at] as const),
  ),
)

describe.each(cases)('%s [%i, %i] from elements %j', (dtype, rows, n, [xAt, dyAt]) => {
  const shape = [rows, n]
  const eps = 1e-5

  for (const centred of [false, true])
    test(centred ? 'layerNorm' : 'rmsNorm', () => {
      // A mean far from 0, outliers first: what a careless variance gets wrong.
      const x = held(shape, 1, dtype, xAt, (v, i) => (centred && n > 16 ? 3 + v + (i < 4 ? 40 : 0) : v))
      const dy = held(shape, 2, dtype, dyAt)
      const [w, b] = [held([n], 3, 'float32', xAt), held([n], 4, 'float32')]
      const [y, ...stats] = centred
        ? native.layerNorm(x.handle, w.handle, b.handle, eps)
        : native.rmsNorm(x.handle, w.handle, eps)
      const hat = eachRow(rows, n, (at, set) => {
        const mean = centred ? total(n, (i) => x.data[at(i)]!) / n : 0
        const scale = 1 / Math.sqrt(total(n, (i) => (x.data[at(i)]! - mean) ** 2) / n + eps)
        for (let i = 0; i < n; i++) set(i, (x.data[at(i)]! - mean) * scale)
      })
      const rstd = eachRow(rows, 1, (_, set, r) => {
        const mean = centred ? total(n, (i) => x.data[r * n + i]!) / n : 0
        set(0, 1 / Math.sqrt(total(n, (i) => (x.data[r * n + i]! - mean) ** 2) / n + eps))
      })
      const bias = (i: number) => (centred ? b.data[i]! : 0)
      const expected = eachRow(rows, n, (at, set) => {
        for (let i = 0; i < n; i++) set(i, hat.data[at(i)]! * w.data[i]! + bias(i))
      })
      close(y, expected, dtype, 'y')
      close(stats.at(-1)!, { data: rstd.data, shape: [rows] }, 'float32', 'rstd')

      const more = held(shape, 5, dtype, dyAt)
      const [dx, dw, db] = centred
        ? native.layerNormGrad(x.handle, w.handle, stats[0]!, stats[1]!, dy.handle, more.handle, true, true)
        : native.rmsNormGrad(x.handle, w.handle, stats[0]!, dy.handle, more.handle, true)
      const g = (at: number, i: number) => dy.data[at]! * w.data[i]!
      const gradient = eachRow(rows, n, (at, set, r) => {
        const both = total(n, (i) => g(at(i), i) * hat.data[at(i)]!) / n
        const alone = centred ? total(n, (i) => g(at(i), i)) / n : 0
        for (let i = 0; i < n; i++)
          set(i, rstd.data[r]! * (g(at(i), i) - alone - hat.data[at(i)]! * both) + more.data[at(i)]!)
      })
      close(dx, gradient, dtype, 'dx')
      const columns = (f: (at: number) => number) => ({
        data: Float64Array.from({ length: n }, (_, i) => total(rows, (r) => f(r * n + i))),
        shape: [n],
      })
      close(
        dw,
        columns((at) => dy.data[at]! * hat.data[at]!),
        'float32',
        'dweight',
      )
      if (db !== undefined)
        close(
          db,
          columns((at) => dy.data[at]!),
          'float32',
          'dbias',
        )
    })

  for (const centred of [false, true])
    test(`${centred ? 'layerNorm' : 'rmsNorm'} of a sum`, () => {
      const x = held(shape, 1, dtype, xAt, (v, i) => (centred && n > 16 ? 3 + v + (i < 4 ? 40 : 0) : v))
      const [r, w, b] = [held(shape, 2, dtype, dyAt), held([n], 3, 'float32'), held([n], 4, 'float32')]
      const [sum, y] = centred
        ? native.addLayerNorm(x.handle, r.handle, w.handle, b.handle, eps)
        : native.addRmsNorm(x.handle, r.handle, w.handle, eps)
      const exact = x.data.map((v, i) => v + r.data[i]!)
      close(sum, { data: exact, shape }, dtype, 'sum')
      const stored = numbers(new Tensor(sum))
      const expected = eachRow(rows, n, (at, set) => {
        const mean = centred ? total(n, (i) => stored[at(i)]!) / n : 0
        const scale = 1 / Math.sqrt(total(n, (i) => (stored[at(i)]! - mean) ** 2) / n + eps)
        for (let i = 0; i < n; i++) set(i, (stored[at(i)]! - mean) * scale * w.data[i]! + (centred ? b.data[i]! : 0))
      })
      close(y, expected, dtype, 'y')
    })

  // Rising, so that each part of a row has a larger largest than the one before.
  const rising = (v: number, i: number) => 4 * v + (12 * (i % n)) / n
  const logOfSum = (x: Float64Array, at: (i: number) => number) => {
    let top = Number.NEGATIVE_INFINITY
    for (let i = 0; i < n; i++) top = Math.max(top, x[at(i)]!)
    return top + Math.log(total(n, (i) => Math.exp(x[at(i)]! - top)))
  }

  for (const op of ['softmax', 'logSoftmax'] as const)
    test(op, () => {
      const [x, dy] = [held(shape, 1, dtype, xAt, rising), held(shape, 2, dtype, dyAt)]
      const log = op === 'logSoftmax'
      const y = eachRow(rows, n, (at, set) => {
        const all = logOfSum(x.data, at)
        for (let i = 0; i < n; i++) set(i, log ? x.data[at(i)]! - all : Math.exp(x.data[at(i)]! - all))
      })
      close(native[op](x.handle), y, dtype, 'y')
      const kept = held(shape, 3, dtype, xAt, (v, i) => (log ? y.data[i]! : v)) // gradients of any y
      const sums = (at: (i: number) => number) =>
        total(n, (i) => (log ? dy.data[at(i)]! : dy.data[at(i)]! * kept.data[at(i)]!))
      const dx = eachRow(rows, n, (at, set) => {
        const s = sums(at)
        for (let i = 0; i < n; i++) {
          const [p, d] = [kept.data[at(i)]!, dy.data[at(i)]!]
          set(i, log ? d - Math.exp(p) * s : p * (d - s))
        }
      })
      close(
        log ? native.logSoftmaxGrad(kept.handle, dy.handle) : native.softmaxGrad(kept.handle, dy.handle),
        dx,
        dtype,
        'dx',
      )
    })

  test('logsumexp', () => {
    const [x, dy] = [held(shape, 1, dtype, xAt, rising), held([rows], 2, dtype, dyAt)]
    const all = eachRow(rows, 1, (_, set, r) =>
      set(
        0,
        logOfSum(x.data, (i) => r * n + i),
      ),
    )
    const y = native.logsumexp(x.handle)
    close(y, { data: all.data, shape: [rows] }, dtype, 'y')
    const stored = numbers(new Tensor(y))
    const dx = eachRow(rows, n, (at, set, r) => {
      for (let i = 0; i < n; i++) set(i, Math.exp(x.data[at(i)]! - stored[r]!) * dy.data[r]!)
    })
    close(native.logsumexpGrad(x.handle, y, dy.handle), dx, dtype, 'dx')
  })

  test('crossEntropy', () => {
    const logits = held(shape, 1, dtype, xAt, rising)
    const targets = Array.from({ length: rows }, (_, r) => [n - 1, -100, 0, n >> 1][r % 4]!)
    if (rows === 1) targets[0] = n - 1
    const numbered = tensor(targets, { dtype: 'int32', shape: [rows] })
    const [loss, stats] = native.crossEntropy(logits.handle, numbered.handle, -100)
    const counted = targets.filter((t) => t !== -100).length
    const mean =
      total(rows, (r) =>
        targets[r] === -100 ? 0 : logOfSum(logits.data, (i) => r * n + i) - logits.data[r * n + targets[r]!]!,
      ) / counted
    close(loss, { data: Float64Array.of(mean), shape: [] }, 'float32', 'loss')
    const dy = tensor([-1.5], { dtype: 'float32', shape: [] })
    const dx = eachRow(rows, n, (at, set, r) => {
      if (targets[r] === -100) return
      const all = logOfSum(logits.data, at)
      for (let i = 0; i < n; i++)
        set(i, (-1.5 / counted) * (Math.exp(logits.data[at(i)]! - all) - (i === targets[r] ? 1 : 0)))
    })
    const gradient = (over: boolean) =>
      native.crossEntropyGrad(logits.handle, numbered.handle, -100, stats, dy.handle, over)
    const apart = gradient(false)
    close(apart, dx, dtype, 'dlogits')
    gradient(true)
    expect(numbers(logits.t)).toEqual(numbers(new Tensor(apart)))
  })
})

// More rows than the blocks that share them: each of 528 with 8 rows of 16 lanes; each of 1056 with one of two warps.
test.each([
  ['bfloat16', 4300, 264],
  ['bfloat16', 1063, 1040],
] as const)('norm gradients of many rows: %s [%i, %i]', (dtype, rows, n) => {
  const [x, dy] = [held([rows, n], 1, dtype), held([rows, n], 2, dtype)]
  const ones = (count: number, value: number) => tensor(new Float64Array(count).fill(value), { dtype: 'float32' })
  // Any statistics: here mean 0.25 and rstd 2.
  const [mean, rstd] = [ones(rows, 0.25), ones(rows, 2)]
  const [, dw, db] = native.layerNormGrad(x.handle, null, mean.handle, rstd.handle, dy.handle, null, true, true)
  const [, plain] = native.rmsNormGrad(x.handle, null, rstd.handle, dy.handle, null, true)
  const [forWeight, forBias, forPlain] = [new Float64Array(n), new Float64Array(n), new Float64Array(n)]
  for (let i = 0; i < rows * n; i++) {
    forWeight[i % n]! += dy.data[i]! * (x.data[i]! - 0.25) * 2
    forBias[i % n]! += dy.data[i]!
    forPlain[i % n]! += dy.data[i]! * x.data[i]! * 2
  }
  close(dw, { data: forWeight, shape: [n] }, 'float32', 'dweight')
  close(db, { data: forBias, shape: [n] }, 'float32', 'dbias')
  close(plain, { data: forPlain, shape: [n] }, 'float32', 'dweight of rmsNorm')
})

test('crossEntropy of more rows than one block has threads', () => {
  const [rows, n] = [3001, 5]
  const x = held([rows, n], 1, 'float32')
  const targets = Array.from({ length: rows }, (_, r) => (r % 7 ? r % n : 9))
  const ids = tensor(targets, { dtype: 'int64', shape: [rows] })
  const losses = targets.flatMap((t, r) =>
    t === 9 ? [] : [Math.log(total(n, (i) => Math.exp(x.data[r * n + i]!))) - x.data[r * n + t]!],
  )
  const [loss] = native.crossEntropy(x.handle, ids.handle, 9)
  close(
    loss,
    { data: Float64Array.of(total(losses.length, (i) => losses[i]!) / losses.length), shape: [] },
    'float32',
    '',
  )
})

// Rows of logits that stay in registers by 4 packs and by 8, and that do not; the gradients of bfloat16 in half a row.
test.each([
  ['float32', 8196],
  ['float32', 20000],
  ['float32', 33000],
  ['float32', 1001],
  ['bfloat16', 64],
  ['bfloat16', 1001],
  ['bfloat16', 40000],
] as const)('linearCrossEntropy: %s, %i classes', (dtype, classes) => {
  const [rows, d] = [3, 4]
  const half = dtype === 'bfloat16'
  const [x, w] = [held([rows, d], 1, dtype), held([classes, d], 2, dtype, 0, (v) => 5 * v)]
  const targets = [classes - 1, -100, 1]
  const ids = tensor(targets, { dtype: 'int32', shape: [rows] })
  const [loss, dx, dw] = native.linearCrossEntropy(x.handle, w.handle, ids.handle, -100, true, true)
  let expected = 0
  const forX = new Float64Array(rows * d)
  const forW = new Float64Array(classes * d)
  for (const r of [0, 2]) {
    const logits = Float64Array.from({ length: classes }, (_, c) =>
      total(d, (i) => x.data[r * d + i]! * w.data[c * d + i]!),
    )
    const all = Math.log(total(classes, (c) => Math.exp(logits[c]!)))
    expected += (all - logits[targets[r]!]!) / 2
    for (let c = 0; c < classes; c++) {
      const g = (Math.exp(logits[c]! - all) - (c === targets[r] ? 1 : 0)) / 2
      for (let i = 0; i < d; i++) {
        forX[r * d + i]! += g * w.data[c * d + i]!
        forW[c * d + i]! += g * x.data[r * d + i]!
      }
    }
  }
  const results = [loss, dx, dw].map((handle) => new Tensor(handle))
  expect(results.map((t) => t.dtype)).toEqual(['float32', 'float32', 'float32'])
  expectClose(results[0]!, { data: Float64Array.of(expected), shape: [] }, near.float32, 'loss')
  expectClose(results[2]!, { data: forW, shape: [classes, d] }, half ? 2 ** -8 : near.float32, 'dweight')
  // A product whose sums have as many terms as there are classes.
  expectClose(results[1]!, { data: forX, shape: [rows, d] }, half ? 2 ** -8 : 2e-4, 'dx')
})

// Halves of whole packs or not, from a multiple of 16 bytes or not, heads before or behind the positions in memory.
for (const dtype of ['bfloat16', 'float32', 'float16'] as const)
  for (const [d, offset] of [[32, 0], [32, 8], [32, 1], [12, 0]] as const) // biome-ignore format: a table
    test(`rope: ${dtype} rows of ${d} from element ${offset}`, () => {
      const [batch, heads, positions] = [3, 2, 5]
      const x = held([batch, positions, heads, d], 1, dtype, offset)
      const turned = permute(x.t, [0, 2, 1, 3]) // (batch, heads, positions, d), not one piece of memory
      const table = native.ropeTable(100, 9, d, 0, turned.device === 'cpu' ? 0 : 1)
      const expected = { data: rope(numbers(turned), positions, d, 100, 3), shape: [batch, heads, positions, d] }
      close(native.rope(turned.handle, table, 3), expected, dtype, 'a view')
      const back = native.ropeGrad(native.rope(turned.handle, table, 3), table, 3, turned.handle)
      expectClose(new Tensor(back), { data: numbers(turned), shape: expected.shape }, 4 * near[dtype], 'turned back')
      const dense = held([batch, heads, positions, d], 2, dtype, offset)
      const again = { data: rope(dense.data, positions, d, 100, 0), shape: dense.shape }
      close(native.rope(dense.handle, table, 0), again, dtype, 'one piece of memory')
    })

// Parts of three blocks; flat buffers whose packs lie alike or not, and what lies beside them.
for (const [dtype, gradient, offset] of [
  ['float32', 'float32', 0],
  ['float32', 'bfloat16', 3],
  ['float32', 'float16', 1],
  ['float64', 'float64', 1],
] as const)
  test(`adamw: ${dtype} from element ${offset} with gradients in ${gradient}`, () => {
    const n = 5001
    const p = held([n], 1, dtype, offset)
    const [m, v] = [held([n], 2, dtype, offset, () => 0), held([n], 2, dtype, 2, () => 0)]
    const half = held([n + 2], 3, 'bfloat16', 0, () => 7)
    const inHalf = native.windowOf(half.handle, [n], 1)
    const settings = { betas: [0.75, 0.875], eps: 1e-6, weightDecay: 0.25 } as const
    const hyper = tensor([0.0625, ...settings.betas, settings.eps, settings.weightDecay], { dtype: 'float64' })
    const reference = new AdamW(p.data, settings)
    const before = numbers(p.flat)
    for (let step = 1; step <= 3; step++) {
      const g = held([n], 10 + step, gradient, offset)
      const state = tensor([step, 0.5, 1, 3], { dtype: 'float64' })
      native.adamw(p.handle, g.handle, m.handle, v.handle, inHalf, hyper.handle, state.handle)
      reference.step(
        g.data.map((x) => 0.5 * x),
        0.0625,
      )
    }
    expectClose(p.t, { data: reference.p, shape: [n] }, near[dtype], 'p')
    expect([...numbers(p.flat).subarray(0, offset)]).toEqual([...before.subarray(0, offset)])
    expectClose(new Tensor(inHalf), { data: numbers(p.t), shape: [n] }, near.bfloat16, 'half')
    expect([numbers(half.t)[0], numbers(half.t)[n + 1]]).toEqual([7, 7])
    const [kept, stopped] = [numbers(p.t), tensor([4, 1, 0, 3], { dtype: 'float64' })]
    native.adamw(p.handle, p.handle, m.handle, v.handle, inHalf, hyper.handle, stopped.handle)
    expect(numbers(p.t)).toEqual(kept)
  })

for (const dtype of ['float64', 'float32', 'bfloat16', 'float16'] as const)
  for (const offset of [0, 3])
    test(`sumSquares: ${dtype} from element ${offset}`, () => {
      const x = held([70001], 1, dtype, offset)
      const sums = tensor([1, 2, 3], { dtype: 'float64' })
      native.sumSquares(x.handle, native.windowOf(sums.handle, [1], 1))
      const got = numbers(sums)
      expect([got[0], got[2]]).toEqual([1, 3])
      expect(got[1]! / total(70001, (i) => x.data[i]! ** 2)).toBeCloseTo(1, 12)
    })

test('clipCoefficient of many sums', () => {
  const sums = tensor(
    Array.from({ length: 1000 }, (_, i) => i),
    { dtype: 'float64' },
  )
  const state = tensor([5, 0, 0, 0], { dtype: 'float64' })
  native.clipCoefficient(sums.handle, null, 2, state.handle)
  const norm = Math.sqrt(499500)
  const got = numbers(state)
  expect(got[0]).toBe(5)
  expect(got[1]).toBeCloseTo(2 / norm, 8)
  expect([got[2], got[3]]).toEqual([1, norm])
  const loss = tensor([Number.POSITIVE_INFINITY], { dtype: 'float32', shape: [] })
  native.clipCoefficient(sums.handle, loss.handle, 0, state.handle)
  expect([...numbers(state)]).toEqual([5, 1, 0, norm])
})
