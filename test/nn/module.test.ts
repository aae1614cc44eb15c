import { describe, expect, test } from 'vitest'
import { Module, parameter } from '../../lib/nn/module.ts'
import { full, ones, tensor, zeros } from '../../lib/ops/create.ts'
import { scope, type Tensor } from '../../lib/tensor.ts'

class Leaf extends Module {
  weight: Tensor = parameter(full([2, 3], 1))
  bias: Tensor | null = parameter(zeros([2]))
}
class Stack extends Module {
  override readonly stacked = true
  weight = parameter(zeros([4, 2, 3]))
  scale = parameter(zeros([4, 2]))
}
class Tree extends Module {
  first = new Leaf()
  parts = [new Leaf(), new Leaf()]
  stack = new Stack()
  shared = this.first.weight
  table = tensor([1, 2, 3])
  nothing: Leaf | null = null
  config = { weight: zeros([1]) }
}

test('parameters are found by walking own properties; a shared one comes once, a plain tensor is state only', () => {
  const tree = new Tree()
  const paths = [
    ...['first.weight', 'first.bias', 'parts.0.weight', 'parts.0.bias', 'parts.1.weight', 'parts.1.bias'],
    ...['stack.weight', 'stack.scale'],
  ]
  expect([...tree.namedParameters().keys()].sort()).toEqual(
    ['shared', ...paths].filter((p) => p !== 'first.weight').sort(),
  )
  expect([...tree.stateDict().keys()]).toContain('table')
  expect(tree.parameterCount()).toBe(3 * 8 + 24 + 8)
  tree.parts[0]!.weight.requiresGrad = false
  expect(tree.namedParameters().has('parts.0.weight')).toBe(false)
  expect(tree.stateDict().has('parts.0.weight')).toBe(true)
})

test('a parameter survives the scope it was made in, and an integer tensor cannot be one', () => {
  const leaf = scope(() => {
    const made = new Leaf()
    scope(() => made.weight)
    return [made]
  })[0]!
  expect(leaf.weight.dataSync()).toEqual(new Float32Array(6).fill(1))
  expect(() => parameter(tensor([1], { dtype: 'int32' }))).toThrow(/int32/)
})

test('decay is for what has two axes in a file', () => {
  const { decay, noDecay } = new Tree().parameterGroups()
  expect([...decay.keys()].sort()).toEqual(['parts.0.weight', 'parts.1.weight', 'shared', 'stack.weight'])
  expect([...noDecay.keys()].sort()).toEqual(['first.bias', 'parts.0.bias', 'parts.1.bias', 'stack.scale'])
})

describe('loadStateDict', () => {
  test('copies values, converting their type, and keeps the tensors', () => {
    const [from, to] = [new Tree().to({ dtype: 'float64' }), new Tree()]
    const weight = to.parts[1]!.weight
    from.parts[1]!.weight = parameter(full([2, 3], 7, { dtype: 'float64' }))
    to.loadStateDict(from.stateDict())
    expect(to.parts[1]!.weight).toBe(weight)
    expect(weight.dataSync()).toEqual(new Float32Array(6).fill(7))
  })
  test('names all that is missing, unexpected or of another shape, and changes nothing', () => {
    const leaf = new Leaf()
    expect(() => leaf.loadStateDict({ weight: ones([3, 2]), extra: ones([1]) })).toThrow(
      'loadStateDict: missing bias; unexpected extra; weight is [3, 2] but should be [2, 3]',
    )
    expect(() => leaf.loadStateDict({ bias: ones([2]), weight: ones([6]) })).toThrow(/weight is \[6\]/)
    expect(leaf.bias!.dataSync()).toEqual(new Float32Array(2))
  })
  test('not strict: what is there is copied, the rest returned', () => {
    const leaf = new Leaf()
    const result = leaf.loadStateDict(
      new Map([
        ['bias', ones([2])],
        ['extra', ones([1])],
      ]),
      { strict: false },
    )
    expect(result).toEqual({ missing: ['weight'], unexpected: ['extra'] })
    expect(leaf.bias!.dataSync()).toEqual(new Float32Array(2).fill(1))
    expect(() => leaf.loadStateDict({ weight: ones([3, 2]) }, { strict: false })).toThrow(/weight is \[3, 2\]/)
  })
})

test('train and eval reach every part', () => {
  const tree = new Tree().eval()
  expect([...tree.modules()].map(([, m]) => m.training)).toEqual(new Array(5).fill(false))
  expect(tree.train().parts[1]!.training).toBe(true)
})

test('a 16-bit model keeps its vectors in float32, and what is shared stays shared', () => {
  const tree = new Tree().to({ dtype: 'bfloat16' })
  const dtypes = Object.fromEntries([...tree.stateDict()].map(([path, t]) => [path, t.dtype]))
  expect(dtypes).toMatchObject({
    'parts.0.weight': 'bfloat16',
    'parts.0.bias': 'float32',
    'stack.weight': 'bfloat16',
    'stack.scale': 'float32',
    table: 'float32',
  })
  expect(tree.first.weight).toBe(tree.shared)
  expect(tree.parameters()).toHaveLength(8)
  expect(new Leaf().to({ dtype: 'float64' }).bias!.dtype).toBe('float64')
})

test('zeroGrad zeroes where the gradient lies', () => {
  const leaf = new Leaf()
  const grad = ones([2, 3])
  leaf.weight.grad = grad
  leaf.zeroGrad()
  expect(leaf.weight.grad).toBe(grad)
  expect(grad.dataSync()).toEqual(new Float32Array(6))
  expect(leaf.bias!.grad).toBe(null)
})
