// One description of an operation becomes many tests: its value against a float64 oracle, its gradient against central
// differences, on empty, one-element, odd, non-contiguous and broadcast shapes, with NaN, and in every float dtype.
import { describe, expect, test } from 'vitest'
import { gradcheck, noGrad, type Shape, type Tensor, tensor } from '../lib/index.ts'
import type { Nd } from './nd.ts'

export interface Description {
  name: string
  /** The operation; several results in a list. */
  op: (...inputs: Tensor[]) => Tensor | readonly Tensor[]
  /** The same from the definition, in float64. */
  oracle: (...inputs: Nd[]) => Nd | readonly Nd[]
  /** Each case: the shape of every input. */
  cases: readonly (readonly Shape[])[]
  /** Values of input i from uniform numbers in [0, 1): default normal-ish, from -2 to 2. */
  values?: (uniform: number, input: number, at: number) => number
  /** Dtypes of the inputs that are not floating-point: `{ 1: 'int32' }`. They stay as they are in every variant. */
  integers?: Readonly<Record<number, 'int32' | 'int64' | 'uint8' | 'bool'>>
  /** false: no gradient is checked. */
  gradient?: boolean
  /** false: a NaN is not tried. */
  nan?: boolean
  /** Largest error relative to the largest value of the result. Defaults 1e-12, 4e-6, 2^-8, 2^-11. */
  tolerance?: { float64?: number; float32?: number; bfloat16?: number; float16?: number }
  /** Float dtypes tried; default float64, float32, bfloat16, float16. */
  dtypes?: readonly ('float64' | 'float32' | 'bfloat16' | 'float16')[]
  /** At most so many elements of each input are tried by the gradient check. Default 24. */
  most?: number
}

/** Uniform numbers in [0, 1) that are the same in every run. */
export function uniforms(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** The numbers of a tensor of any dtype, in float64. */
export function numbers(t: Tensor): Float64Array {
  return noGrad(() => {
    if (t.dtype === 'int64') return Float64Array.from(t.dataSync<'int64'>(), Number)
    const wide = t.cast('float64')
    const data = wide.dataSync()
    wide.dispose()
    return data
  })
}

/** Fails unless every element is within `tolerance` of the largest expected one; NaN only where it is expected. */
export function expectClose(actual: Tensor, expected: Nd, tolerance: number, what = ''): void {
  expect(actual.shape, `${what}: the shape`).toEqual([...expected.shape])
  const got = numbers(actual)
  const finite = expected.data.filter(Number.isFinite)
  const largest = finite.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
  const allowed = tolerance * Math.max(largest, Number.MIN_VALUE)
  for (let i = 0; i < got.length; i++) {
    const [a, e] = [got[i]!, expected.data[i]!]
    const fine = Number.isNaN(e) ? Number.isNaN(a) : a === e || Math.abs(a - e) <= allowed
    if (!fine)
      expect.fail(`${what}: element ${i} of [${expected.shape}] is ${a}, expected ${e} (allowed error ${allowed})`)
  }
}

const count = (shape: Shape): number => shape.reduce((n, d) => n * d, 1)
const listed = <T>(one: T | readonly T[]): readonly T[] => (Array.isArray(one) ? (one as readonly T[]) : [one as T])

// The same values seen through a view whose memory has gaps and another order of axes.
function scattered(values: ArrayLike<number>, shape: Shape, dtype: 'float64' | 'float32'): Tensor {
  const wide = [...shape].reverse()
  if (!wide.length) return tensor([7, values[0]!, 7], { dtype }).slice(0, 1, 2).reshape([])
  wide[wide.length - 1]! *= 2
  const data = new Float64Array(count(wide)).fill(7)
  const n = count(shape)
  for (let i = 0; i < n; i++) {
    let rest = i
    let at = 0
    let stride = 2 // the index in the reversed shape: the first axis is the fastest
    for (let axis = 0, step = n; axis < shape.length; axis++) {
      step /= shape[axis]!
      at += Math.floor(rest / step) * stride
      rest %= step
      stride *= shape[axis]!
    }
    data[at] = values[i]!
  }
  const axes = shape.map((_, i) => shape.length - 1 - i)
  return tensor(data, { shape: wide, dtype })
    .slice(shape.length - 1, 0, wide[wide.length - 1]!, 2)
    .permute(axes)
}

/** Registers the tests of one operation. */
export function checkOp(d: Description): void {
  const { nan = true, gradient = true, most = 24, dtypes = ['float64', 'float32', 'bfloat16', 'float16'] } = d
  const tolerance = { float64: 1e-12, float32: 4e-6, bfloat16: 2 ** -8, float16: 2 ** -11, ...d.tolerance }
  const draw = (shapes: readonly Shape[], salt: number): Nd[] =>
    shapes.map((shape, input) => {
      const next = uniforms(1 + salt * 97 + input)
      const data = new Float64Array(count(shape))
      for (let i = 0; i < data.length; i++) {
        const u = next()
        data[i] = d.values ? d.values(u, input, i) : 4 * u - 2
      }
      return { shape, data }
    })
  const run = (inputs: Tensor[]): readonly Tensor[] => noGrad(() => listed(d.op(...inputs)))

  describe(d.name, () => {
    d.cases.forEach((shapes, k) => {
      const title = shapes.map((s) => `[${s}]`).join(' ')
      const nds = draw(shapes, k)
      for (const dtype of dtypes)
        test(`${title}: value in ${dtype}`, () => {
          const inputs = nds.map(({ shape, data }, i) => tensor(data, { shape, dtype: d.integers?.[i] ?? dtype }))
          // The oracle gets the values as they were rounded.
          const rounded = inputs.map((t) => ({ shape: t.shape, data: numbers(t) }))
          const expected = listed(d.oracle(...rounded))
          const got = run(inputs)
          expect(got.length).toBe(expected.length)
          for (const [i, y] of got.entries()) expectClose(y, expected[i]!, tolerance[dtype], `output ${i}`)
        })
      test(`${title}: the same from views with gaps`, () => {
        const inputs = nds.map(({ shape, data }, i) =>
          d.integers?.[i] ? tensor(data, { shape, dtype: d.integers[i] }) : scattered(data, shape, 'float64'),
        )
        for (const [i, t] of inputs.entries()) expect(numbers(t)).toEqual(nds[i]!.data)
        const expected = listed(d.oracle(...nds))
        for (const [i, y] of run(inputs).entries()) expectClose(y, expected[i]!, tolerance.float64, `output ${i}`)
      })
      if (gradient) {
        test(`${title}: gradient`, () => {
          const inputs = nds.map(({ shape, data }, i) => tensor(data, { shape, dtype: d.integers?.[i] ?? 'float64' }))
          gradcheck(d.op, inputs, { most })
        })
        test(`${title}: gradient through views, arriving as a view`, () => {
          const inputs = nds.map(({ shape, data }, i) => tensor(data, { shape, dtype: d.integers?.[i] ?? 'float64' }))
          gradcheck(
            (...leaves) =>
              listed(
                d.op(
                  ...leaves.map((t, i) =>
                    d.integers?.[i] || t.rank === 0
                      ? t
                      : t
                          .permute(t.shape.map((_, a) => t.rank - 1 - a))
                          .contiguous()
                          .permute(t.shape.map((_, a) => t.rank - 1 - a)),
                  ),
                ),
              ).map((y) => (y.rank ? y.permute(y.shape.map((_, a) => y.rank - 1 - a)) : y)),
            inputs,
            { most: Math.min(most, 8) },
          )
        })
      }
      const floats = shapes.flatMap((s, i) => (count(s) && !d.integers?.[i] ? [i] : []))
      if (nan && floats.length && listed(d.oracle(...nds)).some((y) => y.data.length))
        test(`${title}: a NaN in gives the NaNs of the definition`, () => {
          for (const bad of floats) {
            const poisoned = draw(shapes, k)
            poisoned[bad]!.data[poisoned[bad]!.data.length >> 1] = Number.NaN
            const expected = listed(d.oracle(...poisoned))
            expect(expected.some((y) => y.data.some(Number.isNaN))).toBe(true)
            for (const dtype of ['float64', 'float32'] as const) {
              const inputs = poisoned.map(({ shape, data }, i) =>
                tensor(data, { shape, dtype: d.integers?.[i] ?? dtype }),
              )
              for (const [i, y] of run(inputs).entries()) {
                const got = numbers(y)
                for (const [at, e] of expected[i]!.data.entries())
                  expect(Number.isNaN(got[at]), `${dtype}: NaN in element ${at} of output ${i}`).toBe(Number.isNaN(e))
              }
            }
          }
        })
    })
  })
}
