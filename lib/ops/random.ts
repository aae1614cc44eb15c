// Random numbers: counter-based (Philox4x32-10), so number i of a call depends only on the seed, on how many calls came
// before, and on i; not on the device, the number of threads or the dtype's width.
import { type Handle, native } from '../native.ts'
import { type Device, type Dtype, dtypeCode, keep, record, type Shape, Tensor } from '../tensor.ts'
import { getDefaultDevice, type TensorOptions, tensor } from './create.ts'

/** What random numbers come next: what a checkpoint needs to go on with the same ones. */
export interface GeneratorState {
  seed: number
  /** Calls so far. */
  counter: number
}

// The state as kernels see it, int64 [2] {seed, calls before}, and the calls since. A state in use is never changed: `seed`
// makes another one, so a graph that waits for its backward still finds its numbers.
interface Generator {
  readonly seed: number
  readonly base: number
  readonly states: Map<Device, Tensor<'int64'>>
  calls: number
}
const fresh = (seed: number, base: number): Generator => ({ seed, base, states: new Map(), calls: 0 })
let current = fresh(0, 0)

function whole(n: number, what: string): void {
  if (!(Number.isSafeInteger(n) && n >= 0))
    throw new RangeError(`${what} is ${n}, but should be an integer from 0 to 2^53 - 1`)
}

/** Starts the random numbers anew. The first seed is 0. */
export function seed(n: number): void {
  whole(n, 'seed: the seed')
  current = fresh(n, 0)
}

export const generatorState = (): GeneratorState => ({ seed: current.seed, counter: current.base + current.calls })

/** Goes on from a state of `generatorState()`. */
export function setGeneratorState(state: GeneratorState): void {
  whole(state.seed, 'setGeneratorState: seed')
  whole(state.counter, 'setGeneratorState: counter')
  current = fresh(state.seed, state.counter)
}

/** The generator as it stands, for `withGenerator`. @internal */
export const currentGenerator = (): Generator => ({ ...current })

/** Runs `fn`, not async, with the random numbers that came after `generator` was taken. @internal */
export function withGenerator<R>(generator: Generator, fn: () => R): R {
  const before = current
  current = { ...generator }
  try {
    return fn()
  } finally {
    current = before
  }
}

// The state tensor and the number of the next call.
function next(device: Device): [Tensor, number] {
  let state = current.states.get(device)
  if (!state || state.disposed) {
    state = keep(tensor([current.seed, current.base], { dtype: 'int64', device }))
    current.states.set(device, state)
  }
  return [state, current.calls++]
}

// A tensor from the next call's numbers.
function drawn<D extends Dtype>(
  options: TensorOptions<D>,
  otherwise: Dtype,
  draw: (dtype: number, state: Handle, call: number) => Handle,
): Tensor<D> {
  const [state, call] = next(options.device ?? getDefaultDevice())
  const t = new Tensor<D>(draw(dtypeCode(options.dtype ?? otherwise), state.handle, call))
  t.requiresGrad = options.requiresGrad ?? false
  return t
}

/** Uniform in [low, high), by default [0, 1). 24 random bits a number (float64: 32, float16: 11, bfloat16: 8). */
export function rand<D extends Dtype = 'float32'>(
  shape: Shape,
  options: TensorOptions<D> & { low?: number; high?: number } = {},
): Tensor<D> {
  const { low = 0, high = 1 } = options
  return drawn(options, 'float32', (dtype, state, call) => native.rand(shape, dtype, state, call, low, high))
}

/** Normal, by default with mean 0 and standard deviation 1. */
export function randn<D extends Dtype = 'float32'>(
  shape: Shape,
  options: TensorOptions<D> & { mean?: number; std?: number } = {},
): Tensor<D> {
  const { mean = 0, std = 1 } = options
  return drawn(options, 'float32', (dtype, state, call) => native.randn(shape, dtype, state, call, mean, std))
}

/**
 * Normal with mean 0, cut at `cutoff` standard deviations (default 2): what lies beyond is drawn anew. `std` (default 1) is
 * the deviation before the cut.
 */
export function truncatedNormal<D extends Dtype = 'float32'>(
  shape: Shape,
  options: TensorOptions<D> & { std?: number; cutoff?: number } = {},
): Tensor<D> {
  const { std = 1, cutoff = 2 } = options
  return drawn(options, 'float32', (dtype, state, call) =>
    native.truncatedNormal(shape, dtype, state, call, std, cutoff),
  )
}

/** Integers from `low` to below `high`, at most 2^32 different ones; int32 by default. */
export function randint<D extends 'int32' | 'int64' | 'uint8' = 'int32'>(
  low: number,
  high: number,
  shape: Shape,
  options: TensorOptions<D> = {},
): Tensor<D> {
  return drawn(options, 'int32', (dtype, state, call) => native.randint(shape, dtype, state, call, low, high))
}

/**
 * Each element is 0 with probability `p` (default 0.5), else divided by 1 - p. With `training: false`, x itself.
 * @throws Error if p is not between 0 and 1
 */
export function dropout(x: Tensor, options: { p?: number; training?: boolean } = {}): Tensor {
  const { p = 0.5, training = true } = options
  if (!(p >= 0 && p <= 1)) throw new RangeError(`dropout: p is ${p}, but should lie between 0 and 1`)
  if (!training || p === 0) return x
  const [state, call] = next(x.device)
  return record('dropout', native.dropout(x.handle, state.handle, call, p), [x], (dy) => [
    new Tensor(native.dropout(dy.handle, state.handle, call, p)),
  ])
}

/**
 * The random numbers of a step that is recorded once and replayed: their state stays at one place on the device. @internal
 */
export class StepGenerator {
  readonly #device: Device
  readonly #state: Tensor<'int64'>
  #calls = 0

  constructor(device: Device) {
    this.#device = device
    this.#state = keep(tensor([0, 0], { dtype: 'int64', device }))
  }

  /** Runs `fn`, not async, which draws from the place. */
  record<R>(fn: () => R): R {
    const before = current
    current = { seed: 0, base: 0, states: new Map([[this.#device, this.#state]]), calls: 0 }
    try {
      return fn()
    } finally {
      this.#calls = current.calls
      current = before
    }
  }

  /** Before each replay: it draws the numbers that come next, which then count as drawn. */
  advance(): void {
    const { seed, counter } = generatorState()
    native.write(this.#state.handle, BigInt64Array.of(BigInt(seed), BigInt(counter)))
    current.calls += this.#calls
  }

  dispose(): void {
    this.#state.dispose()
  }
}
