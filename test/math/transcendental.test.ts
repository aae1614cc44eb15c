// The float32 forms of exp, log, tanh and erf against float64, in units in the last place, over all float32 there are.
import { expect, test } from 'vitest'
import { tensor } from '../../lib/ops/create.ts'
import * as ops from '../../lib/ops/elementwise.ts'
import { erf } from '../reference.ts'

/** Every `stride`-th float32 by its bits, and the edges. */
function sweep(stride: number): Float32Array {
  const bits: number[] = []
  for (let b = 0; b < 2 ** 32; b += stride) bits.push(b)
  const edges = [0, -0, 1e-45, -1e-45, 1.17549421e-38, Infinity, -Infinity, Number.NaN, 1, -1, 3.4028235e38]
  const around = [88.72283, 88.72284, -87.33655, -103.97, -103.98, -104, 0.625, 0.92773, 4, -4, 9.01, 9.02, 65504]
  const sweep = new Float32Array(Uint32Array.from(bits).buffer)
  return Float32Array.of(...edges, ...around, ...sweep)
}

/** The distance of neighbouring float32 numbers at x. */
const unit = (x: number): number => 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x))), -126) - 23)

function worst(x: Float32Array, y: Float32Array, f: (x: number) => number): { error: number; at: number } {
  let most = { error: 0, at: 0 }
  x.forEach((v, i) => {
    const want = f(v)
    const nearest = Math.fround(want)
    if (Number.isNaN(want) || !Number.isFinite(nearest) || want === 0) {
      if (!Object.is(y[i], nearest)) expect.fail(`f(${v}) is ${y[i]}, should be ${nearest}`)
      return
    }
    const error = Math.abs(y[i]! - want) / unit(nearest === 0 ? 1e-45 : want)
    if (!(error <= most.error)) most = { error, at: v }
  })
  return most
}

const cases: [string, (x: number) => number, number, number][] = [
  ['exp', Math.exp, 40_009, 1.1],
  ['log', Math.log, 40_009, 1],
  ['tanh', Math.tanh, 40_009, 1.5],
  ['sqrt', Math.sqrt, 400_009, 0.51],
  ['sin', Math.sin, 400_009, 1],
  ['cos', Math.cos, 400_009, 1],
]
for (const [name, f, stride, allowed] of cases)
  test(`${name} in float32 is within ${allowed} units of the last place`, () => {
    const x = sweep(stride)
    const y = (ops as unknown as Record<string, typeof ops.exp>)[name]!(tensor(x)).dataSync() as Float32Array
    const { error, at } = worst(x, y, f)
    expect(error, `at ${at}`).toBeLessThanOrEqual(allowed)
  })

test('erf in float32, seen through gelu', () => {
  // gelu(x) = x (1 + erf(x / sqrt(2))) / 2 for x > 0 keeps the relative error of erf.
  const x = sweep(400_009).filter((v) => v > 1e-30 && v < 1e30)
  const y = ops.gelu(tensor(x)).dataSync() as Float32Array
  const { error, at } = worst(x, y, (v) => (v * (1 + erf(v / Math.SQRT2))) / 2)
  expect(error, `at ${at}`).toBeLessThanOrEqual(2.5)
  expect([...(ops.gelu(tensor([0, Number.NaN, Infinity])).dataSync() as Float32Array)]).toEqual([
    0,
    Number.NaN,
    Infinity,
  ])
})

test('long and short runs give the same numbers', () => {
  const x = sweep(4_000_037)
  const { exp, log, tanh, gelu, sigmoid, silu } = ops
  for (const f of [exp, log, tanh, gelu, sigmoid, silu]) {
    const all = f(tensor(x)).dataSync() as Float32Array
    const some = Array.from({ length: 300 }, (_, i) => (f(tensor(x.slice(i, i + 1))).dataSync() as Float32Array)[0])
    expect(some).toEqual([...all.subarray(0, 300)])
  }
})
