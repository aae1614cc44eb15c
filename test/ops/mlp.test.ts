import { expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { getDefaultDevice, tensor } from '../../lib/ops/create.ts'
import { groupedMatmul, linear } from '../../lib/ops/index.ts'
import { type PolyMlpOptions, polyNormMlp, polyReluMlp } from '../../lib/ops/mlp.ts'
import { polyNorm, polyRelu } from '../../lib/ops/poly.ts'
import { type Dtype, memory, noGrad, synchronize, type Tensor } from '../../lib/tensor.ts'
import { expectClose, leaf, numbers, type Values } from '../golden.ts'
import * as reference from '../reference.ts'

type Which = 'polyRelu' | 'polyNorm'
const both: Which[] = ['polyRelu', 'polyNorm']

interface Case {
  which: Which
  order: number
  rows: number
  width: number
  hidden: number
  /** Rows of each expert; without it the layer is dense. */
  groups?: number[]
  /** Each expert has coefficients of its own. */
  perExpert?: boolean
  eps?: number
  /** Of x. */
  scale?: number
}

interface Inputs {
  x: Values
  up: Values
  down: Values
  weight: Values
  bias: Values
  dout: Values
}

function inputs(c: Case, dtype: Dtype): Inputs {
  const experts = c.groups ? [c.groups.length] : []
  const sets = c.perExpert ? c.groups!.length : 1
  const small = dtype === 'float64' ? 'float64' : 'float32'
  const normals = (shape: number[], seed: number, scale = 1) =>
    reference.rounded(reference.normals(shape, seed, scale), dtype)
  const weight = Float64Array.from({ length: sets * c.order }, (_, i) => 1 / c.order + 0.3 * Math.cos(3 * i))
  const bias = Float64Array.from({ length: sets }, (_, i) => 0.1 + 0.2 * i)
  return {
    x: normals([c.rows, c.width], 1, c.scale),
    up: normals([...experts, c.hidden, c.width], 2, 1 / Math.sqrt(c.width)),
    down: normals([...experts, c.width, c.hidden], 3, 1 / Math.sqrt(c.hidden)),
    weight: reference.rounded({ data: weight, shape: c.perExpert ? [sets, c.order] : [c.order] }, small),
    bias: reference.rounded({ data: bias, shape: [sets] }, small),
    dout: normals([c.rows, c.width], 4),
  }
}

/** x (n, k) @ w (m, k)^T */
function timesTurned(x: Values, w: Values): Values {
  const [n, k, m] = [x.shape[0]!, x.shape[1]!, w.shape[0]!]
  const data = new Float64Array(n * m)
  for (let i = 0; i < n; i++)
    for (let j = 0; j < m; j++) {
      let sum = 0
      for (let l = 0; l < k; l++) sum += x.data[i * k + l]! * w.data[j * k + l]!
      data[i * m + j] = sum
    }
  return { data, shape: [n, m] }
}
function turned(x: Values): Values {
  const [n, m] = x.shape as [number, number]
  const data = new Float64Array(n * m)
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) data[j * n + i] = x.data[i * m + j]!
  return { data, shape: [m, n] }
}
const part = (v: Values, begin: number, end: number): Values => {
  const inner = v.shape.slice(1).reduce((p, d) => p * d, 1)
  return { data: v.data.slice(begin * inner, end * inner), shape: [end - begin, ...v.shape.slice(1)] }
}

/** One dense layer in float64, with what lies in memory between its parts rounded as the dtype does. */
function dense(c: Case, v: Inputs, dtype: Dtype) {
  const round = (t: Values) => reference.rounded(t, dtype)
  const h = round(timesTurned(v.x, v.up))
  const dyExact = timesTurned(v.dout, turned(v.down))
  // PolyReLU's gradient may take dy unrounded; PolyNorm's sums and pass must agree on it.
  const dy = c.which === 'polyNorm' ? round(dyExact) : dyExact
  const act =
    c.which === 'polyRelu'
      ? reference.polyRelu(h, v.weight, v.bias.data[0]!, dy)
      : reference.polyNorm(h, v.weight, v.bias.data[0]!, dy, { eps: c.eps ?? 1e-6 })
  const [y, dh] = [round(act.y), round(act.dx)]
  return {
    out: timesTurned(y, v.down),
    dx: timesTurned(dh, turned(v.up)),
    dup: timesTurned(turned(dh), turned(v.x)),
    ddown: timesTurned(turned(v.dout), turned(y)),
    dweight: act.dweight,
    dbias: act.dbias,
    terms: act.terms,
  }
}

const joined = (all: Values[], shape: number[]): Values => {
  const data = new Float64Array(shape.reduce((p, d) => p * d, 1))
  let at = 0
  for (const v of all) {
    data.set(v.data, at)
    at += v.data.length
  }
  expect(at).toBe(data.length)
  return { data, shape }
}
const summed = (all: Values[], shape: number[]): Values => ({
  shape,
  data: Float64Array.from(all[0]!.data, (_, i) => all.reduce((s, v) => s + v.data[i]!, 0)),
})

/** The layer, dense or of experts, from its definition. */
function expected(c: Case, v: Inputs, dtype: Dtype) {
  if (!c.groups) {
    const d = dense(c, v, dtype)
    return { ...d, terms: [...d.terms.weight, d.terms.bias] }
  }
  let begin = 0
  const each = c.groups.map((count, e) => {
    const rows = (t: Values) => part(t, begin, begin + count)
    const own = (t: Values) => ({ data: part(t, e, e + 1).data, shape: t.shape.slice(1) })
    const one = dense(
      c,
      {
        x: rows(v.x),
        dout: rows(v.dout),
        up: own(v.up),
        down: own(v.down),
        weight: c.perExpert ? own(v.weight) : v.weight,
        bias: c.perExpert ? part(v.bias, e, e + 1) : v.bias,
      },
      dtype,
    )
    begin += count
    return one
  })
  const of = (key: 'out' | 'dx' | 'dup' | 'ddown' | 'dweight' | 'dbias') => each.map((one) => one[key])
  const coefficients = c.perExpert ? joined : summed
  const terms = each.map((one) => [...one.terms.weight, one.terms.bias])
  return {
    out: joined(of('out'), v.dout.shape),
    dx: joined(of('dx'), v.x.shape),
    dup: joined(of('dup'), v.up.shape),
    ddown: joined(of('ddown'), v.down.shape),
    dweight: coefficients(of('dweight'), v.weight.shape),
    dbias: coefficients(of('dbias'), v.bias.shape),
    terms: c.perExpert
      ? [...terms.flatMap((t) => t.slice(0, -1)), ...terms.map((t) => t.at(-1)!)]
      : terms[0]!.map((_, i) => terms.reduce((s, t) => s + t[i]!, 0)),
  }
}

const offsetsOf = (groups: number[]): Tensor => {
  const ends = [0]
  for (const count of groups) ends.push(ends.at(-1)! + count)
  return tensor(ends, { dtype: 'int32' })
}
const apply = (c: Case, x: Tensor, weights: Parameters<typeof polyReluMlp>[1], options: PolyMlpOptions): Tensor =>
  c.which === 'polyRelu'
    ? polyReluMlp(x, weights, options)
    : polyNormMlp(x, weights, { ...options, eps: c.eps ?? 1e-6 })

// A result in 16 bits is one rounding away from the exact one; an intermediate one that was rounded the other way, because
// it was summed in another order, adds as much again to a few.
const tolerances: Partial<Record<Dtype, number>> = {
  float64: 1e-11,
  float32: 1e-5,
  bfloat16: 2 ** -7,
  float16: 2 ** -10,
}

function check(c: Case, dtype: Dtype): void {
  const v = inputs(c, dtype)
  const want = expected(c, v, dtype)
  const small = dtype === 'float64' ? 'float64' : 'float32'
  const x = leaf(v.x, dtype)
  const [up, down] = [leaf(v.up, dtype), leaf(v.down, dtype)]
  const [weight, bias] = [leaf(v.weight, small), leaf(v.bias, small)]
  const weights = { up, down, weight, bias }
  const options = c.groups ? { offsets: offsetsOf(c.groups) } : {}
  const out = apply(c, x, weights, options)
  backward(out, tensor(v.dout.data, { shape: v.dout.shape, dtype }))
  const what = `${JSON.stringify(c)} ${dtype}`
  const near = (t: Tensor | null, values: Values, name: string) => {
    expect(t!.dtype).toBe(dtype)
    const got = numbers(t)
    const largest = values.data.reduce((m, one) => Math.max(m, Math.abs(one)), 0)
    expect(t!.shape).toEqual(values.shape)
    values.data.forEach((one, i) => {
      if (!(Math.abs(got[i]! - one) <= tolerances[dtype]! * largest))
        expect.fail(`${what} ${name}[${i}] is ${got[i]}, should be ${one} (largest ${largest})`)
    })
  }
  near(out, want.out, 'out')
  near(x.grad, want.dx, 'dx')
  near(up.grad, want.dup, 'dup')
  near(down.grad, want.ddown, 'ddown')
  const sums = [...numbers(weight.grad), ...numbers(bias.grad)]
  expect(weight.grad!.shape).toEqual(v.weight.shape)
  // The terms are rounded one by one, or not at all: errors that add up like dice.
  const rounding = dtype === 'bfloat16' ? 2 ** -8 : 2 ** -11
  const exact = [...want.dweight.data, ...want.dbias.data]
  exact.forEach((one, i) => {
    const allowed =
      dtype === 'float64' ? 1e-12 : dtype === 'float32' ? 1e-6 : 1e-5 + (8 * rounding) / Math.sqrt(c.rows * c.hidden)
    if (!(Math.abs(sums[i]! - one) <= allowed * (want.terms[i]! || 1)))
      expect.fail(`${what} coefficient ${i}: ${sums[i]}, should be ${one} (terms ${want.terms[i]})`)
  })
  // Without a tape the same bits, although less is kept.
  expect(noGrad(() => apply(c, x, weights, options)).dataSync()).toEqual(out.dataSync())
}

const floats = ['float64', 'float32', 'bfloat16', 'float16'] as const

for (const which of both) {
  test(`${which}Mlp: orders 1 to 5, in every dtype`, () => {
    for (const dtype of floats)
      for (const order of [1, 2, 3, 4, 5]) check({ which, order, rows: 13, width: 16, hidden: 24 }, dtype)
  })

  test(`${which}Mlp: ragged shapes, more than one tile`, () => {
    for (const dtype of ['bfloat16', 'float32'] as const) {
      check({ which, order: 3, rows: 150, width: 40, hidden: 264 }, dtype)
      check({ which, order: 2, rows: 129, width: 8, hidden: 136 }, dtype)
      check({ which, order: 4, rows: 7, width: 33, hidden: 50 }, dtype)
      check({ which, order: 3, rows: 1, width: 1, hidden: 1 }, dtype)
    }
    check({ which, order: 3, rows: 130, width: 72, hidden: 200 }, 'float16')
  })

  test(`${which}Mlp of experts: some without rows, coefficients shared or their own`, () => {
    for (const dtype of ['bfloat16', 'float32', 'float64'] as const)
      for (const perExpert of [false, true]) {
        check({ which, order: 3, rows: 20, width: 16, hidden: 24, groups: [3, 0, 12, 5, 0], perExpert }, dtype)
        check({ which, order: 2, rows: 9, width: 8, hidden: 16, groups: [9], perExpert }, dtype)
      }
    for (const perExpert of [false, true])
      check({ which, order: 3, rows: 300, width: 24, hidden: 144, groups: [0, 1, 140, 159], perExpert }, 'bfloat16')
  })

  test(`${which}Mlp agrees with the ops it stands for`, () => {
    for (const groups of [undefined, [5, 0, 8]]) {
      const c: Case = { which, order: 3, rows: 13, width: 6, hidden: 10, ...(groups && { groups }) }
      const v = inputs(c, 'float64')
      const run = (fused: boolean) => {
        const [x, up, down] = [leaf(v.x), leaf(v.up), leaf(v.down)]
        const [weight, bias] = [leaf(v.weight), leaf(v.bias)]
        const offsets = groups && offsetsOf(groups)
        const product = (a: Tensor, w: Tensor) => (offsets ? groupedMatmul(a, w, offsets) : linear(a, w))
        const act = (h: Tensor) => (which === 'polyRelu' ? polyRelu(h, weight, bias) : polyNorm(h, weight, bias))
        const y = fused
          ? apply(c, x, { up, down, weight, bias }, offsets ? { offsets } : {})
          : product(act(product(x, up)), down)
        backward(y, tensor(v.dout.data, { shape: v.dout.shape, dtype: 'float64' }))
        return [y, ...[x, up, down, weight, bias].map((t) => t.grad!)]
      }
      const apart = run(false)
      for (const [i, t] of run(true).entries())
        expectClose(t, { data: Float64Array.from(numbers(apart[i]!)), shape: [...apart[i]!.shape] }, 1e-12)
    }
  })

  test(`${which}Mlp: leading axes, no rows, and a gradient that is added to`, () => {
    const v = inputs({ which, order: 3, rows: 12, width: 8, hidden: 16 }, 'float32')
    const c: Case = { which, order: 3, rows: 12, width: 8, hidden: 16 }
    const [up, down] = [leaf(v.up, 'float32'), leaf(v.down, 'float32')]
    const [weight, bias] = [leaf(v.weight, 'float32'), leaf(v.bias, 'float32')]
    const weights = { up, down, weight, bias }
    const flat = apply(c, leaf(v.x, 'float32'), weights, {})
    const x = leaf({ data: v.x.data, shape: [3, 4, 8] }, 'float32')
    const y = apply(c, x, weights, {})
    expect(y.shape).toEqual([3, 4, 8])
    expect(y.dataSync()).toEqual(flat.dataSync())
    const dout = (shape: number[]) => tensor(v.dout.data, { shape, dtype: 'float32' })
    backward(y, dout([3, 4, 8]))
    const once = numbers(up.grad)
    backward(flat, dout([12, 8]))
    for (const [i, g] of numbers(up.grad).entries()) expect(g).toBeCloseTo(2 * once[i]!, 4)
    const none = apply(c, leaf({ data: new Float64Array(0), shape: [0, 8] }, 'float32'), weights, {})
    expect(none.shape).toEqual([0, 8])
    weight.grad = null
    backward(none, tensor([], { shape: [0, 8], dtype: 'float32' }))
    expect(numbers(weight.grad)).toEqual([0, 0, 0])
  })

  test(`${which}Mlp: what does not fit is named`, () => {
    const v = inputs({ which, order: 3, rows: 4, width: 8, hidden: 16 }, 'float32')
    const c: Case = { which, order: 3, rows: 4, width: 8, hidden: 16 }
    const t = (values: Values, dtype: Dtype = 'float32') => tensor(values.data, { shape: values.shape, dtype })
    const all = { up: t(v.up), down: t(v.down), weight: t(v.weight), bias: t(v.bias) }
    const run = (x: Tensor, change: Partial<typeof all>, options: PolyMlpOptions = {}) =>
      apply(c, x, { ...all, ...change }, options)
    expect(() => run(t({ data: v.x.data, shape: [8, 4] }), {})).toThrow('x is [8, 4] but up is [16, 8]')
    expect(() => run(t(v.x, 'bfloat16'), {})).toThrow('up is float32 but x is bfloat16')
    expect(() => run(t(v.x), { down: t({ data: v.down.data, shape: [16, 8] }) })).toThrow('is [16, 8]')
    expect(() => run(t(v.x), { weight: t({ data: v.weight.data, shape: [1, 3] }) })).toThrow('no offsets')
    expect(() => run(t(v.x), {}, { offsets: tensor([0, 4], { dtype: 'int32' }) })).toThrow('should have 3 axes')
    expect(() => run(t(v.x), { bias: t({ data: new Float64Array(2), shape: [2] }) })).toThrow('bias is [2]')
  })
}

test('polyNormMlp: what is not kept is made again, and takes no memory meanwhile', async () => {
  for (const groups of [undefined, [40, 0, 110]])
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const v = inputs(
        { which: 'polyNorm', order: 3, rows: 150, width: 8, hidden: 4096, ...(groups && { groups }) },
        dtype,
      )
      const offsets = groups ? offsetsOf(groups) : null
      const run = async (recompute: boolean) => {
        const [x, up, down] = [leaf(v.x, dtype), leaf(v.up, dtype), leaf(v.down, dtype)]
        const [weight, bias] = [leaf(v.weight, 'float32'), leaf(v.bias, 'float32')]
        await synchronize()
        const before = memory(getDefaultDevice()).inUse
        const out = polyNormMlp(x, { up, down, weight, bias }, { offsets, recompute })
        const held = memory(getDefaultDevice()).inUse - before
        backward(out, tensor(v.dout.data, { shape: v.dout.shape, dtype }))
        return {
          held,
          down: down.grad!,
          all: [out, ...[x, up, weight, bias].map((t) => t.grad!)].map((t) => t.dataSync()),
        }
      }
      const [kept, again] = [await run(false), await run(true)]
      expect(again.all).toEqual(kept.all)
      // Made by another kernel, which may round otherwise.
      const [of, instead] = [numbers(kept.down), numbers(again.down)]
      const largest = of.reduce((m, d) => Math.max(m, Math.abs(d)), 0)
      const allowed = (dtype === 'float32' ? 1e-6 : 2 ** -8) * largest
      expect(of.every((d, i) => Math.abs(d - instead[i]!) <= allowed)).toBe(true)
      const bytes = 150 * 4096 * (dtype === 'float32' ? 4 : 2)
      // Allocators round up.
      expect(kept.held - again.held).toBeGreaterThanOrEqual(bytes)
      expect(kept.held - again.held).toBeLessThan(1.13 * bytes)
    }
})

test('polyNormMlp: rows of outliers, of tiny values, of a NaN, and without eps', () => {
  for (const dtype of ['float32', 'bfloat16'] as const)
    for (const [scale, eps] of [
      [1e9, 1e-6],
      [1e-7, 1e-6],
      [1e-9, 1e-30],
    ] as const)
      check({ which: 'polyNorm', order: 3, rows: 9, width: 16, hidden: 136, scale, eps }, dtype)
  const v = inputs({ which: 'polyNorm', order: 3, rows: 4, width: 8, hidden: 16 }, 'bfloat16')
  v.x.data[9] = Number.NaN
  const out = polyNormMlp(leaf(v.x, 'bfloat16'), {
    up: leaf(v.up, 'bfloat16'),
    down: leaf(v.down, 'bfloat16'),
    weight: leaf(v.weight, 'float32'),
    bias: leaf(v.bias, 'float32'),
  })
  for (const [i, y] of numbers(out).entries()) expect(Number.isNaN(y)).toBe(i >= 8 && i < 16)
})
