// Values that PyTorch computed (test/golden/ops), and the comparison that tests make with them.
import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import { native } from '../lib/native.ts'
import { tensor } from '../lib/ops/create.ts'
import { type Dtype, fromBits, type Tensor } from '../lib/tensor.ts'

/** Flat values with their shape. */
export interface Values {
  data: Float64Array
  shape: number[]
}

/** The tensors and the settings of test/golden/ops/`name`.safetensors. */
export function golden(name: string): { values: Record<string, Values>; settings: Record<string, string> } {
  const bytes = readFileSync(new URL(`golden/ops/${name}.safetensors`, import.meta.url))
  const head = Number(bytes.readBigUInt64LE(0))
  const { __metadata__: settings = {}, ...entries } = JSON.parse(bytes.toString('utf8', 8, 8 + head))
  const values: Record<string, Values> = {}
  for (const [key, entry] of Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(
    entries,
  )) {
    const [from, to] = entry.data_offsets
    const copy = bytes.subarray(8 + head + from, 8 + head + to)
    const { buffer } = new Uint8Array(copy)
    if (entry.dtype !== 'F64' && entry.dtype !== 'I32') throw new Error(`${name}: ${key} is ${entry.dtype}`)
    const data = entry.dtype === 'I32' ? Float64Array.from(new Int32Array(buffer)) : new Float64Array(buffer)
    values[key] = { shape: entry.shape, data }
  }
  return { values, settings }
}

/** The tensor of given values, as a leaf that collects a gradient. */
export const leaf = (from: Values, dtype: Dtype = 'float64'): Tensor =>
  tensor(from.data, { shape: from.shape, dtype, requiresGrad: true })

/** Values that follow from `seed` alone, between -1 and 1. */
export function noise(shape: number[], seed: number): Values {
  let state = (seed * 2654435761 + 12345) >>> 0
  const data = Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state >>> 8) / 2 ** 23 - 1
  })
  return { data, shape }
}

/**
 * The largest difference, relative to the largest expected value, is at most `tolerance`; no NaN on either side.
 * For tensors that are not float64 the default tolerance is what float32 arithmetic allows.
 */
export function expectClose(actual: Tensor | null | undefined, expected: Values, tolerance?: number, what = ''): void {
  if (!actual) throw new Error(`${what}: there is no tensor to compare`)
  const allowed = tolerance ?? (actual.dtype === 'float64' ? 1e-12 : 4e-6)
  expect(actual.shape, `${what} shape`).toEqual(expected.shape)
  const got = actual.dataSync() as Float64Array
  let largest = 0
  for (const v of expected.data) largest = Math.max(largest, Math.abs(v))
  let worst = 0
  let at = -1
  for (let i = 0; i < got.length && !Number.isNaN(worst); i++) {
    const error = Math.abs(Number(got[i]) - expected.data[i]!)
    if (error <= worst) continue
    worst = error
    at = i
  }
  const limit = allowed * (largest || 1)
  expect(
    worst <= limit,
    `${what} element ${at}: ${got[at]} but should be ${expected.data[at]} (off by ${worst}, allowed ${limit})`,
  ).toBe(true)
}

/**
 * Sums of many terms that cancel, as the gradients of coefficients are: each difference is small beside `terms`, the sums of
 * their absolute values.
 */
export function expectSums(actual: Tensor | null, expected: Values, terms: readonly number[], what: string): void {
  const got = numbers(actual)
  expect(actual!.shape, `${what} shape`).toEqual(expected.shape)
  expect(terms.length, `${what}: terms`).toBe(got.length)
  const allowed = actual!.dtype === 'float64' ? 1e-13 : 1e-6
  for (let i = 0; i < terms.length; i++) {
    const error = Math.abs(got[i]! - expected.data[i]!) / (terms[i]! || 1)
    expect(error, `${what}[${i}] is ${got[i]}, should be ${expected.data[i]}`).toBeLessThanOrEqual(allowed)
  }
}

/** The elements as numbers, those of 16-bit floats decoded. */
export const numbers = (t: Tensor | null): number[] => {
  const { dtype } = t!
  if (dtype !== 'bfloat16' && dtype !== 'float16') return Array.from(t!.dataSync() as ArrayLike<number>, Number)
  return Array.from(t!.dataSync() as Uint16Array, (bits) => fromBits(dtype, bits))
}

/** What `fn` gives with one thread, which must be the same bits as with several. */
export function anyThreads<R>(fn: () => R): R {
  const before = native.threads()
  try {
    native.setThreads(1)
    const alone = fn()
    for (const threads of [2, 5]) {
      native.setThreads(threads)
      expect(fn()).toEqual(alone)
    }
    return alone
  } finally {
    native.setThreads(before)
  }
}
