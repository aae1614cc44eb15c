// The polynomial kernels and those of the mixture of experts where cuda/ goes ways of its own: rows of half a warp, a block,
// a cluster (sm_90) and more than that; rows and operands that begin anywhere; powers past the range of floats; several
// experts to a run of rows; more assignments than a block sorts at once.
import { expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { combine, gatherRows, groupByExpert, route } from '../../lib/ops/moe.ts'
import { polyNorm, polyNormGlu, polyRelu } from '../../lib/ops/poly.ts'
import { Tensor } from '../../lib/tensor.ts'
import { expectClose, expectSums, noise, numbers, type Values } from '../golden.ts'
import * as moe from '../reference/moe.ts'
import * as reference from '../reference.ts'

type Which = 'polyRelu' | 'polyNorm' | 'polyNormGlu'
type Float = 'float32' | 'bfloat16' | 'float16'
const near: Record<Float, number> = { float32: 4e-6, bfloat16: 2 ** -8, float16: 2 ** -11 }
const all: Which[] = ['polyRelu', 'polyNorm', 'polyNormGlu']
const size = (shape: number[]): number => shape.reduce((n, d) => n * d, 1)

/** A contiguous leaf that begins `offset` elements behind a multiple of 16 bytes. */
function leafAt(v: Values, dtype: Float | 'float32', offset = 0): Tensor {
  const data = new Float64Array(offset + size(v.shape))
  data.set(v.data, offset)
  const t = new Tensor(native.windowOf(tensor(data, { dtype }).handle, v.shape, offset))
  t.requiresGrad = true
  return t
}

interface Case {
  rows: number
  cols: number
  order?: number
  dtype?: Float
  offsets?: number[] // where each operand begins: x, up, dy
  ends?: number[] // of each expert's rows
  change?: (v: number, row: number) => number
}

/** Value and gradients of every set's rows, against the definition. */
function check(which: Which, c: Case): void {
  const { rows, cols, order = 3, dtype = 'float32', offsets = [0, 0, 0], ends } = c
  const what = `${which} ${JSON.stringify(c)}`
  const of = (seed: number, change = (v: number, _row: number) => v): Values => {
    const v = reference.normals([rows, cols], seed)
    return reference.rounded({ ...v, data: v.data.map((a, i) => change(a, Math.floor(i / cols))) }, dtype)
  }
  const [x, up, dy] = [of(1, c.change), of(2), of(3)]
  const sets = ends?.length ?? 1
  const weight = reference.rounded(reference.normals([sets, order], 4), 'float32')
  const bias = reference.rounded(reference.normals([sets], 5), 'float32')
  const w = leafAt(ends ? weight : { ...weight, shape: [order] }, 'float32')
  const b = leafAt(bias, 'float32')
  const options = ends ? { offsets: tensor(Int32Array.of(0, ...ends)) } : {}
  const [tx, tup] = [leafAt(x, dtype, offsets[0]), leafAt(up, dtype, offsets[1])]
  const y =
    which === 'polyRelu'
      ? polyRelu(tx, w, b, options)
      : which === 'polyNorm'
        ? polyNorm(tx, w, b, options)
        : polyNormGlu(tx, tup, w, b, options)
  backward(y, leafAt(dy, dtype, offsets[2]))
  const got = [y, tx.grad!, tup.grad].map((t) => t && Float64Array.from(numbers(t)))
  const [dw, db] = [numbers(w.grad), numbers(b.grad)]
  for (let e = 0; e < sets; e++) {
    const [from, to] = ends ? [e ? ends[e - 1]! : 0, ends[e]!] : [0, rows]
    const part = (v: Values): Values => ({ shape: [to - from, cols], data: v.data.slice(from * cols, to * cols) })
    const one = { shape: [order], data: weight.data.slice(e * order, (e + 1) * order) }
    const want =
      which === 'polyRelu'
        ? reference.polyRelu(part(x), one, bias.data[e]!, part(dy))
        : reference.polyNorm(part(x), one, bias.data[e]!, part(dy), which === 'polyNormGlu' ? { up: part(up) } : {})
    // Where one element outweighs its row, high powers of it cancel in dx.
    const tolerance = near[dtype] * (order > 4 && dtype === 'float32' ? 4 : 1)
    const close = (at: number, v: Values, name: string): void => {
      // Row by row: a row of large values would hide the others.
      for (let r = 0; r < to - from; r++) {
        const data = got[at]!.slice((from + r) * cols, (from + r + 1) * cols)
        const row = { shape: [cols], data: v.data.slice(r * cols, (r + 1) * cols) }
        expectClose(tensor(data, { dtype: 'float64' }), row, tolerance, `${what}, ${name} of row ${from + r}`)
      }
    }
    close(0, want.y, 'y')
    close(1, want.dx, 'dx')
    if (which === 'polyNormGlu') close(2, want.dup, 'dup')
    const sums = (a: number[]): Tensor => tensor(a, { dtype: 'float32' })
    expectSums(sums(dw.slice(e * order, (e + 1) * order)), want.dweight, want.terms.weight, `${what} dweight ${e}`)
    expectSums(sums([db[e]!]), want.dbias, [want.terms.bias], `${what} dbias ${e}`)
  }
}

test('rows that begin anywhere, of every width of a group', () => {
  for (const which of all) {
    for (const cols of [8, 9, 63, 64, 65, 257, 1030]) check(which, { rows: 5, cols, dtype: 'bfloat16' })
    for (const cols of [31, 130, 1027]) check(which, { rows: 3, cols, order: 2 })
    check(which, { rows: 3, cols: 40, dtype: 'float16', offsets: [3, 3, 3] })
  }
})

test('operands that do not begin alike', () => {
  for (const which of all)
    for (const offsets of [
      [1, 0, 0],
      [0, 0, 3],
      [2, 1, 2],
    ])
      check(which, { rows: 3, cols: 600, dtype: 'bfloat16', offsets })
})

test('rows that need a cluster, and rows past one', () => {
  for (const which of ['polyNorm', 'polyNormGlu'] as const) check(which, { rows: 2, cols: 20000 })
  check('polyNorm', { rows: 1, cols: 70001, order: 2 })
  check('polyNorm', { rows: 1, cols: 140000, dtype: 'bfloat16' })
  check('polyNormGlu', { rows: 1, cols: 9000, order: 7 })
})

test('one row past the range of floats, beside others', () => {
  for (const which of ['polyNorm', 'polyNormGlu'] as const)
    for (const cols of [48, 2000, 20001])
      for (const order of [4, 8]) check(which, { rows: 3, cols, order, change: (v, row) => (row === 1 ? v * 1e5 : v) })
})

test('many rows of several experts: every run of rows leaves its share', () => {
  const ends = [0, 200, 201, 201, 500, 640, 640]
  for (const which of all) {
    check(which, { rows: 640, cols: 24, ends })
    check(which, { rows: 640, cols: 300, ends, dtype: 'bfloat16' })
    check(which, { rows: 640, cols: 33, ends, order: 6 })
  }
  check('polyNormGlu', { rows: 300, cols: 5, ends: [100, 300] })
})

test('groupByExpert: more assignments than one block sorts, in their order', () => {
  for (const [n, experts] of [
    [5000, 70],
    [1024, 1],
    [2049, 64],
  ] as const) {
    const chosen = Array.from(noise([n], 7).data, (v) => Math.floor(((v + 1) / 2) ** 2 * experts) % experts)
    const { order, offsets } = groupByExpert(tensor(Int32Array.from(chosen)), experts)
    const sorted = chosen.map((_, i) => i).sort((a, b) => chosen[a]! - chosen[b]! || a - b)
    expect(numbers(order)).toEqual(sorted)
    const before = (e: number): number => chosen.filter((c) => c < e).length
    expect(numbers(offsets)).toEqual(Array.from({ length: experts + 1 }, (_, e) => before(e)))
  }
})

test('route: more experts than lanes, more rows than warps, equal logits', () => {
  const logits = noise([150, 70], 3)
  logits.data = logits.data.map((v) => Math.round(v * 8) / 4)
  for (const normTopkProb of [false, true]) {
    const want = moe.route(logits, 8, normTopkProb)
    const got = route(tensor(logits.data, { shape: [150, 70], dtype: 'float32' }), { topK: 8, normTopkProb })
    expect(numbers(got.experts)).toEqual(want.experts.flat())
    expectClose(got.weights, { shape: [150, 8], data: Float64Array.from(want.weights.flat()) })
    expectClose(got.shares, { shape: [70], data: Float64Array.from(want.shares) })
    expectClose(got.aux, { shape: [], data: Float64Array.of(want.aux) })
    expectClose(got.z, { shape: [], data: Float64Array.of(want.z) })
  }
})

test('rows longer than a block takes at once on their way to the experts and back', () => {
  const [n, k] = [5, 3]
  const order = [4, 9, 0, 14, 7, 1, 12, 5, 10, 2, 13, 6, 3, 11, 8]
  for (const [cols, dtype] of [
    [5000, 'float32'],
    [2056, 'bfloat16'],
    [2053, 'bfloat16'],
  ] as const) {
    const [x, y] = [leafAt(noise([n, cols], 1), dtype), leafAt(noise([n * k, cols], 2), dtype)]
    const at = tensor(Int32Array.from(order))
    const [xs, ys] = [numbers(x), numbers(y)]
    const rowsOf = (from: number[], row: number): number[] => from.slice(row * cols, (row + 1) * cols)
    expect(numbers(gatherRows(x, at))).toEqual(order.flatMap((a) => rowsOf(xs, Math.floor(a / k))))
    const weights = leafAt(noise([n, k], 3), 'float32')
    const ws = numbers(weights)
    const sum = Float64Array.from({ length: n * cols }, (_, i) => {
      const token = Math.floor(i / cols)
      return [0, 1, 2].reduce((s, j) => {
        const a = token * k + j
        return s + ws[a]! * ys[order.indexOf(a) * cols + (i % cols)]!
      }, 0)
    })
    const combined = combine(y, at, weights)
    expectClose(tensor(numbers(combined), { dtype: 'float64' }), { shape: [n * cols], data: sum }, near[dtype])
    const dy = leafAt(noise([n, cols], 4), dtype)
    const ds = numbers(dy)
    backward(combined, dy)
    const dot = Float64Array.from({ length: n * k }, (_, a) => {
      const row = rowsOf(ds, Math.floor(a / k))
      return rowsOf(ys, order.indexOf(a)).reduce((s, v, i) => s + v * row[i]!, 0)
    })
    expectClose(weights.grad, { shape: [n, k], data: dot })
    const dx = Float64Array.from(order.flatMap((a) => rowsOf(ds, Math.floor(a / k)).map((v) => v * ws[a]!)))
    expectClose(tensor(numbers(y.grad), { dtype: 'float64' }), { shape: [n * k * cols], data: dx }, near[dtype])
  }
})
