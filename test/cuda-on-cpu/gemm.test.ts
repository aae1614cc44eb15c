// Matrix products (cuda/gemm*.cu) of shapes that reach every tile: ragged edges, odd addresses, depths longer than the
// ring of stages and cut in parts, batches, groups. Operands are sixteenths, which every type holds exactly, so sums in
// float32 are exact too: only the result is rounded.
import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { linear, matmul } from '../../lib/ops/matmul.ts'
import { groupedMatmul } from '../../lib/ops/moe.ts'
import { type Dtype, noGrad, Tensor } from '../../lib/tensor.ts'
import { expectClose, numbers, uniforms } from '../check.ts'
import type { Nd } from '../nd.ts'

const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)
const sixteenths = (shape: readonly number[], seed: number): Nd => {
  const next = uniforms(seed)
  return { shape, data: Float64Array.from({ length: count(shape) }, () => (Math.floor(next() * 65) - 32) / 16) }
}
const turned = ({ shape, data }: Nd): Nd => {
  const [rows, cols] = shape.slice(-2) as [number, number]
  const to = new Float64Array(data.length)
  data.forEach((v, i) => {
    const inner = i % (rows * cols)
    to[i - inner + (inner % cols) * rows + Math.floor(inner / cols)] = v
  })
  return { shape: [...shape.slice(0, -2), cols, rows], data: to }
}
/** Values in order, or with the columns in order. `gap`: unused elements behind each line. */
const place = (x: Nd, dtype: Dtype, turn: boolean, gap = 0): Tensor => {
  const { shape, data } = turn ? turned(x) : x
  const cols = shape.at(-1)!
  const wide = new Float64Array((data.length / cols) * (cols + gap)).fill(7)
  data.forEach((v, i) => {
    wide[Math.floor(i / cols) * (cols + gap) + (i % cols)] = v
  })
  const all = tensor(wide, { shape: [...shape.slice(0, -1), cols + gap], dtype })
  const lines = gap ? all.slice(shape.length - 1, 0, cols) : all
  return turn ? new Tensor(native.transpose(lines.handle, -1, -2)) : lines
}
/** a (m, k) @ b (k, n), from these elements on, added to y. */
function add(y: Float64Array, a: Float64Array, b: Float64Array, m: number, n: number, k: number, at = [0, 0, 0]): void {
  for (let i = 0; i < m; i++)
    for (let l = 0; l < k; l++) {
      const left = a[at[0]! + i * k + l]!
      for (let j = 0; j < n; j++) y[at[2]! + i * n + j]! += left * b[at[1]! + l * n + j]!
    }
}
const product = (a: Nd, b: Nd): Nd => {
  const [m, k, n] = [a.shape[0]!, a.shape[1]!, b.shape[1]!]
  const y = new Float64Array(m * n)
  add(y, a.data, b.data, m, n, k)
  return { shape: [m, n], data: y }
}
/** Nothing but the one rounding to the dtype of the result. */
const expectRounded = (got: Tensor, expected: Nd, what = ''): void =>
  expectClose(got, { ...expected, data: numbers(tensor(expected.data, { dtype: got.dtype })) }, 0, what)

// On the stand-in's four multiprocessors: large tiles with ragged edges, and with more bands of them than one walk over
// y is high; medium ones; small ones that are cut in parts; copies of 4 bytes and of single elements.
test.each([
  [300, 520, 72, 0],
  [130, 264, 328, 0],
  [1160, 136, 24, 0],
  [72, 40, 1096, 0],
  [66, 46, 98, 0],
  [67, 45, 330, 0],
  [130, 136, 104, 2],
  [130, 136, 104, 1],
])('%i x %i, %i deep, lines %i apart: every layout', (m, n, k, gap) => {
  const a = sixteenths([m, k], 1)
  const b = sixteenths([k, n], 2)
  const y = product(a, b)
  for (const dtype of ['bfloat16', 'float16', 'float32'] as const)
    for (const turnA of [false, true])
      for (const turnB of [false, true]) {
        const got = noGrad(() => matmul(place(a, dtype, turnA, gap), place(b, dtype, turnB, gap)))
        expectRounded(got, y, `${dtype} ${turnA} ${turnB}`)
      }
})

// One operand serves all matrices of the batch; its gradient is a sum over them, which go on where the last one ended.
test.each(['bfloat16', 'float32', 'float64'] as const)('batches, and sums over batches: %s', (dtype) => {
  const [m, n, k, batch] = [72, 136, 40, 3]
  const a = sixteenths([m, k], 1)
  const b = sixteenths([batch, k, n], 2)
  const dy = sixteenths([batch, m, n], 3)
  const y = new Float64Array(batch * m * n)
  const da = new Float64Array(m * k)
  for (let i = 0; i < batch; i++) {
    add(y, a.data, b.data, m, n, k, [0, i * k * n, i * m * n])
    add(da, dy.data, turned(b).data, m, k, n, [i * m * n, i * k * n, 0])
  }
  const left = place(a, dtype, false)
  left.requiresGrad = true
  const got = matmul(left, place(b, dtype, false))
  expectRounded(got, { shape: [batch, m, n], data: y }, 'y')
  backward(got, place(dy, dtype, false))
  expectRounded(left.grad!, { shape: [m, k], data: da }, 'da')
})

describe.each(['bfloat16', 'float16', 'float32'] as const)('%s', (dtype) => {
  // The second is cut in parts, which are added up before anything follows.
  test.each([
    [140, 264, 40],
    [40, 24, 1096],
    [33, 21, 48],
  ])('what follows a product of %i x %i, %i deep', (m, n, k) => {
    const x = sixteenths([m, k], 1)
    const w = sixteenths([n, k], 2)
    const bias = sixteenths([n], 3)
    const residual = sixteenths([m, n], 4)
    const sums = product(x, turned(w))
    const expected = sums.data.map((v, i) => Math.max(0, v + bias.data[i % n]!) + residual.data[i]!)
    const [rows, weight] = [place(x, dtype, false), place(w, dtype, false)]
    const options = { activation: 'relu', residual: place(residual, dtype, false) } as const
    for (const biasDtype of [dtype, 'float32'] as const) {
      const got = noGrad(() => linear(rows, weight, tensor(bias.data, { dtype: biasDtype }), options))
      expectRounded(got, { shape: [m, n], data: expected })
    }
    const kept = native.linearActivation(rows.handle, weight.handle, null, null, 'relu2', true)
    const [after, before] = kept.map((handle) => new Tensor(handle))
    expectRounded(before!, sums, 'before the activation')
    const squares = { shape: [m, n], data: sums.data.map((v) => Math.max(0, v) ** 2) }
    expectClose(after!, squares, { bfloat16: 2 ** -8, float16: 2 ** -11, float32: 1e-6 }[dtype], 'after it')
  })

  // With float32 sums the parts of the depth must not be rounded on the way.
  test.each([
    [520, 48, 64],
    [77, 260, 136],
    [1100, 17, 9],
  ])('the gradient of a weight from %i rows, %i by %i, added to one in float32', (rows, outs, ins) => {
    const x = sixteenths([rows, ins], 1)
    const dy = sixteenths([rows, outs], 2)
    const sum = tensor(new Float32Array(outs * ins).fill(3), { shape: [outs, ins] })
    native.linearGradWeight(place(x, dtype, false).handle, place(dy, dtype, false).handle, sum.handle)
    const expected = product(turned(dy), x)
    expect(numbers(sum)).toEqual(expected.data.map((v) => v + 3))
  })

  // More groups than a warp has lanes, most of them ragged, some empty; and a few that are taller than a tile.
  test.each([
    ['forty of them', Array.from({ length: 41 }, (_, g) => (g < 3 ? 0 : Math.min(300, (g - 3) * 7 + (g % 3)))), 24, 40],
    ['tall ones', [0, 130, 130, 131, 420], 136, 72],
    ['odd ones', [0, 5, 70, 70], 33, 19],
  ] as const)('groups of rows: %s', (_, starts, ins, outs) => {
    const offsets = [...starts]
    const experts = offsets.length - 1
    const rows = offsets[experts]!
    const x = sixteenths([rows, ins], 1)
    const w = sixteenths([experts, outs, ins], 2)
    const dy = sixteenths([rows, outs], 3)
    const y = new Float64Array(rows * outs)
    const dw = new Float64Array(experts * outs * ins)
    const dx = new Float64Array(rows * ins)
    const [flipped, columns] = [turned(w).data, (e: number) => [offsets[e]!, offsets[e + 1]!] as const]
    for (let e = 0; e < experts; e++) {
      const [from, to] = columns(e)
      add(y, x.data, flipped, to - from, outs, ins, [from * ins, e * ins * outs, from * outs])
      add(dx, dy.data, w.data, to - from, ins, outs, [from * outs, e * ins * outs, from * ins])
      const part = { shape: [to - from, outs], data: dy.data.subarray(from * outs, to * outs) }
      add(dw, turned(part).data, x.data, outs, ins, to - from, [0, from * ins, e * outs * ins])
    }
    const [xs, ws] = [place(x, dtype, false), place(w, dtype, false)]
    xs.requiresGrad = ws.requiresGrad = true
    const at = tensor(offsets, { dtype: 'int32' })
    const got = groupedMatmul(xs, ws, at)
    expectRounded(got, { shape: [rows, outs], data: y }, 'y')
    backward(got, place(dy, dtype, false))
    expectRounded(xs.grad!, { shape: [rows, ins], data: dx }, 'dx')
    expectRounded(ws.grad!, { shape: [experts, outs, ins], data: dw }, 'dw')
  })
})

test('offsets that do not rise to the number of rows are said at the next wait', async () => {
  const x = place(sixteenths([6, 4], 1), 'bfloat16', false)
  const w = place(sixteenths([2, 3, 4], 2), 'bfloat16', false)
  const y = groupedMatmul(x, w, tensor([0, 9, 6], { dtype: 'int32' }))
  await expect(y.data()).rejects.toThrow('groupedMatmul: offsets should rise from 0 to the 6 rows of x')
})
