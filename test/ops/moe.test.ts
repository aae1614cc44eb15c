import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { native } from '../../lib/native.ts'
import { tensor } from '../../lib/ops/create.ts'
import { add, mul } from '../../lib/ops/elementwise.ts'
import { linear } from '../../lib/ops/matmul.ts'
import { combine, gatherRows, groupByExpert, groupedMatmul, route } from '../../lib/ops/moe.ts'
import { polyNorm } from '../../lib/ops/poly.ts'
import { sum } from '../../lib/ops/reduce.ts'
import { cast, reshape, stack } from '../../lib/ops/view.ts'
import type { Dtype, Tensor } from '../../lib/tensor.ts'
import { checkOp } from '../check.ts'
import { expectClose, expectSums, golden, leaf, noise, numbers, type Values } from '../golden.ts'
import * as reference from '../reference/moe.ts'
import { polyNorm as polyNormOf } from '../reference.ts'

const int32 = (values: number[], shape = [values.length]): Tensor => tensor(values, { dtype: 'int32', shape })

// The whole layer as nn composes it.
function layer(
  x: Tensor,
  gate: Tensor,
  up: Tensor,
  down: Tensor,
  act: (h: Tensor) => Tensor,
  topK: number,
  norm: boolean,
) {
  const routing = route(linear(x, gate), { topK, normTopkProb: norm })
  const { order, offsets } = groupByExpert(routing.experts, up.shape[0]!)
  const h = act(groupedMatmul(gatherRows(x, order), up, offsets))
  return { y: combine(groupedMatmul(h, down, offsets), order, routing.weights), routing, order, offsets }
}

// The layer's rows, expert by expert in float64: what polyNorm gets, and the gradient that reaches it.
function coefficientTerms(v: Record<string, Values>, topK: number, norm: boolean): { weight: number[]; bias: number } {
  const [experts, d] = v['gate.weight']!.shape as [number, number]
  const width = v['experts.0.up_proj.weight']!.shape[0]!
  const tokens = v.x!.data.length / d
  const dot = (n: number, at: (i: number) => number) =>
    Array.from({ length: n }, (_, i) => at(i)).reduce((a, b) => a + b)
  const xTimes = (w: string, n: number, row: number) => dot(d, (c) => v.x!.data[n * d + c]! * v[w]!.data[row * d + c]!)
  const logits = Float64Array.from({ length: tokens * experts }, (_, i) =>
    xTimes('gate.weight', Math.floor(i / experts), i % experts),
  )
  const { experts: chosen, weights } = reference.route({ data: logits, shape: [tokens, experts] }, topK, norm)
  const [h, dh]: [number[], number[]] = [[], []]
  chosen.forEach((list, n) => {
    list.forEach((e, k) => {
      for (let j = 0; j < width; j++) {
        h.push(xTimes(`experts.${e}.up_proj.weight`, n, j))
        const down = v[`experts.${e}.down_proj.weight`]!.data
        dh.push(weights[n]![k]! * dot(d, (c) => v.dy!.data[n * d + c]! * down[c * width + j]!))
      }
    })
  })
  const rows = (data: number[]): Values => ({ data: Float64Array.from(data), shape: [tokens * topK, width] })
  return polyNormOf(rows(h), v['act_fn.weight']!, v['act_fn.bias']!.data[0]!, rows(dh)).terms
}

describe.each(['float64', 'float32'] as const)('%s', (dtype) => {
  test.each([0, 1])('the layer gives what PyTorch gives, gradients included (norm_topk_prob %i)', (norm) => {
    const { values, settings } = golden(`moe_norm${norm}`)
    const experts = Number(settings.num_experts)
    const leaves = new Map<string, Tensor>()
    const of = (name: string): Tensor => {
      leaves.set(name, leaf(values[name]!, dtype))
      return leaves.get(name)!
    }
    const all = (name: string) => stack(Array.from({ length: experts }, (_, e) => of(`experts.${e}.${name}.weight`)))
    const x = of('x')
    const [weight, bias] = [of('act_fn.weight'), of('act_fn.bias')]
    const { y, routing } = layer(
      reshape(x, [26, 24]),
      of('gate.weight'),
      all('up_proj'),
      all('down_proj'),
      (h) => polyNorm(h, weight, bias),
      Number(settings.num_experts_per_tok),
      norm === 1,
    )
    expectClose(reshape(y, [2, 13, 24]), values.y!, undefined, 'y')
    expectClose(reshape(routing.aux, [1]), values.aux!, undefined, 'aux')
    expectClose(reshape(routing.z, [1]), values.z!, undefined, 'z')
    const weighted = sum(mul(reshape(y, [2, 13, 24]), leaf(values.dy!, dtype)))
    backward(add(weighted, add(mul(routing.aux, 0.3), mul(routing.z, 0.7))))
    for (const [name, t] of leaves) {
      const expected = values[name === 'x' ? 'dx' : `d.${name}`]!
      if (dtype === 'float64' || !name.startsWith('act_fn')) expectClose(t.grad, expected, undefined, name)
    }
    const terms = coefficientTerms(values, Number(settings.num_experts_per_tok), norm === 1)
    expectSums(weight.grad, values['d.act_fn.weight']!, terms.weight, 'weight')
    expectSums(bias.grad, values['d.act_fn.bias']!, [terms.bias], 'bias')
  })

  test.each([
    [7, 5, 2, false],
    [300, 8, 2, true],
    [40, 3, 3, false],
    [1, 4, 1, true],
    [9, 1, 1, false],
  ])('route of %i tokens to %i experts, %i each (normalised: %s)', (n, experts, topK, normTopkProb) => {
    const logits = noise([n, experts], 1)
    const expected = reference.route(logits, topK, normTopkProb)
    const got = route(leaf(logits, dtype), { topK, normTopkProb })
    expect(numbers(got.experts)).toEqual(expected.experts.flat())
    const flat = (data: number[], shape: number[]): Values => ({ data: Float64Array.from(data), shape })
    expectClose(got.weights, flat(expected.weights.flat(), [n, topK]), undefined, 'weights')
    expectClose(got.shares, flat(expected.shares, [experts]), undefined, 'shares')
    expectClose(got.aux, flat([expected.aux], []), undefined, 'aux')
    expectClose(got.z, flat([expected.z], []), undefined, 'z')
  })

  test('an expert without rows gives nothing and gets a gradient of zero', () => {
    const offsets = [0, 0, 3, 400, 400, 402]
    const x = noise([402, 9], 1)
    const w = noise([5, 7, 9], 2)
    const dy = noise([402, 7], 3)
    const { y, dx, dw } = reference.groupedMatmul(x, w, offsets, dy)
    const xs = leaf(x, dtype)
    const ws = leaf(w, dtype)
    const got = groupedMatmul(xs, ws, int32(offsets))
    expectClose(got, y, undefined, 'y')
    backward(got, leaf(dy, dtype))
    expectClose(xs.grad, dx, undefined, 'dx')
    expectClose(ws.grad, dw, undefined, 'dw')
    const [first] = [numbers(ws.grad).slice(0, 63)]
    expect(first!.every((v) => v === 0)).toBe(true)
  })

  test('the gradient of a tall weight, computed in two halves', () => {
    const offsets = [0, 10, 31]
    const x = noise([31, 6], 1)
    const w = noise([2, 385, 6], 2)
    const dy = noise([31, 385], 3)
    const ws = leaf(w, dtype)
    backward(groupedMatmul(leaf(x, dtype), ws, int32(offsets)), leaf(dy, dtype))
    expectClose(ws.grad, reference.groupedMatmul(x, w, offsets, dy).dw)
  })
})

test.each(['bfloat16', 'float16', 'float32'] as const)('gradients of %s experts add up unrounded', (dtype) => {
  const offsets = [0, 40, 40, 57]
  const x = noise([57, 24], 1)
  const dy = noise([57, 16], 2)
  for (const v of [x, dy]) v.data = v.data.map((one) => Math.round(one * 8) / 8)
  const w = leaf(noise([3, 16, 24], 3), dtype)
  w.grad = tensor(new Float32Array(3 * 16 * 24).fill(1000), { shape: [3, 16, 24] })
  const { grad } = w
  for (let i = 0; i < 3; i++) backward(groupedMatmul(leaf(x, dtype), w, int32(offsets)), leaf(dy, dtype))
  expect(w.grad).toBe(grad)
  const { dw } = reference.groupedMatmul(x, { data: new Float64Array(3 * 16 * 24), shape: [3, 16, 24] }, offsets, dy)
  expect(numbers(grad)).toEqual(Array.from(dw!.data, (v) => 1000 + 3 * v))
})

// Sizes that are packed and computed in blocks of rows, with ragged edges and an expert without rows.
test('large grouped products', () => {
  const offsets = [0, 250, 250, 251, 500, 730]
  const x = noise([730, 101], 1)
  const w = noise([5, 115, 101], 2)
  const dy = noise([730, 115], 3)
  const { y, dx, dw } = reference.groupedMatmul(x, w, offsets, dy)
  for (const dtype of ['float64', 'float32'] as const) {
    const [xs, ws] = [leaf(x, dtype), leaf(w, dtype)]
    const got = groupedMatmul(xs, ws, int32(offsets))
    expectClose(got, y, undefined, 'y')
    backward(got, leaf(dy, dtype))
    expectClose(xs.grad, dx, undefined, 'dx')
    expectClose(ws.grad, dw, undefined, 'dw')
  }
})

// Gradients by central differences of the plain definition, so that nothing is shared with the operation.
test.each([false, true])('gradient of route through weights, aux and z (normalised: %s)', (normTopkProb) => {
  const logits = noise([5, 6], 3)
  const dw = noise([5, 2], 4)
  const loss = (l: Values) => {
    const r = reference.route(l, 2, normTopkProb)
    const weighted = r.weights.flat().reduce((s, w, i) => s + w * dw.data[i]!, 0)
    // The share carries no gradient: it is that of the unmoved logits.
    const aux = shares.reduce((s, share, e) => s + (6 * share * r.p.reduce((t, p) => t + p[e]!, 0)) / 5, 0)
    return weighted + 0.3 * aux + 0.7 * r.z
  }
  const { shares } = reference.route(logits, 2, normTopkProb)
  const x = leaf(logits)
  const { weights, aux, z } = route(x, { topK: 2, normTopkProb })
  backward(add(sum(mul(weights, leaf(dw))), add(mul(aux, 0.3), mul(z, 0.7))))
  const expected = logits.data.map((_, i) => {
    const moved = (h: number) => loss({ ...logits, data: logits.data.map((l, j) => (i === j ? l + h : l)) })
    return (moved(1e-5) - moved(-1e-5)) / 2e-5
  })
  expectClose(x.grad, { data: expected, shape: [5, 6] }, 1e-8)
})

test('gradients arrive from one result alone', () => {
  for (const pick of ['aux', 'z'] as const) {
    const x = leaf(noise([4, 3], 1))
    backward(route(x, { topK: 1 })[pick])
    expect(numbers(x.grad).some((v) => v !== 0)).toBe(true)
  }
})

test('equal logits choose the lower index', () => {
  const { experts } = route(tensor([[1, 2, 2, 0, 2]]), { topK: 4 })
  expect(numbers(experts)).toEqual([1, 2, 4, 0])
})

test('groupByExpert sorts stably', () => {
  const { order, offsets } = groupByExpert(int32([2, 0, 2, 1, 0, 2, 4, 0], [4, 2]), 5)
  expect(numbers(order)).toEqual([1, 4, 7, 3, 0, 2, 5, 6])
  expect(numbers(offsets)).toEqual([0, 3, 4, 7, 7, 8])
})

test.each(['float64', 'float32', 'bfloat16'] as const)('gatherRows and combine in %s, and their gradients', (dtype) => {
  // Small whole numbers, so that every type is exact.
  const whole = (shape: number[], seed: number): Values => {
    const { data } = noise(shape, seed)
    return { shape, data: data.map((v) => Math.round(v * 3)) }
  }
  const [x, y, weights] = [whole([4, 3], 1), whole([8, 3], 2), whole([4, 2], 3)]
  const [dg, dc] = [whole([8, 3], 4), whole([4, 3], 5)]
  const { order } = groupByExpert(int32([2, 0, 2, 1, 0, 2, 1, 0], [4, 2]), 3)
  const o = numbers(order)
  const at = (v: Values, row: number, c: number) => v.data[row * v.shape[1]! + c]!
  const zeros = (...shape: number[]): Values => ({ shape, data: new Float64Array(shape.reduce((a, b) => a * b)) })
  const [gathered, dx, combined, dy, dweights] = [zeros(8, 3), zeros(4, 3), zeros(4, 3), zeros(8, 3), zeros(4, 2)]
  o.forEach((assignment, i) => {
    const n = assignment >> 1
    for (let c = 0; c < 3; c++) {
      gathered.data[i * 3 + c] = at(x, n, c)
      dx.data[n * 3 + c]! += at(dg, i, c)
      combined.data[n * 3 + c]! += weights.data[assignment]! * at(y, i, c)
      dy.data[i * 3 + c] = weights.data[assignment]! * at(dc, n, c)
      dweights.data[assignment]! += at(y, i, c) * at(dc, n, c)
    }
  })
  const expectSame = (t: Tensor | null, v: Values) => {
    expect(t!.shape).toEqual(v.shape)
    expect(numbers(t).map((n) => n + 0)).toEqual(Array.from(v.data, (n) => n + 0))
  }
  const xs = leaf(x, dtype)
  const gather = gatherRows(xs, order)
  expectSame(gather, gathered)
  backward(gather, leaf(dg, dtype))
  expectSame(xs.grad, dx)
  const ys = leaf(y, dtype)
  const ws = leaf(weights, dtype === 'float64' ? 'float64' : 'float32')
  const back = combine(ys, order, ws)
  expectSame(back, combined)
  backward(back, leaf(dc, dtype))
  expectSame(ys.grad, dy)
  expectSame(ws.grad, dweights)
})

test('one expert is the dense layer, values and gradients', () => {
  const names = ['x', 'up', 'down', 'weight', 'bias'] as const
  const make = () => ({
    x: leaf(noise([11, 6], 1)),
    up: leaf(noise([10, 6], 2)),
    down: leaf(noise([6, 10], 3)),
    weight: leaf(noise([3], 4)),
    bias: leaf(noise([1], 5)),
  })
  const [moe, dense] = [make(), make()]
  const dy = noise([11, 6], 6)
  const act = (p: typeof moe) => (h: Tensor) => polyNorm(h, p.weight, p.bias)
  const gate = leaf(noise([1, 6], 7))
  const { y } = layer(moe.x, gate, stack([moe.up]), stack([moe.down]), act(moe), 1, false)
  const z = linear(act(dense)(linear(dense.x, dense.up)), dense.down)
  const values = (t: Tensor): Values => ({ data: Float64Array.from(numbers(t)), shape: [...t.shape] })
  expectClose(y, values(z))
  backward(y, leaf(dy))
  backward(z, leaf(dy))
  for (const name of names) expectClose(moe[name].grad, values(dense[name].grad!), undefined, name)
  expect(numbers(gate.grad).every((v) => Math.abs(v) < 1e-14)).toBe(true)
})

test('all experts together are the weighted sum of each, and permuted tokens give permuted rows', () => {
  const x = noise([6, 4], 1)
  const [gate, up, down] = [leaf(noise([3, 4], 2)), leaf(noise([3, 5, 4], 3)), leaf(noise([3, 4, 5], 4))]
  const same = (h: Tensor) => h
  const run = (v: Values) => numbers(layer(leaf(v), gate, up, down, same, 3, false).y)
  const got = run(x)
  const { p } = reference.route({ data: Float64Array.from(numbers(linear(leaf(x), gate))), shape: [6, 3] }, 3, false)
  const expected = new Float64Array(24)
  const u = numbers(up)
  const d = numbers(down)
  for (let n = 0; n < 6; n++)
    for (let e = 0; e < 3; e++)
      for (let o = 0; o < 4; o++)
        for (let h = 0; h < 5; h++)
          for (let c = 0; c < 4; c++)
            expected[n * 4 + o]! += p[n]![e]! * d[(e * 4 + o) * 5 + h]! * u[(e * 5 + h) * 4 + c]! * x.data[n * 4 + c]!
  expectClose(tensor(got, { shape: [6, 4], dtype: 'float64' }), { data: expected, shape: [6, 4] })
  const turned = { ...x, data: x.data.map((_, i) => x.data[(5 - Math.floor(i / 4)) * 4 + (i % 4)]!) }
  const back = run(turned)
  for (let n = 0; n < 6; n++) expect(back.slice((5 - n) * 4, (6 - n) * 4)).toEqual(got.slice(n * 4, (n + 1) * 4))
})

test.each(['bfloat16', 'float16'] as const)('grouped products in %s are summed in float32', (dtype) => {
  const whole = (shape: number[], seed: number): Values => {
    const { data } = noise(shape, seed)
    return { shape, data: data.map((v) => Math.round(v * 3)) }
  }
  const offsets = [0, 2, 9, 20]
  const [x, w] = [whole([20, 600], 1), whole([3, 8, 600], 2)]
  const { y } = reference.groupedMatmul(x, w, offsets)
  const got = groupedMatmul(leaf(x, dtype), leaf(w, dtype), int32(offsets))
  expect(numbers(got)).toEqual(numbers(cast(leaf(y), dtype as Dtype)))
})

test('the number of threads changes no bit', () => {
  const parameters = [noise([700, 48], 1), noise([6, 48], 2), noise([6, 64, 48], 3), noise([6, 48, 64], 4)]
  const before = native.threads()
  try {
    const runs = [1, 2, 3].map((n) => {
      native.setThreads(n)
      const [x, gate, up, down] = parameters.map((v) => leaf(v, 'float32'))
      const { y, routing } = layer(x!, gate!, up!, down!, (h) => h, 2, false)
      backward(add(sum(mul(y, y)), add(routing.aux, routing.z)))
      return [y, routing.aux, routing.z, ...[x, gate, up, down].map((t) => t!.grad!)]
        .map((t) => Buffer.from((t.dataSync() as Float32Array).buffer).toString('base64'))
        .join()
    })
    expect(new Set(runs).size).toBe(1)
  } finally {
    native.setThreads(before)
  }
})

test('no tokens at all', () => {
  const x = leaf({ data: new Float64Array(0), shape: [0, 4] })
  const [gate, up, down] = [leaf(noise([3, 4], 2)), leaf(noise([3, 5, 4], 3)), leaf(noise([3, 4, 5], 4))]
  const { y, routing } = layer(x, gate, up, down, (h) => h, 2, false)
  expect(y.shape).toEqual([0, 4])
  expect(numbers(routing.aux)).toEqual([0])
  backward(sum(y))
  expect(x.grad!.shape).toEqual([0, 4])
  expect(numbers(up.grad).every((v) => v === 0)).toBe(true)
})

test('errors name the operation, what is and what should be', () => {
  const logits = tensor(new Float32Array(6), { shape: [2, 3] })
  expect(() => route(logits, { topK: 4 })).toThrow('route: topK is 4, but should be from 1 to the 3 experts')
  expect(() => groupByExpert(logits, 3)).toThrow('groupByExpert: experts is float32, but should be int32')
  const w = tensor(new Float32Array(24), { shape: [2, 4, 3] })
  expect(() => groupedMatmul(logits, w, int32([0, 2]))).toThrow('groupedMatmul: offsets is [2], but should be [3]')
  expect(() => groupedMatmul(tensor([[1, 2]]), w, int32([0, 1, 1]))).toThrow('w is [2, 4, 3], but should be')
  expect(() => combine(logits, int32([0, 1]), tensor([[1], [1], [1]]))).toThrow(/combine: order is \[2\]/)
})

test('bad indices on the device are thrown at the next wait, and the process goes on', async () => {
  const x = tensor(new Float32Array(6), { shape: [2, 3] })
  const w = tensor(new Float32Array(24), { shape: [2, 4, 3] })
  const wait = (t: Tensor) => t.data()
  await expect(wait(groupByExpert(int32([0, 3, 1]), 3).order)).rejects.toThrow(
    'groupByExpert: experts[1] is 3, but there are 3 experts',
  )
  await expect(wait(groupedMatmul(x, w, int32([0, 3, 2])))).rejects.toThrow(/groupedMatmul: offsets should rise/)
  await expect(wait(gatherRows(x, int32([0, -1])))).rejects.toThrow('gatherRows: order[1] is -1')
  await expect(wait(combine(x, int32([0, 0]), tensor([[1], [1]])))).rejects.toThrow('combine: order[1] is 0')
  expect(await wait(gatherRows(x, int32([1, 0])))).toHaveLength(6)
})

checkOp({
  name: 'groupedMatmul, gradients by differences',
  op: (x, w) => groupedMatmul(x, w, int32([0, 0, 3, 7])),
  oracle: (x, w) => reference.groupedMatmul(x as Values, w as Values, [0, 0, 3, 7]).y,
  cases: [
    [
      [7, 5],
      [3, 2, 5],
    ],
    [
      [7, 1],
      [3, 1, 1],
    ],
    [
      [7, 40],
      [3, 33, 40],
    ],
  ],
})

checkOp({
  name: 'gatherRows, gradients by differences',
  op: (x) => gatherRows(x, int32([2, 0, 5, 1, 4, 3])),
  oracle: (x) => {
    const d = x!.shape[1]!
    const rows = [1, 0, 2, 0, 2, 1] // order / 2
    return {
      shape: [6, d],
      data: Float64Array.from({ length: 6 * d }, (_, i) => x!.data[rows[Math.floor(i / d)]! * d + (i % d)]!),
    }
  },
  cases: [[[3, 4]], [[3, 1]]],
})

checkOp({
  name: 'combine, gradients by differences',
  op: (y, weights) => combine(y, int32([2, 0, 5, 1, 4, 3]), weights),
  oracle: (y, weights) => {
    const d = y!.shape[1]!
    const data = new Float64Array(3 * d)
    for (const [row, assignment] of [2, 0, 5, 1, 4, 3].entries())
      for (let c = 0; c < d; c++) data[(assignment >> 1) * d + c]! += weights!.data[assignment]! * y!.data[row * d + c]!
    return { shape: [3, d], data }
  },
  cases: [
    [
      [6, 4],
      [3, 2],
    ],
    [
      [6, 1],
      [3, 2],
    ],
  ],
})

checkOp({
  name: 'route, gradients by differences',
  // Moving a logit must not change the choice, and the shares in aux carry no gradient: with all experts chosen they are
  // constant.
  op: (logits) => {
    const { weights, aux, z } = route(logits, { topK: 3 })
    return [weights, aux, z]
  },
  oracle: (logits) => {
    const r = reference.route(logits as Values, 3, false)
    return [
      { shape: [logits!.shape[0]!, 3], data: Float64Array.from(r.weights.flat()) },
      { shape: [], data: Float64Array.of(r.aux) },
      { shape: [], data: Float64Array.of(r.z) },
    ]
  },
  cases: [[[5, 3]], [[1, 3]]],
  dtypes: ['float64', 'float32'],
  nan: false,
})
