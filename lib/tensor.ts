// A tensor is a native handle plus, when it was computed from others, where it came from.
import { context, type Owned, within } from './context.ts'
import { DisposedError } from './errors.ts'
import { type Handle, native } from './native.ts'

/** Element types, in the order of the native numbering. */
export const dtypes = ['float32', 'float64', 'bfloat16', 'float16', 'int32', 'int64', 'uint8', 'bool'] as const
export type Dtype = (typeof dtypes)[number]
export type Device = 'cpu' | 'cuda' | `cuda:${number}`
export type Shape = readonly number[]

/** What `data()` gives for each dtype. The 16-bit floats come as their bits. */
export interface ArrayOf {
  float32: Float32Array
  float64: Float64Array
  bfloat16: Uint16Array
  float16: Uint16Array
  int32: Int32Array
  int64: BigInt64Array
  uint8: Uint8Array
  bool: Uint8Array
}
/**
 * The dtype that `data()` assumes: where the compiler knows only that it is some dtype, any but int64, whose elements are
 * bigints and not numbers; `data<'int64'>()` says otherwise.
 */
export type Known<D extends Dtype> = Dtype extends D ? Exclude<Dtype, 'int64'> : D
const arrays = {
  float32: Float32Array,
  float64: Float64Array,
  bfloat16: Uint16Array,
  float16: Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bool: Uint8Array,
}

/** An uninitialised array that holds `count` elements of a dtype. */
export const arrayFor = <D extends Dtype>(dtype: D, count: number): ArrayOf[D] =>
  new arrays[dtype](count) as unknown as ArrayOf[D]

export const dtypeCode = (dtype: Dtype): number => {
  const code = dtypes.indexOf(dtype)
  if (code < 0) throw new TypeError(`there is no dtype '${dtype}'; the dtypes are ${dtypes.join(', ')}`)
  return code
}

/** 0 is the CPU, 1 + i the CUDA device i. */
export const deviceCode = (device: Device): number => {
  if (device === 'cpu') return 0
  const match = /^cuda(?::(\d+))?$/.exec(device)
  if (!match) throw new TypeError(`there is no device '${device}'; a device is 'cpu', 'cuda' or 'cuda:1'`)
  return 1 + Number(match[1] ?? 0)
}
const deviceName = (code: number): Device => (code === 0 ? 'cpu' : code === 1 ? 'cuda' : `cuda:${code - 1}`)

export const isFloating = (dtype: Dtype): boolean => dtypes.indexOf(dtype) <= dtypes.indexOf('float16')

/**
 * How tensors were computed. One node for each recorded operation; it has as many outputs as the operation.
 */
export interface Node {
  /** The operation's name, for errors. */
  readonly name: string
  inputs: readonly Tensor[]
  /** Tensors besides the inputs that `backward` needs. */
  saved: readonly Tensor[]
  readonly outputs: number
  /**
   * Gradients of the outputs (null where none arrived) to gradients of the inputs (null where none flows). `last`: the
   * graph is freed afterwards.
   */
  backward: ((dys: readonly (Tensor | null)[], last: boolean) => readonly (Tensor | null)[]) | null
}

/** The history of what has been disposed of: no gradient can be sent through it. @internal */
export const lost: Node = { name: 'disposed', inputs: [], saved: [], outputs: 1, backward: null }

// What native code tells of the tensors that a call has just returned, one row each: handle, dtype, device, rank, lengths.
// Asking for each would cost more than most calls.
const rowLength = 12
const results = new Float64Array(4 * rowLength)
native.setResults(results)

function rowOf(handle: Handle): number {
  for (let row = 0; row < results.length; row += rowLength) if (results[row] === handle) return row
  return -1
}

function lengthsAt(row: number): number[] {
  switch (results[row + 3]) {
    case 0:
      return []
    case 1:
      return [results[row + 4]!]
    case 2:
      return [results[row + 4]!, results[row + 5]!]
    case 3:
      return [results[row + 4]!, results[row + 5]!, results[row + 6]!]
    default:
      return Array.from(results.subarray(row + 4, row + 4 + results[row + 3]!))
  }
}

let created = 0
// Devices that tensors were made on.
const usedDevices = new Set([0])
/** The serial that the next tensor will get. @internal */
export const nextSerial = (): number => created

/**
 * An n-dimensional array on a device. Operations on it are methods (`x.add(y)`) and functions (`ops.add(x, y)`) alike;
 * they return at once and the work is queued; only `data()`, `item()` and their `Sync` forms wait.
 */
export class Tensor<D extends Dtype = Dtype> {
  #handle: Handle
  #shape: Shape
  #dtype: D
  #device: number
  #disposed = false
  // The scope that will dispose of it, and its place there.
  #owner: Owned | undefined
  #place = 0
  /** Counts up with every tensor made. @internal */
  readonly serial: number = created++
  /** Where it came from; null for a tensor that was not computed under a gradient. @internal */
  node: Node | null = null
  /** Which output of its node it is. @internal */
  output = 0
  /** Whether `backward()` collects a gradient in `grad`. */
  requiresGrad = false
  /** The gradient that `backward()` has added up; null before. */
  grad: Tensor | null = null

  /** @internal */
  constructor(handle: Handle) {
    this.#handle = handle
    const row = rowOf(handle)
    if (row >= 0) {
      this.#dtype = dtypes[results[row + 1]!] as D
      this.#device = results[row + 2]!
      this.#shape = lengthsAt(row)
    } else {
      this.#dtype = dtypes[native.dtypeOf(handle)] as D
      this.#device = native.deviceOf(handle)
      this.#shape = native.shapeOf(handle)
    }
    if (this.#device !== 0) usedDevices.add(this.#device)
    this.#owner = undefined
    const owned = context().owned
    if (owned && !owned.ended) this.#joins(owned)
    else native.attach(handle, this)
  }

  // A scope holds its tensors, so what is in one need not be found dead by the sweep.
  #joins(owned: Owned): void {
    this.#owner = owned
    this.#place = owned.tensors.length
    owned.tensors.push(this)
  }

  /** Whether the scope that runs now will dispose of it. @internal */
  get owned(): boolean {
    return this.#owner !== undefined && this.#owner === context().owned
  }

  /** Moves it to another scope, or out of all. @internal */
  moveTo(owned: Owned | undefined): void {
    if (this.#disposed) return
    if (this.#owner) this.#owner.tensors[this.#place] = undefined
    else if (owned === undefined) return
    this.#owner = undefined
    if (owned && !owned.ended) this.#joins(owned)
    else native.attach(this.#handle, this)
  }

  /** @internal */
  get handle(): Handle {
    if (this.#disposed)
      throw new DisposedError(
        this.node && this.node !== lost
          ? 'the tensor has been given up: its gradient was written over it'
          : 'the tensor has been disposed',
      )
    return this.#handle
  }

  /** The length of each axis. */
  get shape(): Shape {
    return this.#shape
  }

  get dtype(): D {
    return this.#dtype
  }

  get device(): Device {
    return deviceName(this.#device)
  }

  /** How many axes it has. */
  get rank(): number {
    return this.shape.length
  }

  /** How many elements it has. */
  get size(): number {
    let count = 1
    for (const length of this.#shape) count *= length
    return count
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /** Whether gradients flow through it: it requires one itself, or was computed from a tensor that does. @internal */
  get tracked(): boolean {
    return this.requiresGrad || this.node !== null
  }

  /** The elements in row-major order, once all queued work that they depend on is done. */
  async data<E extends Dtype = Known<D>>(): Promise<ArrayOf[E]> {
    return native.read(this.handle, arrayFor(this.dtype as Dtype as E, this.size))
  }

  /** As `data()`, but blocks the thread. */
  dataSync<E extends Dtype = Known<D>>(): ArrayOf[E] {
    return native.readSync(this.handle, arrayFor(this.dtype as Dtype as E, this.size))
  }

  /** The value of a tensor of one element, as a number. */
  async item(): Promise<number> {
    this.#expectOne()
    return valueAt(this.dtype, await this.data())
  }

  /** As `item()`, but blocks the thread. */
  itemSync(): number {
    this.#expectOne()
    return valueAt(this.dtype, this.dataSync())
  }

  #expectOne(): void {
    if (this.size !== 1)
      throw new RangeError(`item: the tensor should have one element, but its shape is [${this.shape.join(', ')}]`)
  }

  /** Frees its memory now (the memory lives on while another view of it does). Using it afterwards throws. */
  dispose(): void {
    if (this.#disposed) return
    native.release(this.#forget())
    if (this.#owner) this.#owner.tensors[this.#place] = undefined
  }

  /** Gives its memory back, but gradients still flow through it. @internal */
  giveUp(): void {
    const { node } = this
    this.dispose()
    this.node = node
  }

  #forget(): Handle {
    this.#disposed = true
    if (this.node) this.node = lost
    return this.#handle
  }

  /** Disposes of all tensors of a scope but those in `kept`, which go to `outer`. @internal */
  static close(owned: Owned, kept: ReadonlySet<unknown>, outer: Owned | undefined): void {
    owned.ended = true
    const handles: Handle[] = []
    for (const one of owned.tensors as (Tensor | undefined)[]) {
      if (one === undefined) continue
      if (kept.has(one)) one.moveTo(outer)
      else handles.push(one.#forget())
    }
    if (handles.length) native.releaseAll(handles)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** The same memory without a history. */
  detach(): Tensor<D> {
    return new Tensor<D>(native.alias(this.handle))
  }

  /** Takes over the memory of `other`, which gets this tensor's. Both must have one shape and dtype. @internal */
  exchange(other: Tensor): void {
    native.swap(this.handle, other.handle)
  }
}

/** A bfloat16 or float16 from its bits. @internal */
export function fromBits(dtype: 'bfloat16' | 'float16', bits: number): number {
  if (dtype === 'bfloat16') return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024)
}

function valueAt(dtype: Dtype, data: ArrayOf[Dtype]): number {
  if (dtype === 'bfloat16' || dtype === 'float16') return fromBits(dtype, Number(data[0]))
  return Number(data[0])
}

/**
 * Wraps the result of a native call and, when a gradient can flow, remembers how to send it back to the inputs.
 * `saved` lists what `backward` uses besides the inputs, so that a scope keeps it alive; `last` as in `Node`.
 */
export function record(
  name: string,
  handle: Handle,
  inputs: readonly Tensor[],
  backward: (dy: Tensor, last: boolean) => readonly (Tensor | null)[],
  saved: readonly Tensor[] = [],
): Tensor {
  const y = new Tensor(handle)
  if (recorded(inputs)) y.node = { name, inputs, saved, outputs: 1, backward: ([dy], last) => backward(dy!, last) }
  return y
}

/** As `record`, for an operation with several outputs; gradients may arrive for some of them only. */
export function recordAll<N extends readonly Handle[]>(
  name: string,
  handles: N,
  inputs: readonly Tensor[],
  backward: (...dys: (Tensor | null)[]) => readonly (Tensor | null)[],
  saved: readonly Tensor[] = [],
): { [K in keyof N]: Tensor } {
  const ys = handles.map((handle) => new Tensor(handle))
  if (recorded(inputs)) {
    const node: Node = { name, inputs, saved, outputs: ys.length, backward: (dys) => backward(...dys) }
    ys.forEach((y, i) => {
      y.node = node
      y.output = i
    })
  }
  return ys as { [K in keyof N]: Tensor }
}

/** Whether an operation on these inputs is recorded: gradients are on and one of them is tracked. */
export const recorded = (inputs: readonly Tensor[]): boolean => {
  for (const input of inputs) if (input.requiresGrad || input.node !== null) return context().recording
  return false
}

/** Whether two shapes are the same. @internal */
export const sameShape = (a: Shape, b: Shape): boolean => {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

let collecting = false

/** Runs `fn`, in which operations may add to the gradients of leaves themselves, or may not. @internal */
export function collectingInPlace<R>(allowed: boolean, fn: () => R): R {
  const before = collecting
  collecting = allowed
  try {
    return fn()
  } finally {
    collecting = before
  }
}

/**
 * Where the backward function of an operation may add the gradient of its input `t` itself, in `dtype`; it then returns
 * null for it. null: there is no such place, return the gradient. @internal
 */
export function gradientInPlace(t: Tensor, dtype: Dtype): Tensor | null {
  const { grad } = t
  if (!collecting || t.node !== null || !t.requiresGrad || !grad || grad.disposed || grad.dtype !== dtype) return null
  let step = 1
  const strides = native.stridesOf(grad.handle)
  for (let axis = strides.length - 1; axis >= 0; axis--) {
    if (grad.shape[axis] !== 1 && strides[axis] !== step) return null
    step *= grad.shape[axis]!
  }
  return grad
}

/** Runs `fn` (async too) without recording gradients. */
export const noGrad = <R>(fn: () => R): R => within({ recording: false }, fn)

/** Runs `fn` with gradients recorded, also inside `noGrad`. */
export const withGrad = <R>(fn: () => R): R => within({ recording: true }, fn)

/**
 * Runs `fn` (async too) and then disposes of every tensor made in it, except what it returns (a tensor, or tensors in
 * arrays, objects, Maps and Sets), what the gradients of those need, and what `keep` was called on.
 */
export function scope<R>(fn: () => R): R {
  const owned: Owned = { tensors: [], ended: false }
  const outer = context().owned
  return within({ owned }, fn, (result) => {
    const kept = new Set<Tensor>()
    reach(result, kept)
    Tensor.close(owned, kept, outer)
  })
}

/** Takes a tensor out of the scope that would dispose of it: parameters, optimiser state. */
export function keep<T extends Tensor>(t: T): T {
  t.moveTo(undefined)
  return t
}

// All tensors in a value, with what their gradients need.
function reach(value: unknown, into: Set<Tensor>): void {
  const stack: unknown[] = [value]
  const seen = new Set<unknown>()
  while (stack.length) {
    const one = stack.pop()
    if (one === null || typeof one !== 'object' || seen.has(one) || ArrayBuffer.isView(one)) continue
    seen.add(one)
    if (one instanceof Tensor) {
      into.add(one)
      stack.push(one.grad, one.node)
    } else if (one instanceof Map) stack.push(...one.keys(), ...one.values())
    else if (one instanceof Set) stack.push(...one)
    else stack.push(...Object.values(one))
  }
}

/**
 * Waits until all queued work is done.
 * @throws DeviceDataError if a kernel met a value that only the device can see, such as an index out of range
 */
export async function synchronize(): Promise<void> {
  const last = [...usedDevices].map((code) => new Tensor(native.empty([], dtypeCode('float32'), code)))
  try {
    await Promise.all(last.map((t) => t.data()))
  } finally {
    for (const t of last) t.dispose()
  }
}

/**
 * Bytes in use and cached, over all threads of the process, and their peak; and this thread's live tensors, on all devices.
 * @param device default: the CPU and the GPU together
 */
export function memory(device?: Device): { inUse: number; cached: number; peak: number; tensors: number } {
  if (device !== undefined) return native.memory(deviceCode(device))
  const [cpu, gpu] = [native.memory(0), native.memory(1)]
  return {
    inUse: cpu.inUse + gpu.inUse,
    cached: cpu.cached + gpu.cached,
    peak: cpu.peak + gpu.peak,
    tensors: cpu.tensors,
  }
}
