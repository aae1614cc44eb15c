// What can be measured: a piece of work, the least that it has to do, how it is run, and how it is seen to be right.
import { native } from '../native.ts'
import { tensor } from '../ops/create.ts'
import { randn } from '../ops/random.ts'
import { type Device, type Dtype, noGrad, type Shape, Tensor } from '../tensor.ts'

/** The dtypes that work is measured in. */
export type BenchDtype = 'float32' | 'bfloat16' | 'float16'

/** One thing to measure. */
export interface Work {
  /** What it does: `polyNorm forward`. */
  name: string
  /** Its sizes as a reader writes them: `8192 x 8256`. */
  shape: string
  dtype: BenchDtype
  /** The fewest bytes it must move: each input read once, each output written once. */
  bytes: number
  /** Floating-point operations of its matrix products, a multiplication and an addition counted as two; else 0. */
  operations: number
  /** Queues one run on set `set` of its buffers; its results are freed. */
  run(set: number): void
  /** How many sets of buffers there are: together larger than the caches. */
  sets: number
  /** Compares results with an oracle in float64. @throws Error naming the first element that is off */
  check(): void
  /** Other ways to do it, or parts of it, on this device; measured in turns with it. */
  beside?: Readonly<Record<string, (set: number) => void>>
  /** What the program of scripts/bench-peer.py is asked for, or undefined where it has nothing like it. */
  peer?: Readonly<Record<string, unknown>>
}

/** Where and on what a case is measured. */
export interface Place {
  device: Device
  dtype: BenchDtype
}

export const bytesOf = (dtype: BenchDtype): number => (dtype === 'float32' ? 4 : 2)

/** So many sets of buffers that a run finds nothing of its own in the caches (60 MB of L2 on an H200). */
export const setsFor = (bytes: number): number => Math.min(16, Math.max(1, Math.ceil(192e6 / Math.max(bytes, 1))))

/** The tensors of each set, made by `make`. */
export const sets = <T>(count: number, make: () => T): T[] => Array.from({ length: count }, make)

/** Normal random numbers. */
export const normal = (shape: Shape, { device, dtype }: Place, std = 1): Tensor => randn(shape, { device, dtype, std })

/** float32 parameters of a few elements. */
export const small = (values: number[], device: Device): Tensor => tensor(values, { device })

/** Frees what native calls gave. */
export const free = (
  ...handles: (Parameters<typeof native.release>[0] | readonly Parameters<typeof native.release>[0][])[]
): void => {
  for (const handle of handles.flat()) native.release(handle as Parameters<typeof native.release>[0])
}

/** Some rows of a tensor seen as [rows, its last axis], in float64. */
export function rowsAt(t: Tensor, rows: readonly number[]): Float64Array[] {
  const cols = t.shape.at(-1) ?? 1
  const all = t.size / cols
  return noGrad(() => {
    const flat = new Tensor(native.reshape(t.handle, [all, cols]))
    return rows.map((row) => {
      const one = new Tensor(native.slice(flat.handle, 0, row, row + 1, 1))
      const wide = new Tensor(native.cast(one.handle, 1))
      const data = wide.dataSync<'float64'>()
      one.dispose()
      wide.dispose()
      return data
    })
  })
}

/** `count` rows of `all`, spread over them, the first and the last among them. */
export const spread = (all: number, count = 5): number[] => [
  ...new Set(
    Array.from({ length: Math.min(count, all) }, (_, i) =>
      Math.round((i * (all - 1)) / Math.max(1, Math.min(count, all) - 1)),
    ),
  ),
]

const allowed: Readonly<Record<BenchDtype, number>> = { float32: 1e-4, bfloat16: 2 ** -6, float16: 2 ** -9 }

/** @throws Error unless each element is within the dtype's tolerance of the largest expected one; a NaN never is */
export function expectNear(got: ArrayLike<number>, expected: ArrayLike<number>, dtype: Dtype, what: string): void {
  let largest = 0
  for (let i = 0; i < expected.length; i++) largest = Math.max(largest, Math.abs(expected[i]!))
  const tolerance = (allowed[dtype as BenchDtype] ?? 1e-6) * largest
  if (got.length !== expected.length) throw new Error(`${what} has ${got.length} elements, expected ${expected.length}`)
  for (let i = 0; i < expected.length; i++)
    if (!(Math.abs(got[i]! - expected[i]!) <= tolerance))
      throw new Error(`${what} is wrong: element ${i} is ${got[i]}, expected ${expected[i]} (within ${tolerance})`)
}

export const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}
