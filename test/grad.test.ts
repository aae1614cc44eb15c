import { describe, expect, test } from 'vitest'
import {
  backward,
  checkpoint,
  customOp,
  full,
  grad,
  gradcheck,
  memory,
  noGrad,
  ops,
  rand,
  randn,
  scope,
  seed,
  type Tensor,
  tensor,
  valueAndGrad,
} from '../lib/index.ts'
import { numbers } from './check.ts'

const leaf = (values: number[], shape?: number[]): Tensor =>
  tensor(values, { shape, dtype: 'float64', requiresGrad: true })
const list = (t: Tensor | null): number[] => [...numbers(t!)]

describe('the walk', () => {
  test('a tensor used twice by one operation gets both gradients', () => {
    const x = leaf([3])
    x.mul(x).backward()
    expect(list(x.grad)).toEqual([6])
  })

  test('paths that meet again are added up, however they are nested', () => {
    const x = leaf([2])
    const a = x.mul(3)
    const b = a.add(x)
    const c = a.mul(b).add(b) // 3x * 4x + 4x
    c.backward()
    expect(list(x.grad)).toEqual([24 * 2 + 4])
  })

  test('a deep chain needs no stack', () => {
    const x = leaf([1])
    let y: Tensor = x
    for (let i = 0; i < 20_000; i++) y = y.add(x)
    y.backward()
    expect(list(x.grad)).toEqual([20_001])
  })

  test('a gradient that is there is added to in place, by every operation', () => {
    const [x, w, u] = [leaf([1, 2], [1, 2]), leaf([3, 4, 5, 6], [2, 2]), leaf([7, 8])]
    const run = () =>
      ops
        .linear(x, w)
        .mul(u)
        .backward(tensor([[1, 10]], { dtype: 'float64' }))
    run()
    const [first, there] = [[x, w, u].map((t) => list(t.grad)), [x, w, u].map((t) => t.grad)]
    const before = memory().tensors
    run()
    expect(memory().tensors).toBeLessThanOrEqual(before + 4) // the graph's own, until they are swept
    expect([x, w, u].map((t) => list(t.grad))).toEqual(first.map((g) => g.map((v) => 2 * v)))
    for (const [i, t] of [x, w, u].entries()) expect(t.grad).toBe(there[i])
    // a gradient in memory with gaps
    w.grad = tensor([0, 0, 0, 0], { dtype: 'float64', shape: [2, 2] }).transpose()
    run()
    expect(list(w.grad)).toEqual(first[1])
    // grad() leaves it alone, also where an operation could add to it
    const y = ops.linear(x, w).mul(u)
    expect(list(grad(y, [w], tensor([[1, 10]], { dtype: 'float64' }))[0]!)).toEqual(first[1])
    expect(list(w.grad)).toEqual(first[1])
  })

  test('the gradient that arrives may be one that is added to', () => {
    const x = leaf([2, 3])
    x.grad = tensor([1, 1], { dtype: 'float64' })
    const y = x.mul(x).add(x.mul(5)) // 2x + 5
    y.backward(x.grad)
    expect(list(x.grad)).toEqual([1 + 9, 1 + 11])
  })

  test('gradients are added up over calls, each tensor with memory of its own', () => {
    const [a, b] = [leaf([1, 2]), leaf([3, 4])]
    const dy = tensor([1, 10], { dtype: 'float64' })
    a.add(b).backward(dy)
    expect(list(a.grad)).toEqual([1, 10])
    a.mul(1).backward(dy)
    expect(list(a.grad)).toEqual([2, 20])
    expect(list(b.grad)).toEqual([1, 10])
    expect(list(dy)).toEqual([1, 10])
    // the gradient of a sum is one number seen many times
    const c = leaf([1, 2, 3])
    c.sum().backward()
    c.sum().backward()
    expect(list(c.grad)).toEqual([2, 2, 2])
  })

  test('a leaf whose gradient is the one that was given', () => {
    const x = leaf([1, 2])
    const dy = tensor([5, 6], { dtype: 'float64' })
    x.backward(dy)
    x.backward(dy)
    expect([list(x.grad), list(dy)]).toEqual([
      [10, 12],
      [5, 6],
    ])
  })

  test('through views of one tensor', () => {
    const x = leaf([1, 2, 3, 4, 5, 6], [2, 3])
    const y = x.transpose().slice(0, 1).mul(x.slice(1, 1).transpose())
    y.sum().backward()
    expect(list(x.grad)).toEqual([0, 4, 6, 0, 10, 12])
  })

  test('several outputs of which some are not used', () => {
    const x = leaf([1, 2, 3, 4])
    const [a, , c] = x.split([1, 1, 2])
    a!.mul(10).add(c!).sum().backward()
    expect(list(x.grad)).toEqual([20, 0, 1, 1])
  })

  test('a graph is walked once, or as often as it is retained', () => {
    const x = leaf([2])
    const y = x.mul(x)
    y.backward(undefined, { retainGraph: true })
    y.backward()
    expect(list(x.grad)).toEqual([8])
    expect(() => y.backward()).toThrow('backward: the graph of mul has been freed by an earlier backward()')
    const h = x.exp()
    h.add(1).backward()
    expect(() => h.mul(2).backward()).toThrow('the graph of exp has been freed')
  })

  test('what cannot be walked says why', () => {
    expect(() => tensor([1]).backward()).toThrow('no gradient flows to this tensor')
    expect(() => leaf([1, 2]).mul(2).backward()).toThrow('the tensor has the shape [2]; without a given gradient')
    expect(() =>
      leaf([1, 2])
        .mul(2)
        .backward(full([3], 1)),
    ).toThrow('the gradient is [3] but the tensor is [2]')
    expect(() => tensor([1], { dtype: 'int32', requiresGrad: true })).toThrow('cannot require a gradient')
  })

  test('gradients arrive in the dtype of their tensor', () => {
    const w = tensor([1.5, 2], { dtype: 'bfloat16', requiresGrad: true })
    const x = tensor([1, 3], { requiresGrad: true })
    w.mul(x).sum().backward()
    expect([w.grad!.dtype, x.grad!.dtype]).toEqual(['bfloat16', 'float32'])
    expect(list(w.grad)).toEqual([1, 3])
  })
})

describe('grad', () => {
  test('of inputs and of what lies between, grad fields untouched', () => {
    const x = leaf([2])
    const h = x.mul(3)
    const y = h.mul(h)
    const unused = leaf([1])
    const [dh, dx, du] = grad(y, [h, x, unused])
    expect([list(dh!), list(dx!), du]).toEqual([[12], [36], null])
    expect(x.grad).toBe(null)
  })

  test('goes no further than asked', () => {
    const x = leaf([2])
    let walked = 0
    const spy = customOp({
      forward: (t: Tensor) => t.mul(1),
      backward: (dy) => {
        walked++
        return [dy]
      },
    })
    const h = spy(x)
    expect(list(grad(h.mul(5), [h])[0]!)).toEqual([5])
    expect(walked).toBe(0)
  })

  test('valueAndGrad leaves its arguments alone, inside noGrad too', () => {
    const x = tensor([1, 2], { dtype: 'float64' })
    const f = valueAndGrad((a: Tensor, b: Tensor) => a.mul(a).add(b).sum())
    const { value, grads } = noGrad(() => f(x, x))
    expect([value.itemSync(), list(grads[0]!), list(grads[1]!)]).toEqual([8, [2, 4], [1, 1]])
    expect([x.tracked, x.grad, value.tracked]).toEqual([false, null, false])
  })
})

describe('customOp', () => {
  const square = customOp({
    name: 'square',
    forward: (x: Tensor) => ({ y: x.mul(x), saved: [x.mul(2)] as const }),
    backward: (dy, { saved }) => [ops.mul(dy, saved[0])],
  })

  test('has the gradient that it gives', () => {
    const x = leaf([1, 2, 3])
    square(x).sum().backward()
    expect(list(x.grad)).toEqual([2, 4, 6])
    gradcheck(square, [x])
    expect(noGrad(() => square(x)).tracked).toBe(false)
  })

  test('what it saved outlives the scope it was made in', () => {
    const x = leaf([3])
    const y = scope(() => square(x.mul(1)).add(1))
    y.backward()
    expect(list(x.grad)).toEqual([6])
  })

  test('an input that is handed through keeps its own history', () => {
    const x = leaf([3])
    const through = customOp({ forward: (t: Tensor) => t, backward: (dy) => [dy.mul(10)] })
    const y = through(x)
    expect(x.tracked && x.node === null).toBe(true)
    y.backward()
    expect(list(x.grad)).toEqual([10])
  })

  test('a wrong gradient is named', () => {
    const x = leaf([1, 2])
    const short = customOp({ name: 'short', forward: (t: Tensor) => t.mul(1), backward: () => [] })
    expect(() => short(x).sum().backward()).toThrow('short returned 0 gradients for 1 inputs')
    const bent = customOp({ name: 'bent', forward: (t: Tensor) => t.mul(1), backward: () => [full([3], 1)] })
    expect(() => bent(x).sum().backward()).toThrow('bent returned a gradient of shape [3] for input 0, which is [2]')
  })
})

describe('checkpoint', () => {
  const w = leaf([0.5, -1, 2, 0.1], [2, 2])
  const block = (x: Tensor): Tensor => ops.dropout(x.mul(w).tanh(), { p: 0.5 }).add(x).mul(w)

  test('values, gradients of arguments and of captured tensors, and random numbers are those without it', () => {
    const run = (through: (f: (x: Tensor) => Tensor, x: Tensor) => Tensor): number[][] => {
      seed(5)
      w.grad = null
      const x = leaf([1, 2, 3, 4], [2, 2])
      const y = through(block, through(block, x))
      const noise = rand([2])
      y.sum().backward()
      return [list(y), list(x.grad), list(w.grad), list(noise), list(rand([2]))]
    }
    expect(run(checkpoint)).toEqual(run((f, x) => f(x)))
    expect(run((f, x) => checkpoint((t: Tensor) => checkpoint(f, t), x))).toEqual(run((f, x) => f(x)))
  })

  test('reaches what was computed outside, and nothing else', () => {
    const x = leaf([2])
    const outside = x.mul(3)
    const y = checkpoint((t: Tensor) => t.mul(outside).mul(outside), leaf([1]))
    y.backward()
    expect(list(x.grad)).toEqual([2 * 9 * 2])
    expect(checkpoint((t: Tensor) => t.mul(2), tensor([1])).tracked).toBe(false)
    const captured = leaf([5])
    checkpoint(() => captured.mul(captured)).backward()
    expect(list(captured.grad)).toEqual([10])
  })

  test('several results, and what is not a tensor among arguments and results', () => {
    const x = leaf([2])
    const { y, aux, name } = checkpoint((t: Tensor, k: number) => ({ y: t.mul(k), aux: t.mul(t), name: 'both' }), x, 7)
    expect(name).toBe('both')
    y.add(aux).backward()
    expect(list(x.grad)).toEqual([7 + 4])
    const z = leaf([2])
    const [, second] = checkpoint((t: Tensor) => [t.mul(100), t.exp()] as const, z)
    second.backward()
    expect(list(z.grad)[0]).toBeCloseTo(Math.exp(2), 12)
    expect(() => checkpoint(async (t: Tensor) => t, x)).toThrow('should not be async')
  })

  test('keeps nothing but its result, in scopes and out of them', () => {
    const x = leaf([1, 2, 3])
    const deep = (t: Tensor): Tensor => {
      let y = t
      for (let i = 0; i < 50; i++) y = y.mul(1.01).tanh()
      return y
    }
    const before = memory().tensors
    scope(() => {
      const y = checkpoint(deep, x)
      expect(memory().tensors).toBe(before + 1)
      y.sum().backward()
    })
    expect(memory().tensors).toBe(before + 1) // x.grad
    expect(list(x.grad)).toEqual(list(grad(deep(x).sum(), [x])[0]!))
  })

  test('passes gradcheck', () => {
    gradcheck((x) => checkpoint((t: Tensor) => t.exp().mul(w), x), [tensor([0.1, 0.2, 0.3, 0.4], { shape: [2, 2] })])
  })
})

describe('gradcheck', () => {
  test('finds a gradient that is wrong, and says where', () => {
    const wrong = customOp({
      forward: (x: Tensor) => x.mul(x),
      backward: (dy, { inputs }) => [dy.mul(inputs[0]).mul(tensor([2, 2, 2.001], { dtype: 'float64' }))],
    })
    expect(() => gradcheck((a, b) => wrong(a.mul(b) as Tensor), [tensor([1, 1, 1]), tensor([1, 2, 3])])).toThrow(
      /gradcheck: input 0 \[3\], element 2: the gradient is [\d.]+, but the slope is [\d.]+/,
    )
    const missing = customOp({ forward: (x: Tensor) => x.mul(x), backward: () => [null] })
    expect(() => gradcheck(missing, [tensor([1])])).toThrow('the gradient is 0, but the slope is 2')
    expect(() => gradcheck((x) => x.sqrt(), [tensor([-1])])).toThrow('NaN')
    expect(() => gradcheck((x) => x.cast('float32'), [tensor([1])])).toThrow('output 0 is float32')
  })

  test('accepts what is right: several inputs and results, integers, empty ones', () => {
    expect(
      gradcheck(
        (x, i, e) => [x.indexSelect(0, i), x.mul(2), e],
        [tensor([1, 2, 3]), tensor([2, 2], { dtype: 'int32' }), full([0, 2], 1)],
      ),
    ).toBe(true)
  })
})

describe('memory', () => {
  // A small network, with everything a step has.
  const parameters = (): Tensor[] => {
    seed(1)
    return [randn([8, 32]), full([32], 0), randn([32, 4])].map((t) => {
      t.requiresGrad = true
      return t
    })
  }
  const loss = ([w1, b1, w2]: Tensor[], x: Tensor): Tensor => {
    const h = x.matmul(w1!).add(b1!).gelu()
    return h.matmul(w2!).pow(2).mean()
  }

  test('a thousand steps in scopes leave nothing behind', () => {
    const ps = parameters()
    const x = rand([16, 8])
    let before = { tensors: 0, inUse: 0 }
    const losses: Tensor[] = []
    for (let step = 0; step < 1000; step++) {
      const l = scope(() => {
        const y = loss(ps, x)
        y.backward()
        noGrad(() => {
          for (const p of ps) {
            const next = p.sub(p.grad!.mul(0.01))
            p.exchange(next)
            p.grad!.dispose()
            p.grad = null
          }
        })
        return y.detach()
      })
      if (step === 0 || step === 999) losses.push(l)
      else l.dispose()
      if (step === 0) before = memory()
    }
    expect(memory().tensors).toBe(before.tensors + 1)
    expect(memory().inUse - before.inUse).toBeLessThanOrEqual(2048) // one number, in the smallest block of any device
    expect(losses[1]!.itemSync()).toBeLessThan(0.1 * losses[0]!.itemSync())
  })

  test('a walk frees the gradients that have been passed on', () => {
    const x = leaf(new Array(1000).fill(1))
    let y: Tensor = x
    for (let i = 0; i < 100; i++) y = y.sin()
    const before = memory().tensors
    y.sum().backward()
    expect(memory().tensors - before).toBeLessThanOrEqual(2) // the sum, and x.grad
    y.dispose()
  })

  test('a tensor disposed of too early stops the walk: no gradient goes missing in silence', () => {
    const x = leaf([1, 2, 3])
    const [z, unused] = [x.mul(2), x.mul(3)]
    const y = z.sum().add(x.sum())
    unused.dispose()
    backward(y, undefined, { retainGraph: true })
    expect([...x.grad!.dataSync()]).toEqual([3, 3, 3])
    z.dispose()
    for (const walk of [() => grad(y, [x], undefined, { retainGraph: true }), () => backward(y)])
      expect(walk).toThrow('backward: a gradient has to pass a tensor that has been disposed of')
  })

  test('grad of a graph that has been freed is an error, not null', () => {
    const x = leaf([1, 2, 3])
    const y = x.mul(2).sum()
    backward(y)
    expect(() => grad(y, [x])).toThrow('the graph of sum has been freed by an earlier backward()')
  })

  test('accumulating over calls allocates nothing', () => {
    const ps = parameters()
    const x = rand([16, 8])
    scope(() => loss(ps, x).backward())
    const before = memory()
    for (let i = 0; i < 5; i++) scope(() => loss(ps, x).backward())
    expect(memory().tensors).toBe(before.tensors)
    expect(memory().inUse).toBe(before.inUse)
  })

  test('backward in a function whose scope owns the tensors leaves nothing either', () => {
    const before = memory().tensors
    scope(() => {
      const x = leaf([1, 2])
      backward(x.mul(x).sum())
    })
    expect(memory().tensors).toBe(before)
  })

  test('awaiting inside a scope', async () => {
    const before = memory().tensors
    const x = leaf([1, 2])
    await scope(async () => {
      const y = x.mul(x).sum()
      await y.item()
      expect(y.tracked).toBe(true)
      y.backward()
      await Promise.resolve()
      await noGrad(async () => {
        await Promise.resolve()
        expect(x.mul(2).tracked).toBe(false)
      })
      expect(x.mul(2).tracked).toBe(true)
    })
    expect(memory().tensors).toBe(before + 2)
  })
})
