import fc from 'fast-check'
import { expect, test } from 'vitest'
import { arange, full, memory, ops, scope, type Tensor, tensor } from '../../lib/index.ts'
import { checkOp, numbers } from '../check.ts'
import { at, build, type Nd } from '../nd.ts'

const swap = (list: readonly number[], a: number, b: number): number[] => {
  const out = [...list]
  ;[out[a], out[b]] = [list[b]!, list[a]!]
  return out
}

checkOp({
  name: 'reshape',
  op: (x) => x.reshape([-1, 5]),
  oracle: ({ data }) => ({ shape: [data.length / 5, 5], data }),
  cases: [[[3, 5]], [[5, 1, 3]], [[10]], [[0, 5]]],
})
checkOp({
  name: 'permute',
  op: (x) => x.permute([2, 0, -2]),
  oracle: (x) => build([x.shape[2]!, x.shape[0]!, x.shape[1]!], ([c, a, b]) => at(x, [a!, b!, c!])),
  cases: [[[2, 3, 5]], [[1, 1, 1]], [[2, 0, 3]]],
})
checkOp({
  name: 'transpose',
  op: (x) => x.transpose(),
  oracle: (x) =>
    build(swap(x.shape, x.shape.length - 2, x.shape.length - 1), (w) => at(x, swap(w, w.length - 2, w.length - 1))),
  cases: [[[3, 5]], [[2, 3, 5]], [[1, 1]], [[0, 4]]],
})
checkOp({
  name: 'transpose of two named axes',
  op: (x) => x.transpose(0, -1),
  oracle: (x) => build(swap(x.shape, 0, x.shape.length - 1), (w) => at(x, swap(w, 0, w.length - 1))),
  cases: [[[3, 5]], [[2, 3, 5]]],
})
checkOp({
  name: 'slice',
  op: (x) => x.slice(1, 1, -1, 2),
  oracle: (x) =>
    build([x.shape[0]!, Math.max(0, Math.ceil((x.shape[1]! - 2) / 2))], ([r, c]) => at(x, [r!, 1 + 2 * c!])),
  cases: [[[3, 5]], [[7, 33]], [[2, 6]], [[1, 3]], [[3, 2]]],
  nan: false,
})
checkOp({
  name: 'slice by ranges',
  op: (x) => x.slice([null, [-3, -1], [0, 100, 3]]),
  oracle: (x) =>
    build([x.shape[0]!, 2, Math.ceil(x.shape[2]! / 3)], ([a, b, c]) => at(x, [a!, x.shape[1]! - 3 + b!, 3 * c!])),
  cases: [[[2, 3, 5]], [[1, 4, 1]]],
  nan: false,
})
checkOp({
  name: 'concat',
  op: (...xs) => ops.concat(xs, -1),
  oracle: (...xs) => {
    const lengths = xs.map((x) => x.shape[1]!)
    return build([xs[0]!.shape[0]!, lengths.reduce((a, b) => a + b)], ([r, c]) => {
      let k = 0
      let rest = c!
      for (; rest >= lengths[k]!; k++) rest -= lengths[k]!
      return at(xs[k]!, [r!, rest])
    })
  },
  cases: [
    [
      [3, 5],
      [3, 1],
      [3, 2],
    ],
    [
      [2, 0],
      [2, 3],
    ],
    [[1, 1]],
  ],
})
checkOp({
  name: 'stack',
  op: (a, b) => ops.stack([a!, b!], 1),
  oracle: (a, b) => build([a!.shape[0]!, 2, a!.shape[1]!], ([r, k, c]) => at(k ? b! : a!, [r!, c!])),
  cases: [
    [
      [3, 5],
      [3, 5],
    ],
    [
      [1, 1],
      [1, 1],
    ],
    [
      [0, 2],
      [0, 2],
    ],
  ],
})
const part = (x: Nd, from: number, to: number): Nd =>
  build([to - from, x.shape[1]!], ([r, c]) => at(x, [from + r!, c!]))
checkOp({
  name: 'split',
  op: (x) => x.split(2),
  oracle: (x) => [part(x, 0, 2), part(x, 2, 4), part(x, 4, 5)],
  cases: [[[5, 3]]],
})
checkOp({
  name: 'split by sizes',
  op: (x) => x.split([1, 0, 4], 0),
  oracle: (x) => [part(x, 0, 1), part(x, 1, 1), part(x, 1, 5)],
  cases: [[[5, 3]], [[5, 1]]],
})
checkOp({
  name: 'broadcastTo',
  op: (x) => x.broadcastTo([2, 3, 5]),
  oracle: (x) => build([2, 3, 5], (w) => at(x, w)),
  cases: [[[3, 5]], [[1]], [[]], [[2, 1, 5]]],
})
checkOp({ name: 'contiguous', op: (x) => x.contiguous(), oracle: (x) => x, cases: [[[3, 5]], [[0]], [[]]] })
checkOp({ name: 'cast', op: (x) => x.cast('float64'), oracle: (x) => x, cases: [[[3, 5]], [[0]], [[]]] })
checkOp({
  name: 'unsqueeze, squeeze',
  op: (x) => x.unsqueeze(-1).unsqueeze(0).squeeze(0),
  oracle: ({ shape, data }) => ({ shape: [...shape, 1], data }),
  cases: [[[3, 5]], [[]]],
})

test('views share memory', () => {
  const x = full([1000, 1000], 1)
  const before = memory().inUse
  const views = scope(() => [
    x.reshape([10, -1]),
    x.transpose(),
    x.slice(0, 3),
    x.permute([1, 0]),
    x.broadcastTo([5, 1000, 1000]),
    x.split(10),
    x.transpose().reshape([1, 1000, 1000]),
  ])
  expect(memory().inUse).toBe(before)
  expect(views.length).toBe(7)
})

test('reshape of what does not lie in order copies, and is right', () => {
  const lengths = fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 5 })
  fc.assert(
    fc.property(lengths, fc.nat(), fc.nat(), fc.nat(), (shape, turn, cut, mask) => {
      const n = shape.reduce((a, b) => a * b, 1)
      const order = shape.map((_, i) => (i + turn) % shape.length)
      let x: Tensor = arange(n, undefined, { dtype: 'float64' }).reshape(shape).permute(order)
      const axis = cut % shape.length
      x = x.slice(axis, mask % 2, 100, 1 + (mask % 3 === 0 ? 1 : 0))
      // Any other shape with as many elements: runs of axes joined, ones put in.
      const to = x.shape
        .reduce<number[]>((out, d, i) => {
          if ((mask >> i) & 1 && out.length) out.push(out.pop()! * d)
          else out.push(d)
          if ((mask >> (i + 5)) & 1 && out.length < 7) out.push(1)
          return out
        }, [])
        .slice(0, 8)
      if (to.reduce((a, b) => a * b, 1) !== x.size) return
      const y = x.reshape(to)
      expect(y.shape).toEqual(to)
      expect(numbers(y)).toEqual(numbers(x))
      expect(numbers(x)).toEqual(
        build(x.shape, (w) => {
          const from = [...w]
          from[axis] = w[axis]! * (1 + (mask % 3 === 0 ? 1 : 0)) + (mask % 2)
          return order.reduce(
            (sum, axisOfShape, i) => sum + from[i]! * shape.slice(axisOfShape + 1).reduce((a, b) => a * b, 1),
            0,
          )
        }).data,
      )
    }),
    { numRuns: 500, seed: 1 },
  )
})

test('errors say what is and what should be', () => {
  const x = full([2, 3], 1)
  expect(() => x.reshape([4])).toThrow('reshape: [2, 3] has 6 elements, but [4] would have 4')
  expect(() => x.reshape([-1, 4])).toThrow('does not fit')
  expect(() => x.reshape([-1, -1])).toThrow('at most one axis')
  expect(() => x.permute([0, 0])).toThrow('permute: [0, 0] should name each of the 2 axes once')
  expect(() => x.slice(0, 0, 1, 0)).toThrow('step is 0')
  expect(() => x.slice(2, 0)).toThrow('slice: axis 2 is out of range')
  expect(() => x.broadcastTo([3, 3])).toThrow('broadcastTo: [2, 3] cannot be broadcast to [3, 3]')
  expect(() => ops.concat([x, full([2, 2], 1)])).toThrow(
    'concat: tensor 1 is [2, 2], but should have the shape [2, 3] except on axis 0',
  )
  expect(() => ops.concat([x, x.cast('int32')])).toThrow('int32')
  expect(() => x.split([1, 2], 0)).toThrow('do not add up to 2')
  expect(() => x.squeeze(0)).toThrow('should have the length 1')
  expect(() => full([2, 2], 1).slice([null, null, [0]])).toThrow('3 ranges')
})

test('as methods, with what follows the first argument', () => {
  const x = tensor([1, 2])
  expect([...x.concat(x).dataSync()]).toEqual([1, 2, 1, 2])
  expect(x.stack([x, x], 1).shape).toEqual([2, 3])
  expect(x.to({ dtype: 'int32' }).dtype).toBe('int32')
  expect(x.to({ dtype: 'float32', device: x.device })).toBe(x)
  expect(() => x.to({ device: 'cuda:7' })).toThrow()
})

test('a gradient through a cast to 16 bits and back has the dtype of its tensor', () => {
  const x = tensor([1, 2, 3], { requiresGrad: true })
  x.cast('bfloat16').mul(3).to({ dtype: 'float64' }).sum().backward()
  expect(x.grad!.dtype).toBe('float32')
  expect([...x.grad!.dataSync()]).toEqual([3, 3, 3])
  expect(x.cast('int32').tracked).toBe(false)
})
