// Attention where the CUDA kernels go other ways: every head size the tensor cores know and those between, tiles that
// end early, heads that share keys, few queries against many keys, rows that no 16-byte copy can read.
import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { attention } from '../../lib/ops/attention.ts'
import { tensor } from '../../lib/ops/create.ts'
import { transpose } from '../../lib/ops/view.ts'
import { type Dtype, Tensor } from '../../lib/tensor.ts'
import { leaf, noise, numbers, type Values } from '../golden.ts'
import { type AttentionCase, attention as reference } from '../reference/attention.ts'

/**
 * Largest error relative to the largest expected value. On tensor cores weights are rounded to 16 bits before they
 * are multiplied, and so is the result.
 */
const allowed = { float64: 1e-12, float32: 4e-6, bfloat16: 2 ** -7, float16: 2 ** -10 } as const
type Float = keyof typeof allowed

/** Values as a tensor of that dtype holds them. */
const held = (x: Values, dtype: Dtype): Values => ({ ...x, data: Float64Array.from(numbers(leaf(x, dtype))) })

function close(got: Tensor | null, want: Float64Array, dtype: Float, what: string): void {
  const values = numbers(got!)
  expect(values.length, what).toBe(want.length)
  const most = want.reduce((m, x) => Math.max(m, Math.abs(x)), 0)
  let worst = 0
  let at = 0
  for (const [i, x] of values.entries()) {
    const error = Math.abs(x - want[i]!)
    if (error <= worst) continue
    worst = error
    at = i
    if (Number.isNaN(error)) break
  }
  const limit = allowed[dtype] * most
  expect(worst <= limit, `${what} element ${at}: ${values[at]}, should be ${want[at]} (allowed error ${limit})`).toBe(
    true,
  )
}

function run(c: AttentionCase, dtype: Float, options: { gradient?: boolean; padding?: number } = {}): void {
  const { gradient = true, padding = 0 } = options
  const shapes = { q: [c.B, c.H, c.T, c.D], k: [c.B, c.K, c.S, c.D] }
  const [q, k, v, dy] = [shapes.q, shapes.k, shapes.k, shapes.q].map((shape, i) =>
    held(noise(shape, i + 1), dtype),
  ) as [Values, Values, Values, Values]
  const r = reference(c, q.data, k.data, v.data, dy.data)
  // (B, H, T, D) as a view of (B, T, H, D + padding), which begins at element `padding`
  const view = (x: Values) => {
    const [B, H, T, D] = x.shape as [number, number, number, number]
    const data = new Float64Array(B * T * H * (D + padding)).fill(Number.NaN)
    for (let b = 0; b < B; b++)
      for (let h = 0; h < H; h++)
        for (let t = 0; t < T; t++)
          for (let d = 0; d < D; d++)
            data[((b * T + t) * H + h) * (D + padding) + padding + d] = x.data[((b * H + h) * T + t) * D + d]!
    const wide = tensor(data, { shape: [B, T, H, D + padding], dtype })
    return transpose(padding ? wide.slice(3, padding, D + padding) : wide, 1, 2)
  }
  const scale = c.scale ?? 1 / Math.sqrt(c.D)
  const [qt, kt, vt] = [view(q), view(k), view(v)]
  const [y, lse] = native.attention(qt.handle, kt.handle, vt.handle, scale, c.causal).map((h) => new Tensor(h))
  close(y!, r.y, dtype, 'y')
  const levels = numbers(lse!)
  for (const row of [0, levels.length - 1]) expect(levels[row]).toBeCloseTo(level(c, q, k, row, scale), 3)
  if (!gradient) return
  const [dq, dk, dv] = native
    .attentionGrad(qt.handle, kt.handle, vt.handle, y!.handle, lse!.handle, view(dy).handle, scale, c.causal)
    .map((h) => new Tensor(h))
  close(dq!, r.dq, dtype, 'dq')
  close(dk!, r.dk, dtype, 'dk')
  close(dv!, r.dv, dtype, 'dv')
}

/** log sum exp of the scores of one query, of all (B, H, T) in a row. */
function level(c: AttentionCase, q: Values, k: Values, row: number, scale: number): number {
  const [t, head] = [row % c.T, Math.floor(row / c.T)]
  const keys = (Math.floor(head / c.H) * c.K + Math.floor(((head % c.H) * c.K) / c.H)) * c.S
  let sum = 0
  for (let s = 0; s < (c.causal ? c.S - c.T + t + 1 : c.S); s++) {
    let dot = 0
    for (let d = 0; d < c.D; d++) dot += q.data[row * c.D + d]! * k.data[(keys + s) * c.D + d]!
    sum += Math.exp(dot * scale)
  }
  return Math.log(sum)
}

// Ragged tiles of queries and keys, two heads a key head; causal ones end before, on and after tiles' edges.
describe.each([32, 64, 96, 128, 256, 8, 40, 72, 104, 136])('heads of %i', (D) => {
  const sizes: Omit<AttentionCase, 'D'>[] = [
    { B: 1, H: 2, K: 1, T: 75, S: 141, causal: true },
    { B: 1, H: 1, K: 1, T: 131, S: 70, causal: false },
  ]
  test.each(sizes)('T $T, S $S, causal $causal', (size) => {
    run({ ...size, D }, 'bfloat16')
    if (D >= 128 || D === 64) run({ ...size, D }, 'float32')
    if (D === 64) run({ ...size, D }, 'float16')
  })
})

test('several tiles, batches and groups of heads', () => {
  run({ B: 2, H: 6, K: 2, T: 129, S: 193, D: 32, causal: true }, 'bfloat16')
  run({ B: 2, H: 4, K: 2, T: 64, S: 64, D: 64, causal: true }, 'bfloat16')
  run({ B: 1, H: 1, K: 1, T: 260, S: 260, D: 32, causal: true }, 'float16')
  run({ B: 1, H: 1, K: 1, T: 260, S: 260, D: 64, causal: false }, 'bfloat16')
})

test.each([1, 3, 20])('heads of %i, rows read element by element', (D) => {
  run({ B: 1, H: 2, K: 1, T: 37, S: 70, D, causal: true }, 'bfloat16')
  run({ B: 1, H: 2, K: 1, T: 37, S: 70, D, causal: true }, 'float32')
})

test('rows that begin beside 16-byte boundaries', () => {
  for (const dtype of ['bfloat16', 'float32'] as const)
    run({ B: 1, H: 2, K: 2, T: 20, S: 70, D: 64, causal: true }, dtype, { padding: 1 })
  run({ B: 1, H: 2, K: 2, T: 20, S: 70, D: 32, causal: true }, 'bfloat16', { padding: 8 })
})

test('heads longer than the tensor cores take', () => {
  run({ B: 1, H: 2, K: 1, T: 5, S: 70, D: 260, causal: true }, 'bfloat16')
  run({ B: 1, H: 1, K: 1, T: 66, S: 66, D: 300, causal: true }, 'float16')
})

// Keys are split among blocks, whose results are joined; the heads of a group are rows of one block.
describe.each(['bfloat16', 'float32', 'float64'] as const)('few queries, many keys: %s', (dtype) => {
  test.each<AttentionCase>([
    { B: 1, H: 1, K: 1, T: 1, S: 900, D: 64, causal: true },
    { B: 1, H: 6, K: 1, T: 3, S: 700, D: 32, causal: true },
    { B: 1, H: 4, K: 2, T: 1, S: 641, D: 40, causal: false },
    { B: 1, H: 2, K: 1, T: 5, S: 400, D: 128, causal: false },
  ])('$H heads on $K, T $T, S $S, D $D', (c) => run(c, dtype, { gradient: c.T === 3 }))
})

test('a negative scale, and none', () => {
  for (const scale of [-0.7, 0])
    for (const dtype of ['bfloat16', 'float32'] as const)
      run({ B: 1, H: 1, K: 1, T: 30, S: 80, D: 32, causal: true, scale }, dtype)
})

test('scores far from 0 neither overflow nor vanish', () => {
  const big = (x: number) => tensor(new Float32Array(32).fill(x), { shape: [1, 1, 1, 32], dtype: 'bfloat16' })
  const y = attention(big(30), big(-30), big(2), { scale: 1 })
  expect(Array.from(numbers(y))).toEqual(new Array(32).fill(2))
  const [, lse] = native.attention(big(30).handle, big(-30).handle, big(2).handle, 1, false)
  expect(numbers(new Tensor(lse!))[0]).toBeCloseTo(-28800, 1)
})

test('what a query does not see cannot reach it: tiles of NaN', () => {
  const c = { B: 1, H: 1, K: 1, T: 128, S: 256, D: 32, causal: true }
  for (const dtype of ['bfloat16', 'float32'] as const) {
    const [q, k, v] = [noise([1, 1, 128, 32], 1), noise([1, 1, 256, 32], 2), noise([1, 1, 256, 32], 3)].map((x) =>
      held(x, dtype),
    ) as [Values, Values, Values]
    const want = reference(c, q.data, k.data, v.data, new Float64Array(q.data.length)).y
    k.data.fill(Number.NaN, 192 * 32)
    v.data.fill(Number.NaN, 192 * 32)
    const y = numbers(attention(leaf(q, dtype), leaf(k, dtype), leaf(v, dtype), { causal: true }))
    // Query t sees keys up to 128 + t: the first 64 see nothing of the last 64 keys.
    for (let i = 0; i < 64 * 32; i++) expect(Math.abs(y[i]! - want[i]!)).toBeLessThan(0.01)
    expect(y[64 * 32]).toBeNaN()
  }
})

test('the same bits twice', () => {
  const shape = [1, 4, 100, 64]
  const once = () => {
    const [q, k, v] = [shape, [1, 2, 150, 64], [1, 2, 150, 64]].map((s, i) => leaf(noise(s, i), 'bfloat16')) as [
      Tensor,
      Tensor,
      Tensor,
    ]
    const y = attention(q, k, v, { causal: true })
    backward(y, leaf(noise(shape, 9), 'bfloat16'))
    return [y, q.grad!, k.grad!, v.grad!].map(numbers)
  }
  expect(once()).toEqual(once())
})
