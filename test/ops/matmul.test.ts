import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { linear, matmul } from '../../lib/ops/matmul.ts'
import { type Dtype, Tensor } from '../../lib/tensor.ts'
import { checkOp } from '../check.ts'
import { expectClose, golden, leaf, noise, type Values } from '../golden.ts'
import { activations } from '../reference/activation.ts'
import * as reference from '../reference/matmul.ts'

const numbers = (t: Tensor): number[] => Array.from(t.dataSync() as Float64Array)
const dtypes = ['float64', 'float32'] as const

// A leaf whose memory holds the last two axes the other way round.
const turned = (x: Values, dtype: Dtype): Tensor => {
  const [rows, cols] = x.shape.slice(-2) as [number, number]
  const flipped = new Float64Array(x.data.length)
  x.data.forEach((v, i) => {
    const inner = i % (rows * cols)
    flipped[i - inner + (inner % cols) * rows + Math.floor(inner / cols)] = v
  })
  const plain = tensor(flipped, { shape: [...x.shape.slice(0, -2), cols, rows], dtype })
  const view = new Tensor(native.transpose(plain.handle, -1, -2))
  view.requiresGrad = true
  return view
}

describe.each(dtypes)('%s', (dtype) => {
  test('matmul gives what PyTorch gives, gradients included', () => {
    const { values } = golden('matmul')
    const a = leaf(values.a!, dtype)
    const b = leaf(values.b!, dtype)
    const y = matmul(a, b)
    expectClose(y, values.y!, undefined, 'y')
    backward(y, leaf(values.dy!, dtype))
    expectClose(a.grad, values.da!, undefined, 'da')
    expectClose(b.grad, values.db!, undefined, 'db')
  })

  test.each([
    [
      [2, 3],
      [3, 4],
    ],
    [
      [1, 1],
      [1, 1],
    ],
    [
      [5, 1],
      [1, 7],
    ],
    [
      [1, 9],
      [9, 1],
    ],
    [
      [3, 700],
      [700, 33],
    ],
    [
      [4, 5, 6],
      [4, 6, 7],
    ],
    [
      [4, 5, 6],
      [6, 7],
    ],
    [
      [5, 6],
      [4, 6, 7],
    ],
    [
      [2, 3, 5, 6],
      [3, 6, 7],
    ],
    [
      [2, 1, 5, 6],
      [1, 3, 6, 2],
    ],
    [
      [3, 1, 6],
      [6, 4],
    ],
    [
      [2, 3, 1, 4],
      [1, 1, 4, 5],
    ],
    [
      [0, 3],
      [3, 4],
    ],
    [
      [2, 0],
      [0, 4],
    ],
    [
      [0, 2, 3],
      [3, 4],
    ],
  ])('matmul of %j and %j, operands in order and transposed', (shapeA, shapeB) => {
    const a = noise(shapeA, 1)
    const b = noise(shapeB, 2)
    const expected = reference.matmul(a, b)
    const dy = noise(expected.y.shape, 3)
    const { y, da, db } = reference.matmul(a, b, dy)
    for (const makeA of [leaf, turned])
      for (const makeB of [leaf, turned]) {
        const left = makeA(a, dtype)
        const right = makeB(b, dtype)
        const got = matmul(left, right)
        expectClose(got, y, undefined, 'y')
        backward(got, leaf(dy, dtype))
        expectClose(left.grad, da, undefined, 'da')
        expectClose(right.grad, db, undefined, 'db')
      }
  })

  test('vectors: a row on the left, a column on the right', () => {
    const vector = noise([6], 4)
    const matrix = noise([3, 6, 5], 5)
    const asRow = { data: vector.data, shape: [1, 6] }
    const asColumn = { data: vector.data, shape: [6, 1] }
    const flip = { ...noise([3, 4, 6], 6) }
    const dyRow = noise([3, 5], 7)
    const dyColumn = noise([3, 4], 8)

    const v = leaf(vector, dtype)
    const m = leaf(matrix, dtype)
    const row = matmul(v, m)
    const expectRow = reference.matmul(asRow, matrix, { data: dyRow.data, shape: [3, 1, 5] })
    expectClose(row, { data: expectRow.y.data, shape: [3, 5] })
    backward(row, leaf(dyRow, dtype))
    expectClose(v.grad, { data: expectRow.da.data, shape: [6] })
    expectClose(m.grad, expectRow.db)

    const w = leaf(vector, dtype)
    const f = leaf(flip, dtype)
    const column = matmul(f, w)
    const expectColumn = reference.matmul(flip, asColumn, { data: dyColumn.data, shape: [3, 4, 1] })
    expectClose(column, { data: expectColumn.y.data, shape: [3, 4] })
    backward(column, leaf(dyColumn, dtype))
    expectClose(f.grad, expectColumn.da)
    expectClose(w.grad, { data: expectColumn.db.data, shape: [6] })

    const u = leaf(noise([6], 9), dtype)
    const dot = matmul(v, u)
    expect(dot.shape).toEqual([])
    expectClose(dot, {
      data: reference.matmul(asRow, { ...noise([6], 9), shape: [6, 1] }).y.data,
      shape: [],
    })
    backward(dot)
    expectClose(u.grad, vector)
  })

  // Sizes that are split into several panels, by rows and by columns.
  test.each([
    [1040, 64, 250],
    [70, 160, 1500],
  ])('linear of [%i, %i] with %i outputs is x @ weight^T', (rows, width, outputs) => {
    const x = noise([rows, width], 10)
    const weight = noise([outputs, width], 11)
    const dy = noise([rows, outputs], 12)
    const { y, da, db } = reference.matmul(x, transpose(weight), dy)
    const xs = leaf({ ...x, shape: [2, rows / 2, width] }, dtype)
    const ws = leaf(weight, dtype)
    const got = linear(xs, ws)
    expectClose(got, { ...y, shape: [2, rows / 2, outputs] }, undefined, 'y')
    backward(got, leaf({ ...dy, shape: [2, rows / 2, outputs] }, dtype))
    expectClose(xs.grad, { ...da, shape: [2, rows / 2, width] }, undefined, 'dx')
    expectClose(ws.grad, transpose(db), undefined, 'dweight')
  })
})

const transpose = (x: Values): Values => {
  const [rows, cols] = x.shape as [number, number]
  const data = new Float64Array(x.data.length)
  x.data.forEach((v, i) => {
    data[(i % cols) * rows + Math.floor(i / cols)] = v
  })
  return { data, shape: [cols, rows] }
}

test('linear adds a bias to each row', () => {
  const x = noise([6, 5], 1)
  const weight = noise([4, 5], 2)
  const bias = noise([4], 3)
  const dy = noise([6, 4], 4)
  const { y } = reference.matmul(x, transpose(weight))
  const b = leaf(bias)
  const got = linear(leaf({ ...x, shape: [2, 3, 5] }), leaf(weight), b)
  expectClose(got, { data: y.data.map((v, i) => v + bias.data[i % 4]!), shape: [2, 3, 4] })
  backward(got, leaf({ ...dy, shape: [2, 3, 4] }))
  const sums = new Float64Array(4)
  dy.data.forEach((d, i) => {
    sums[i % 4]! += d
  })
  expectClose(b.grad, { data: sums, shape: [4] })
  expect(() => linear(leaf(x), leaf(weight), leaf(noise([5], 1)))).toThrow('linear: bias is [5] but should be [4]')
})

// The second size is one that is packed and computed in panels.
test.each([
  [8, 5, 3],
  [400, 150, 130],
])('the gradient of a weight can be added to an earlier one: %i rows, %i by %i', (rows, ins, outs) => {
  for (const dtype of dtypes) {
    const x = leaf(noise([rows, ins], 1), dtype)
    const dy = leaf(noise([rows, outs], 2), dtype)
    const sum = leaf(noise([outs, ins], 3), dtype)
    const before = numbers(sum)
    const alone = numbers(new Tensor(native.linearGradWeight(x.handle, dy.handle, null)))
    native.linearGradWeight(x.handle, dy.handle, sum.handle)
    expectClose(sum, { data: Float64Array.from(before, (v, i) => v + alone[i]!), shape: [outs, ins] })
  }
})

test('one row, as when a token is generated, gives what many rows give', () => {
  const x = noise([5, 300], 1)
  const weight = leaf(noise([70, 300], 2))
  const all = numbers(linear(leaf(x), weight))
  for (let i = 0; i < 5; i++) {
    const row = { data: x.data.subarray(i * 300, (i + 1) * 300), shape: [1, 300] }
    expectClose(linear(leaf(row), weight), { data: Float64Array.from(all.slice(i * 70, (i + 1) * 70)), shape: [1, 70] })
  }
})

test.each(['bfloat16', 'float16'] as const)('%s is multiplied in float32 and rounded once', (dtype) => {
  // Small whole numbers are exact in both types, so the only rounding is that of the result.
  const a = noise([130, 1100], 1)
  const b = noise([1100, 40], 2)
  for (const x of [a, b]) x.data = x.data.map((v) => Math.round(v * 3))
  const { y } = reference.matmul(a, b)
  for (const make of [leaf, turned]) {
    const got = new Tensor(native.cast(matmul(make(a, dtype), make(b, dtype)).handle, 1))
    const rounded = new Tensor(native.cast(new Tensor(native.cast(leaf(y).handle, code(dtype))).handle, 1))
    expect(numbers(got)).toEqual(numbers(rounded))
  }
  const few = { data: a.data.subarray(0, 2200), shape: [2, 1100] }
  const got = new Tensor(native.cast(matmul(leaf(few, dtype), turned(b, dtype)).handle, 1))
  const wide = new Tensor(native.cast(leaf({ data: y.data.subarray(0, 80), shape: [2, 40] }).handle, code(dtype)))
  expect(numbers(got)).toEqual(numbers(new Tensor(native.cast(wide.handle, 1))))
})
const code = (dtype: 'bfloat16' | 'float16') => (dtype === 'bfloat16' ? 2 : 3)

test('dtypes mix as in arithmetic, and gradients have the dtype of their input', () => {
  const a = leaf(noise([3, 4], 1), 'float32')
  const b = leaf(noise([4, 5], 2), 'float64')
  const y = matmul(a, b)
  expect(y.dtype).toBe('float64')
  backward(y, leaf(noise([3, 5], 3)))
  expect(a.grad!.dtype).toBe('float32')
  const { da } = reference.matmul(noise([3, 4], 1), noise([4, 5], 2), noise([3, 5], 3))
  expectClose(a.grad, da, 1e-6)
})

test('the number of threads changes no bit', () => {
  const x = leaf(noise([1100, 200], 1), 'float32')
  const w = leaf(noise([300, 200], 2), 'float32')
  const before = native.threads()
  try {
    const runs = [1, 2, 3].map((n) => {
      native.setThreads(n)
      return Buffer.from((linear(x, w).dataSync() as Float32Array).buffer).toString('base64')
    })
    expect(new Set(runs).size).toBe(1)
  } finally {
    native.setThreads(before)
  }
})

test('NaN and infinity pass through, also where beta is 0', () => {
  const a = tensor(
    [
      [1, Number.NaN],
      [2, 3],
    ],
    { dtype: 'float64' },
  )
  const b = tensor(
    [
      [1, 2],
      [3, 4],
    ],
    { dtype: 'float64' },
  )
  expect(numbers(matmul(a, b))).toEqual([Number.NaN, Number.NaN, 11, 16])
})

test('errors name the operation and both shapes', () => {
  const a = tensor(new Float32Array(6), { shape: [2, 3] })
  expect(() => matmul(a, a)).toThrow(
    'matmul: a is [2, 3] and b is [2, 3], but the 3 columns of a should be the 2 rows of b',
  )
  expect(() => matmul(a, tensor(1))).toThrow(/at least one axis/)
  expect(() => matmul(a, tensor([1, 2, 3], { dtype: 'int32' }))).toThrow('matmul: b is int32')
  expect(() => linear(a, tensor([[1, 2]]))).toThrow('linear: weight is [1, 2] but should be [out, 3] for x of [2, 3]')
  const batch = tensor(new Float32Array(12), { shape: [2, 2, 3] })
  expect(() => matmul(batch, tensor(new Float32Array(27), { shape: [3, 3, 3] }))).toThrow(/broadcast/)
})

checkOp({
  name: 'matmul, gradients by differences',
  op: matmul,
  oracle: (a, b) => reference.matmul(a as Values, b as Values).y,
  cases: [
    [
      [1, 1],
      [1, 1],
    ],
    [
      [3, 5],
      [5, 2],
    ],
    [
      [2, 3, 4],
      [4, 3],
    ],
    [
      [2, 1, 3, 4],
      [3, 4, 2],
    ],
    [
      [0, 3],
      [3, 2],
    ],
    [
      [2, 0],
      [0, 3],
    ],
    [
      [65, 130],
      [130, 40],
    ],
  ],
})

checkOp({
  name: 'linear, gradients by differences',
  op: (x, weight, bias) => linear(x, weight, bias),
  oracle: (x, weight, bias) => {
    const { y } = reference.matmul(x as Values, transpose(weight as Values))
    return { shape: y.shape, data: y.data.map((v, i) => v + bias!.data[i % bias!.data.length]!) }
  },
  cases: [
    [[1, 1], [1, 1], [1]],
    [[2, 3, 5], [4, 5], [4]],
    [[0, 5], [4, 5], [4]],
    [[130, 65], [50, 65], [50]],
  ],
})

const withEpilogue =
  (activation: (x: number) => number) =>
  (x: Values, weight: Values, bias: Values, residual: Values): Values => {
    const { y } = reference.matmul(x, transpose(weight))
    const n = bias.data.length
    return { shape: y.shape, data: y.data.map((v, i) => activation(v + bias.data[i % n]!) + residual.data[i]!) }
  }
for (const [activation, f] of Object.entries(activations))
  checkOp({
    name: `linear with ${activation} and a residual, gradients by differences`,
    op: (x, weight, bias, residual) =>
      linear(x!, weight!, bias!, { activation: activation as keyof typeof activations, residual: residual! }),
    oracle: (...all) => withEpilogue(f)(...(all as unknown as [Values, Values, Values, Values])),
    cases: [
      [[3, 6], [4, 6], [4], [3, 4]],
      [[2, 0], [5, 0], [5], [2, 5]],
      [[0, 3], [5, 3], [5], [0, 5]],
      [[17, 33], [13, 33], [13], [17, 13]],
    ],
    // Small enough for the differences of erf and tanh, and of either sign; away from relu's kink.
    values: (u, input, at) => (input === 2 ? (at % 2 ? 1 : -1) : (u - 0.5) / 4),
    nan: false,
  })

test('linear without a bias, with an activation alone or a residual alone', () => {
  const x = noise([5, 12], 1)
  const weight = noise([9, 12], 2)
  const residual = noise([5, 9], 3)
  const { y } = reference.matmul(x, transpose(weight))
  const relu = linear(leaf(x), leaf(weight), null, { activation: 'relu' })
  expectClose(relu, { ...y, data: y.data.map((v) => Math.max(v, 0)) })
  const added = linear(leaf(x), leaf(weight), null, { residual: leaf(residual) })
  expectClose(added, { ...y, data: y.data.map((v, i) => v + residual.data[i]!) })
  const xs = leaf(x)
  const ws = leaf(weight)
  const dy = noise([5, 9], 4)
  backward(linear(xs, ws, null, { activation: 'relu' }), leaf(dy))
  const masked = { ...dy, data: dy.data.map((d, i) => (y.data[i]! > 0 ? d : 0)) }
  const { da, db } = reference.matmul(x, transpose(weight), masked)
  expectClose(xs.grad, da)
  expectClose(ws.grad, transpose(db))
})

test('a residual of another shape, or an unknown activation, is refused', () => {
  const [x, w] = [leaf(noise([2, 3], 1)), leaf(noise([4, 3], 2))]
  expect(() => linear(x, w, null, { residual: x })).toThrow(
    'linear: residual is [2, 3] of float64 but should be [2, 4]',
  )
  expect(() => linear(x, w, null, { activation: 'tanh' as 'relu' })).toThrow(
    'linear: activation is tanh, but should be',
  )
})

// In bfloat16 each product alone would be rounded to 8 bits, and a sum of many to 8 bits again each time.
test.each(['bfloat16', 'float16'] as const)('gradients of %s weights add up unrounded in float32', (dtype) => {
  const x = noise([70, 24], 1)
  const dy = noise([70, 40], 2)
  for (const v of [x, dy]) v.data = v.data.map((one) => Math.round(one * 8) / 8)
  const w = leaf(noise([40, 24], 3), dtype)
  w.grad = tensor(new Float32Array(40 * 24).fill(1000), { shape: [40, 24] })
  const { grad } = w
  for (let i = 0; i < 3; i++) backward(linear(leaf(x, dtype), w), leaf(dy, dtype))
  expect(w.grad).toBe(grad)
  const { db } = reference.matmul(x, { data: new Float64Array(24 * 40), shape: [24, 40] }, dy)
  expect(numbers(grad!)).toEqual(Array.from(transpose(db).data, (v) => 1000 + 3 * v))
})
