// New tensors: from values, filled, and counted up.
import { native } from '../native.ts'
import {
  arrayFor,
  type Device,
  type Dtype,
  deviceCode,
  dtypeCode,
  dtypes,
  isFloating,
  type Shape,
  Tensor,
} from '../tensor.ts'

export interface TensorOptions<D extends Dtype = Dtype> {
  /** Default float32; for values that are a typed array, its own type. */
  dtype?: D
  /** Default the device of `setDefaultDevice`, at first 'cpu'. */
  device?: Device
  requiresGrad?: boolean
}

/** Numbers nested to any depth, a typed array, or one number. */
export type Values = number | bigint | boolean | NodeJS.TypedArray | readonly Values[]

let defaultDevice: Device = 'cpu'
/** Where tensors are made when no device is given. */
export const setDefaultDevice = (device: Device): void => {
  deviceCode(device)
  defaultDevice = device
}
export const getDefaultDevice = (): Device => defaultDevice

/** Encodes a number as the bits of a bfloat16 or float16, to nearest, ties to even. */
function toBits(dtype: 'bfloat16' | 'float16', value: number): number {
  const t = tensor([value], { dtype: 'float32', device: 'cpu' })
  const cast = new Tensor(native.cast(t.handle, dtypeCode(dtype)))
  const bits = (cast.dataSync() as Uint16Array)[0]!
  t.dispose()
  cast.dispose()
  return bits
}

function finish<D extends Dtype>(handle: ReturnType<typeof native.empty>, options: TensorOptions): Tensor<D> {
  const t = new Tensor<D>(handle)
  if (options.requiresGrad) {
    if (!isFloating(t.dtype)) throw new TypeError(`a tensor of ${t.dtype} cannot require a gradient`)
    t.requiresGrad = true
  }
  return t
}

function shapeOf(values: Values): number[] {
  const shape: number[] = []
  for (let v: Values | undefined = values; Array.isArray(v) || ArrayBuffer.isView(v); v = (v as readonly Values[])[0]) {
    shape.push((v as ArrayLike<unknown>).length)
    if (ArrayBuffer.isView(v)) break
  }
  return shape
}

function dtypeOf(values: Values): Dtype {
  if (values instanceof Float64Array) return 'float64'
  if (values instanceof Int32Array) return 'int32'
  if (values instanceof BigInt64Array) return 'int64'
  if (values instanceof Uint8Array) return 'uint8'
  return typeof values === 'boolean' ? 'bool' : 'float32'
}

/**
 * A tensor of the given values. Its shape is that of the nesting, or `shape` for flat values.
 * bfloat16 and float16 take numbers, or a Uint16Array of their bits.
 * @throws TypeError if the values are ragged or do not fill the shape
 */
export function tensor<D extends Dtype = 'float32'>(
  values: Values,
  options: TensorOptions<D> & { shape?: Shape } = {},
): Tensor<D> {
  const dtype = options.dtype ?? dtypeOf(values)
  const code = dtypeCode(dtype)
  const nested = shapeOf(values)
  const shape = options.shape ?? nested
  const count = shape.reduce((n, d) => n * d, 1)
  const half = dtype === 'bfloat16' || dtype === 'float16'
  if (half && !(values instanceof Uint16Array)) {
    const wide = tensor(values, { ...options, dtype: 'float32', shape, requiresGrad: false })
    const t = finish<D>(native.cast(wide.handle, code), options)
    wide.dispose()
    return t
  }
  const flat = arrayFor(dtype, count) as unknown as {
    [i: number]: number | bigint
    set(a: unknown): void
    length: number
  }
  if (ArrayBuffer.isView(values)) {
    const from = values as unknown as ArrayLike<number | bigint>
    if (from.length !== count)
      throw new TypeError(`tensor: ${from.length} values do not fill the shape [${shape.join(', ')}]`)
    if (dtype === 'int64' && !(values instanceof BigInt64Array))
      for (let i = 0; i < count; i++) flat[i] = BigInt(from[i]!)
    else if (dtype === 'bool') for (let i = 0; i < count; i++) flat[i] = from[i] ? 1 : 0
    else if (values instanceof BigInt64Array && dtype !== 'int64')
      for (let i = 0; i < count; i++) flat[i] = Number(from[i])
    else flat.set(values)
  } else {
    let at = 0
    const put = (v: Values, depth: number): void => {
      if (Array.isArray(v) || ArrayBuffer.isView(v)) {
        const list = v as unknown as readonly Values[]
        if (list.length !== nested[depth])
          throw new TypeError(
            `tensor: the values are ragged: a list of ${list.length} stands beside one of ${nested[depth] ?? 'numbers'}`,
          )
        for (const one of list) put(one, depth + 1)
      } else {
        if (depth !== nested.length) throw new TypeError('tensor: the values are ragged: a number stands beside a list')
        if (at < count) flat[at] = dtype === 'int64' ? BigInt(v as number) : dtype === 'bool' ? (v ? 1 : 0) : Number(v)
        at++
      }
    }
    put(values, 0)
    if (at !== count) throw new TypeError(`tensor: ${at} values do not fill the shape [${shape.join(', ')}]`)
  }
  const handle = native.empty(shape, code, deviceCode(options.device ?? defaultDevice))
  native.write(handle, flat as unknown as NodeJS.TypedArray)
  return finish<D>(handle, options)
}

/** A tensor whose elements are all `value`. */
export function full<D extends Dtype = 'float32'>(
  shape: Shape,
  value: number,
  options: TensorOptions<D> = {},
): Tensor<D> {
  const code = dtypeCode(options.dtype ?? 'float32')
  return finish<D>(native.full(shape, value, code, deviceCode(options.device ?? defaultDevice)), options)
}

/** A tensor of zeros. */
export const zeros = <D extends Dtype = 'float32'>(shape: Shape, options: TensorOptions<D> = {}): Tensor<D> =>
  full(shape, 0, options)

/** A tensor of ones. */
export const ones = <D extends Dtype = 'float32'>(shape: Shape, options: TensorOptions<D> = {}): Tensor<D> =>
  full(shape, 1, options)

/**
 * `start`, `start + step`, ... below `end`, as one axis. With one argument: from 0. Default int32 if all are integers.
 * @throws RangeError if `step` is 0
 */
export function arange<D extends Dtype = Dtype>(
  startOrEnd: number,
  end?: number,
  options: TensorOptions<D> & { step?: number } = {},
): Tensor<D> {
  const [from, to] = end === undefined ? [0, startOrEnd] : [startOrEnd, end]
  const step = options.step ?? 1
  if (step === 0) throw new RangeError('arange: step should not be 0')
  const count = Math.max(0, Math.ceil((to - from) / step))
  const whole = [from, to, step].every(Number.isInteger)
  const dtype = options.dtype ?? (whole ? 'int32' : 'float32')
  const device = deviceCode(options.device ?? defaultDevice)
  return finish<D>(native.arange(from, step, count, dtypeCode(dtype), device), options)
}

/** A tensor of the shape, dtype and device of `x`, filled with `value`. @internal */
export const fullLike = <D extends Dtype>(x: Tensor<D>, value: number): Tensor<D> =>
  full(x.shape, value, { dtype: x.dtype, device: x.device })

/** `x` if it is a tensor, else a scalar of `like`'s device and, if the number fits it, dtype. @internal */
export const asTensor = (x: Tensor | number, like: Tensor): Tensor =>
  x instanceof Tensor
    ? x
    : full([], x, {
        dtype:
          isFloating(like.dtype) || Number.isInteger(x) ? (like.dtype === 'bool' ? 'int32' : like.dtype) : 'float32',
        device: like.device,
      })

export { dtypes, toBits }
