import { describe, expect, test } from 'vitest'
import {
  arange,
  DeviceDataError,
  DisposedError,
  full,
  keep,
  memory,
  noGrad,
  OutOfMemoryError,
  ops,
  scope,
  synchronize,
  Tensor,
  tensor,
} from '../lib/index.ts'
import { native } from '../lib/native.ts'
import { fromBits } from '../lib/tensor.ts'

describe('values', () => {
  test('travel there and back', async () => {
    const t = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ])
    expect([t.shape, t.dtype, t.device, t.rank, t.size]).toEqual([
      [2, 3],
      'float32',
      process.env.POLYGRAD_TEST_DEVICE ?? 'cpu',
      2,
      6,
    ])
    expect([...(await t.data())]).toEqual([1, 2, 3, 4, 5, 6])
    expect(await t.sum().item()).toBe(21)
    expect(() => tensor([[1], [2, 3]])).toThrow(/ragged/)
    expect(() => t.itemSync()).toThrow('item: the tensor should have one element, but its shape is [2, 3]')
  })

  test('of every dtype', () => {
    expect([...tensor([1, 2], { dtype: 'bfloat16' }).dataSync()]).toEqual([0x3f80, 0x4000])
    expect([...tensor([1, -2], { dtype: 'float16' }).dataSync()]).toEqual([0x3c00, 0xc000])
    expect([...tensor([1, -2], { dtype: 'int64' }).dataSync()]).toEqual([1n, -2n])
    expect([...tensor([0, 5], { dtype: 'bool' }).dataSync()]).toEqual([0, 1])
    expect([...tensor(Uint8Array.of(7)).dataSync()]).toEqual([7])
    expect(tensor([0.1], { dtype: 'float64' }).itemSync()).toBe(0.1)
    expect(() => tensor([1], { dtype: 'float8' as never })).toThrow("there is no dtype 'float8'")
    expect(() => tensor([1], { device: 'gpu' as never })).toThrow("there is no device 'gpu'")
  })

  test('16-bit floats read back as numbers: zeros, subnormals, infinities, NaN', () => {
    for (const dtype of ['float16', 'bfloat16'] as const)
      for (const value of [0, 1, -1.5, 2 ** -14, 2 ** -24, 65504, Infinity, -Infinity, Number.NaN]) {
        const t = tensor([value], { dtype })
        expect(t.itemSync()).toEqual(t.cast('float64').itemSync())
      }
    expect(fromBits('float16', 1)).toBe(2 ** -24)
  })

  test('a tensor of more axes than there are is refused', () => {
    expect(full([1, 1, 1, 1, 1, 1, 1, 2], 3).shape).toEqual([1, 1, 1, 1, 1, 1, 1, 2])
    expect(() => full([1, 1, 1, 1, 1, 1, 1, 1, 1], 3)).toThrow('at most 8 axes')
  })
})

describe('what is known of a result', () => {
  test('is that of the tensor, however many calls lie between', () => {
    const handles = [native.full([2, 3], 1, 0, 0), native.full([4], 1, 4, 0), native.full([], 1, 1, 0)]
    const seen = handles.map((handle) => new Tensor(handle))
    expect(seen.map((t) => [t.shape, t.dtype])).toEqual([
      [[2, 3], 'float32'],
      [[4], 'int32'],
      [[], 'float64'],
    ])
    const parts = ops.split(arange(10), [1, 2, 3, 4])
    expect(parts.map((p) => p.shape)).toEqual([[1], [2], [3], [4]])
    const { values, indices } = ops.topk(full([2, 5, 3], 1, { dtype: 'float64' }), 2, { axis: 1 })
    expect([values.shape, values.dtype, indices.shape, indices.dtype]).toEqual([
      [2, 2, 3],
      'float64',
      [2, 2, 3],
      'int32',
    ])
  })
})

describe('memory', () => {
  test('dropped results are freed inside a synchronous loop', () => {
    const x = tensor(new Float32Array(8))
    const before = memory().tensors
    let most = 0
    for (let i = 0; i < 200_000; i++) {
      ops.relu(x)
      if (i % 1000 === 0) most = Math.max(most, memory().tensors - before)
    }
    expect(most).toBeLessThan(60_000)
  })

  test('also large ones, by their bytes, and what hangs on them', () => {
    const x = tensor(new Float32Array(1 << 18), { requiresGrad: true })
    const before = memory().inUse
    let most = 0
    for (let i = 0; i < 1500; i++) {
      ops.relu(x)
      if (i % 100 === 0) most = Math.max(most, memory().inUse - before)
    }
    expect(most).toBeLessThan(2 ** 30)
  })

  test('dispose frees at once, is idempotent, and what is disposed says so', () => {
    const x = tensor([1, 2])
    const before = memory()
    const y = x.add(1)
    const view = y.slice(0, 1)
    y.dispose()
    y[Symbol.dispose]()
    expect(memory().tensors).toBe(before.tensors + 1)
    expect(view.itemSync()).toBe(3)
    view.dispose()
    expect(memory().inUse).toBe(before.inUse)
    expect(y.disposed).toBe(true)
    expect(() => y.add(1)).toThrow('the tensor has been disposed')
    expect(() => ops.add(x, y)).toThrow('the tensor has been disposed')
  })

  test('what does not fit is an OutOfMemoryError with its sizes, and the process goes on', () => {
    const x = tensor([1])
    try {
      full([2 ** 40], 1, { dtype: 'float64' })
      expect.unreachable()
    } catch (error) {
      expect(error).toBeInstanceOf(OutOfMemoryError)
      const { requested, free, peak, code } = error as OutOfMemoryError
      expect([requested, code]).toEqual([2 ** 43, 'ERR_OUT_OF_MEMORY'])
      expect(free).toBeGreaterThan(0)
      expect(peak).toBeGreaterThan(0)
    }
    expect(x.add(1).itemSync()).toBe(2)
    x.dispose()
    expect(() => x.shape && x.add(1)).toThrow(DisposedError)
  })

  test('exchange swaps memory, not identity', () => {
    const [a, b] = [tensor([1, 2]), tensor([3, 4])]
    a.exchange(b)
    expect([[...a.dataSync()], [...b.dataSync()]]).toEqual([
      [3, 4],
      [1, 2],
    ])
  })
})

describe('scope', () => {
  test('frees what it does not return, in all the ways a value can be returned', async () => {
    const before = memory().tensors
    const make = (n: number): Tensor => ops.relu(full([n], 1))
    const kept = scope(() => {
      for (let i = 0; i < 10; i++) make(3)
      return { list: [make(1), { deep: make(2) }], map: new Map([['m', make(3)]]), set: new Set([make(4)]), text: 'x' }
    })
    expect(memory().tensors).toBe(before + 4)
    expect([...kept.set][0]!.shape).toEqual([4])
    for (const t of [
      kept.list[0] as Tensor,
      (kept.list[1] as { deep: Tensor }).deep,
      kept.map.get('m')!,
      [...kept.set][0]!,
    ])
      t.dispose()
    expect(await scope(async () => (await make(2).data())[0])).toBe(1)
    expect(() =>
      scope(() => {
        make(1)
        throw new Error('on purpose')
      }),
    ).toThrow('on purpose')
    await expect(
      scope(async () => {
        make(1)
        await Promise.resolve()
        make(1)
        throw new Error('later')
      }),
    ).rejects.toThrow('later')
    expect(memory().tensors).toBe(before)
  })

  test('in a scope: what the inner one returns belongs to the outer one', () => {
    const before = memory().tensors
    scope(() => {
      const inner = scope(() => {
        full([1], 1)
        return full([2], 1)
      })
      expect(memory().tensors).toBe(before + 1)
      expect(inner.disposed).toBe(false)
      inner.dispose()
      const again = scope(() => full([2], 1))
      expect(again.itemSync).toBeTypeOf('function')
    })
    expect(memory().tensors).toBe(before)
  })

  test('keep takes a tensor out of whichever scope holds it', () => {
    const before = memory().tensors
    let outer!: Tensor
    let inner!: Tensor
    scope(() => {
      outer = full([1], 5)
      scope(() => {
        inner = keep(full([1], 6))
        keep(outer)
      })
    })
    expect([outer.itemSync(), inner.itemSync()]).toEqual([5, 6])
    outer.dispose()
    inner.dispose()
    expect(memory().tensors).toBe(before)
  })

  test('scopes that run at the same time do not take each other’s tensors', async () => {
    const before = memory().tensors
    const one = async (n: number): Promise<number> =>
      scope(async () => {
        const a = full([n], n)
        await new Promise((resolve) => setTimeout(resolve, n))
        const b = a.add(1)
        await b.data()
        return b.sum().item()
      })
    expect(await Promise.all([one(3), one(1), one(2)])).toEqual([12, 2, 6])
    expect(memory().tensors).toBe(before)
  })

  test('what is made after its scope has ended belongs to nobody', async () => {
    let late!: Promise<Tensor>
    scope(() => {
      late = Promise.resolve().then(() => full([1], 3))
    })
    const t = await late
    expect(t.itemSync()).toBe(3)
    t.dispose()
  })

  test('what leaves the last scope is freed when it is dropped', () => {
    const x = full([8], 1)
    const before = memory().tensors
    let most = 0
    for (let i = 0; i < 30_000; i++) {
      scope(() => [ops.relu(x), ops.neg(x)])
      if (i % 1000 === 0) most = Math.max(most, memory().tensors - before)
    }
    expect(most).toBeLessThan(30_000)
  })

  test('a graph that leaves keeps what its gradient needs', () => {
    const x = tensor([1, 2], { requiresGrad: true })
    const y = scope(() => {
      full([100], 1)
      return x.exp().mul(x).sum()
    })
    y.backward()
    expect(x.grad!.dataSync()[1]).toBeCloseTo(3 * Math.exp(2), 4)
  })
})

test('synchronize waits for what is queued, and tells what went wrong there', async () => {
  const x = arange(4)
  x.add(1)
  await synchronize()
  x.gather(0, tensor([4], { dtype: 'int32' }))
  const failure = synchronize()
  await expect(failure).rejects.toThrow('gather: index[0] is 4, but the axis has 4')
  await expect(failure).rejects.toBeInstanceOf(DeviceDataError)
  await synchronize()
})

test('noGrad records nothing, also across an await', async () => {
  const x = tensor([1], { requiresGrad: true })
  expect(noGrad(() => ops.relu(x)).tracked).toBe(false)
  await noGrad(async () => {
    await Promise.resolve()
    expect(ops.relu(x).tracked).toBe(false)
  })
  expect(ops.relu(x).tracked).toBe(true)
  expect(x.detach().tracked).toBe(false)
})
