import { afterEach, describe, expect, test } from 'vitest'
import { arange, type Device, full, ones, setDefaultDevice, tensor, zeros } from '../../lib/index.ts'

const usual = (process.env.POLYGRAD_TEST_DEVICE ?? 'cpu') as Device
const values = (t: { dataSync(): ArrayLike<number | bigint> }) => Array.from(t.dataSync())

describe('tensor', () => {
  test('takes its shape from the nesting, typed arrays included', () => {
    const t = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ])
    expect([t.shape, t.dtype, t.device]).toEqual([[2, 3], 'float32', usual])
    expect(values(t)).toEqual([1, 2, 3, 4, 5, 6])
    expect(tensor([Float32Array.of(1, 2), Float32Array.of(3, 4)]).shape).toEqual([2, 2])
    expect(tensor(7).shape).toEqual([])
    expect(tensor([]).shape).toEqual([0])
    expect(tensor([[], []]).shape).toEqual([2, 0])
    expect(tensor([1, 2, 3, 4], { shape: [2, 1, 2] }).shape).toEqual([2, 1, 2])
  })

  test('takes its dtype from a typed array, a boolean, or the option', () => {
    expect(tensor(Float64Array.of(0.1)).dtype).toBe('float64')
    expect(values(tensor(Float64Array.of(0.1)))).toEqual([0.1])
    expect(tensor(Int32Array.of(-1)).dtype).toBe('int32')
    expect(values(tensor(BigInt64Array.of(-(2n ** 60n))))).toEqual([-(2n ** 60n)])
    expect(tensor(Uint8Array.of(255)).dtype).toBe('uint8')
    expect(tensor(true).dtype).toBe('bool')
    expect(values(tensor([0, -2], { dtype: 'bool' }))).toEqual([0, 1])
    expect(values(tensor([3, -4], { dtype: 'int64' }))).toEqual([3n, -4n])
    expect(values(tensor(BigInt64Array.of(5n), { dtype: 'float32' }))).toEqual([5])
    expect(values(tensor([0.1], { dtype: 'float32' }))).toEqual([Math.fround(0.1)])
  })

  test('rounds to the 16-bit floats to nearest, ties to even, and takes their bits as they are', () => {
    // 1 + 2^-8 lies midway between two bfloat16; 1 + 3 * 2^-8 as well, and rounds up to the even one.
    expect(values(tensor([1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -2], { dtype: 'bfloat16' }))).toEqual([
      0x3f80, 0x3f80, 0x3f82, 0xc000,
    ])
    expect(values(tensor([1, 65504, 65520, 2 ** -24], { dtype: 'float16' }))).toEqual([0x3c00, 0x7bff, 0x7c00, 1])
    expect(values(tensor(Uint16Array.of(0x3f80, 7), { dtype: 'bfloat16' }))).toEqual([0x3f80, 7])
  })

  test('keeps NaN, infinities and the sign of zero', () => {
    const [nan, infinite, zero] = values(tensor([Number.NaN, Number.NEGATIVE_INFINITY, -0])) as number[]
    expect([nan, infinite, Object.is(zero, -0)]).toEqual([Number.NaN, Number.NEGATIVE_INFINITY, true])
  })

  test('refuses ragged values, values that do not fill the shape, and a gradient for integers', () => {
    expect(() => tensor([[1, 2], [3]])).toThrow(/ragged: a list of 1 stands beside one of 2/)
    expect(() => tensor([[1], 2])).toThrow(/ragged/)
    expect(() => tensor([1, [2]])).toThrow(/ragged/)
    expect(() => tensor([1, 2, 3], { shape: [2, 2] })).toThrow('tensor: 3 values do not fill the shape [2, 2]')
    expect(() => tensor(Float32Array.of(1, 2, 3), { shape: [2] })).toThrow('3 values do not fill the shape [2]')
    expect(() => tensor([1], { dtype: 'int32', requiresGrad: true })).toThrow('int32 cannot require a gradient')
    expect(() => tensor([1], { dtype: 'float8' as 'float32' })).toThrow(/no dtype 'float8'.*float32/)
  })
})

test('full, zeros and ones', () => {
  expect(values(full([2, 2], 1.5))).toEqual([1.5, 1.5, 1.5, 1.5])
  expect(values(zeros([3], { dtype: 'int32' }))).toEqual([0, 0, 0])
  expect(values(ones([2], { dtype: 'bool' }))).toEqual([1, 1])
  expect(values(full([1], -3, { dtype: 'int64' }))).toEqual([-3n])
  expect(zeros([0, 4]).shape).toEqual([0, 4])
  expect(ones([2], { requiresGrad: true }).requiresGrad).toBe(true)
})

test('arange counts below its end', () => {
  expect([arange(4).dtype, values(arange(4))]).toEqual(['int32', [0, 1, 2, 3]])
  expect(values(arange(2, 8, { step: 3 }))).toEqual([2, 5])
  expect(values(arange(3, 0, { step: -1 }))).toEqual([3, 2, 1])
  expect([arange(0, 1, { step: 0.25 }).dtype, values(arange(0, 1, { step: 0.25 }))]).toEqual([
    'float32',
    [0, 0.25, 0.5, 0.75],
  ])
  expect(values(arange(5, 5))).toEqual([])
  expect(values(arange(3, 1))).toEqual([])
  expect(() => arange(0, 5, { step: 0 })).toThrow(/step should not be 0/)
})

describe('devices', () => {
  afterEach(() => setDefaultDevice(usual))

  test('a device that does not exist is named', () => {
    expect(() => setDefaultDevice('gpu' as 'cpu')).toThrow(/no device 'gpu'/)
    expect(() => zeros([1], { device: 'cuda:x' as 'cuda' })).toThrow(/no device 'cuda:x'/)
  })
})
