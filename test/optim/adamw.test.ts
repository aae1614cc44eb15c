import { describe, expect, test } from 'vitest'
import { backward } from '../../lib/grad.ts'
import { full, tensor } from '../../lib/ops/create.ts'
import { mul } from '../../lib/ops/elementwise.ts'
import { sum } from '../../lib/ops/reduce.ts'
import { AdamW } from '../../lib/optim/adamw.ts'
import { type Dtype, scope, type Tensor } from '../../lib/tensor.ts'
import { anyThreads, expectClose, golden, leaf, noise, numbers } from '../golden.ts'
import { AdamW as Reference } from '../reference.ts'

// Sends `g` to p's gradient through the tape.
const arrive = (p: Tensor, g: Float64Array, dtype: Dtype = p.dtype) =>
  backward(sum(mul(p, tensor(g, { shape: p.shape, dtype }))))

const settings = { lr: 0.02, betas: [0.8, 0.97], eps: 1e-7, weightDecay: 0.3 } as const

describe('AdamW', () => {
  for (const dtype of ['float64', 'float32'] as const)
    test(`agrees with PyTorch over five steps: ${dtype}`, () => {
      const { values, settings } = golden('adamw')
      const p = leaf(values.p0!, dtype)
      const optimizer = new AdamW([p], {
        lr: Number(settings.lr),
        betas: [Number(settings.beta1), Number(settings.beta2)],
        eps: Number(settings.eps),
        weightDecay: Number(settings.weight_decay),
      })
      for (let step = 1; step <= 5; step++) {
        optimizer.zeroGrad()
        arrive(p, values[`g${step}`]!.data)
        optimizer.step()
        expectClose(p, values[`p${step}`]!)
      }
    })

  test('groups with settings of their own, many sizes, several dtypes, a rate that changes', () => {
    const sizes = [[1], [3, 5], [70, 1000], [0], [17]]
    const initial = sizes.map((shape, i) => noise(shape, i + 1))
    const params = initial.map((v, i) => leaf(v, i === 1 ? 'float32' : 'float64'))
    const references = initial.map((v, i) => new Reference(v.data, i < 2 ? settings : { ...settings, weightDecay: 0 }))
    const optimizer = new AdamW(
      [{ params: { a: params[0]!, b: params[1]! } }, { params: params.slice(2), weightDecay: 0 }],
      settings,
    )
    for (let step = 0; step < 3; step++) {
      optimizer.zeroGrad()
      const lr = 0.02 / (step + 1)
      params.forEach((p, i) => {
        const g = noise(sizes[i]!, 100 * step + i).data
        arrive(p, g)
        references[i]!.step(g, lr)
      })
      optimizer.step({ lr })
      params.forEach((p, i) => {
        expectClose(p, { data: references[i]!.p, shape: sizes[i]! })
      })
    }
    expect(optimizer.updates.itemSync()).toBe(3)
  })

  test('a group with its own rate keeps its proportion', () => {
    const [a, b] = [leaf(noise([4], 1)), leaf(noise([4], 2))]
    const [ra, rb] = [new Reference(noise([4], 1).data, settings), new Reference(noise([4], 2).data, settings)]
    const optimizer = new AdamW([{ params: [a] }, { params: [b], lr: 0.04 }], settings)
    const g = noise([4], 3).data
    for (const lr of [0.02, 0.01]) {
      optimizer.zeroGrad()
      arrive(a, g)
      arrive(b, g)
      optimizer.step({ lr })
      ra.step(g, lr)
      rb.step(g, 2 * lr)
    }
    expectClose(a, { data: ra.p, shape: [4] })
    expectClose(b, { data: rb.p, shape: [4] })
  })

  test('clipping by the global norm over all groups and dtypes', async () => {
    const [ga, gb] = [noise([300], 3).data, noise([7, 9], 4).data]
    const norm = Math.hypot(...ga, ...gb)
    for (const maxNorm of [norm / 3, norm * 2, 0]) {
      const [pa, pb] = [leaf(noise([300], 1)), leaf(noise([7, 9], 2), 'float32')]
      const optimizer = new AdamW([pa, pb], { ...settings, eps: 0.1 })
      arrive(pa, ga)
      arrive(pb, gb)
      expect(await optimizer.clip(maxNorm).item()).toBeCloseTo(norm, 6)
      optimizer.step()
      const share = maxNorm ? Math.min(1, maxNorm / (norm + 1e-6)) : 1
      const reference = new Reference(noise([300], 1).data, { ...settings, eps: 0.1 })
      reference.step(
        ga.map((g) => g * share),
        settings.lr,
      )
      // gb went through float32
      expectClose(pa, { data: reference.p, shape: [300] }, 1e-7)
      expect(optimizer.gradNorm.itemSync()).toBeCloseTo(norm, 6)
    }
  })

  test('a gradient or a loss that is not finite changes nothing, and the next step goes on as if it had not been', () => {
    const start = noise([50], 1)
    const p = leaf(start, 'float32')
    const optimizer = new AdamW([p], settings)
    const g = noise([50], 2).data
    const step = (g: Float64Array, loss?: number) => {
      optimizer.zeroGrad()
      arrive(p, g)
      optimizer.clip(1)
      optimizer.step(loss === undefined ? {} : { loss: full([], loss) })
    }
    step(g, 1.5)
    const [before, state] = [numbers(p), [...optimizer.state().values()].map(numbers)]
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      step(g.map((v, i) => (i === 33 ? value : v)))
      expect(optimizer.finite.itemSync()).toBe(0)
      step(g, value)
      expect(optimizer.finite.itemSync()).toBe(0)
    }
    expect(numbers(p)).toEqual(before)
    expect([...optimizer.state().values()].map(numbers)).toEqual(state)
    expect(optimizer.updates.itemSync()).toBe(1)
    step(g)
    expect(optimizer.finite.itemSync()).toBe(1)
    const reference = new Reference(start.data, settings)
    const norm = Math.hypot(...g)
    for (let i = 0; i < 2; i++)
      reference.step(
        g.map((v) => v * Math.min(1, 1 / (norm + 1e-6))),
        settings.lr,
      )
    expectClose(p, { data: reference.p, shape: [50] })
  })

  test('a parameter without a gradient decays, and its averages fade', () => {
    const [p, q] = [leaf(noise([6], 1)), leaf(noise([6], 2))]
    const optimizer = new AdamW({ p, q }, settings)
    arrive(p, noise([6], 3).data)
    optimizer.step()
    expectClose(q, { data: noise([6], 2).data.map((v) => v * (1 - 0.02 * 0.3)), shape: [6] })
  })

  test('16-bit parameters: float32 masters and gradients, so that small steps add up', () => {
    const p = tensor(new Array(40).fill(1), { dtype: 'bfloat16', requiresGrad: true })
    const optimizer = new AdamW({ p }, { lr: 1e-4, weightDecay: 0 })
    const reference = new Reference(new Float64Array(40).fill(1), {
      weightDecay: 0,
      betas: [0.9, 0.999],
      eps: 1e-8,
    })
    for (let step = 0; step < 100; step++) {
      optimizer.zeroGrad()
      arrive(p, new Float64Array(40).fill(0.5))
      optimizer.step()
      reference.step(new Float64Array(40).fill(0.5), 1e-4)
    }
    expect(p.grad!.dtype).toBe('float32')
    const master = optimizer.state().get('p.master')!
    expectClose(master, { data: reference.p, shape: [40] }, 2e-5)
    // Each step of 1e-4 is less than a bfloat16 near 1 can hold; a hundred of them are not.
    expect(numbers(p)).toEqual(numbers(tensor(numbers(master), { dtype: 'bfloat16' })))
    expect(numbers(p)[0]).toBeLessThan(0.992)
  })

  test('state: names, and a run that goes on from it gives the same bits', () => {
    const make = (dtype: Dtype) => {
      const params = new Map([
        ['w', tensor(noise([5, 7], 1).data, { shape: [5, 7], dtype, requiresGrad: true })],
        ['b', tensor(noise([3], 2).data, { dtype, requiresGrad: true })],
      ])
      return { params, optimizer: new AdamW(params, settings) }
    }
    const run = ({ params, optimizer }: ReturnType<typeof make>, from: number, to: number) => {
      for (let step = from; step < to; step++) {
        optimizer.zeroGrad()
        for (const p of params.values()) arrive(p, noise([...p.shape], step).data)
        optimizer.clip(0.5)
        optimizer.step({ lr: 0.1 / (step + 1) })
      }
    }
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const [whole, first, second] = [make(dtype), make(dtype), make(dtype)]
      run(whole, 0, 6)
      run(first, 0, 3)
      const names = ['w.exp_avg', 'b.exp_avg', 'w.exp_avg_sq', 'b.exp_avg_sq']
      if (dtype === 'bfloat16') names.push('w.master', 'b.master')
      expect([...first.optimizer.state().keys()].sort()).toEqual(names.sort())
      const copies = [...first.optimizer.state()].map(([name, t]) => [name, tensor(numbers(t), { shape: t.shape })])
      for (const [name, p] of second.params)
        if (dtype === 'float32') p.exchange(tensor(numbers(first.params.get(name)!), { shape: p.shape, dtype }))
      const resumed = dtype === 'float32' ? { ...second, optimizer: new AdamW(second.params, settings) } : second
      resumed.optimizer.loadState(Object.fromEntries(copies), 3)
      run(resumed, 3, 6)
      for (const [name, p] of whole.params) expect(numbers(resumed.params.get(name)!)).toEqual(numbers(p))
      for (const [name, t] of whole.optimizer.state())
        expect(numbers(resumed.optimizer.state().get(name)!), name).toEqual(numbers(t))
    }
  })

  test('what does not fit is named, and nothing is taken over', () => {
    const p = leaf(noise([2], 1))
    const optimizer = new AdamW({ p }, settings)
    const state = { 'p.exp_avg': tensor([1, 2, 3]), 'q.exp_avg': tensor([1]) }
    expect(() => optimizer.loadState(state, 1)).toThrow(
      'AdamW: p.exp_avg is [3] but should be [2]; missing p.exp_avg_sq; unexpected q.exp_avg',
    )
    expect(optimizer.updates.itemSync()).toBe(0)
    expect(() => new AdamW([])).toThrow('AdamW: there are no parameters')
    expect(() => new AdamW([p, p])).toThrow('AdamW: param.1 is given twice')
    expect(() => new AdamW([{ params: { p } }, { params: { p: leaf(noise([2], 1)) } }])).toThrow(
      'two parameters are called p',
    )
    expect(() => new AdamW([tensor([1])])).toThrow('param.0 is not a leaf that requires a gradient')
    expect(() => new AdamW([leaf(noise([2], 1))], { lr: -1 })).toThrow('AdamW: lr is -1, but should be 0 or above')
    expect(() => new AdamW([leaf(noise([2], 1))], { betas: [0.9, 1] })).toThrow('betas are 0.9, 1')
    expect(() => optimizer.clip(Number.NaN)).toThrow('maxNorm is NaN')
  })

  test('the same bits with any number of threads', () => {
    anyThreads(() => {
      const p = leaf(noise([200_000], 1), 'float32')
      const optimizer = new AdamW([p], settings)
      arrive(p, noise([200_000], 2).data)
      optimizer.clip(0.5)
      optimizer.step()
      return [p, optimizer.gradNorm].map(numbers)
    })
  })

  test('lives through scopes', () => {
    const p = leaf(noise([8], 1), 'float32')
    const optimizer = scope(() => {
      const made = new AdamW([p], settings)
      arrive(p, noise([8], 2).data)
      made.clip(1)
      made.step()
      return { step: () => made.step(), made: [made] }
    })
    scope(() => arrive(p, noise([8], 3).data))
    scope(() => optimizer.step())
    expect(numbers(p).every(Number.isFinite)).toBe(true)
    expect(optimizer.made[0]!.updates.itemSync()).toBe(2)
  })
})
