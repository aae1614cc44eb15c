// Parameters, gradients and what an optimiser remembers about them, each as one flat buffer: zeroing, the global norm,
// the update and an all-reduce are then one call, not one for each parameter.
import { native } from '../native.ts'
import { zeros } from '../ops/create.ts'
import { type Dtype, keep, type Shape, Tensor } from '../tensor.ts'

const itemSize: Partial<Record<Dtype, number>> = { float64: 8, float32: 4, bfloat16: 2, float16: 2 }

/** A parameter and where it lies in its buffers. */
interface Slot {
  readonly name: string
  readonly param: Tensor
  readonly shape: Shape
  readonly offset: number
}

/** Parameters of one dtype on one device. Making one moves them, and their gradients, into the buffers. */
export class Flat {
  /** What is updated: the parameters themselves, or for 16-bit ones a float32 copy of them. */
  readonly master: Tensor
  /** The parameters, if they have 16 bits. */
  readonly half: Tensor | null
  /** The gradients, in the dtype of `master`. */
  readonly grad: Tensor
  readonly slots: readonly Slot[]
  readonly #grads: (Tensor | null)[]

  constructor(params: ReadonlyMap<string, Tensor>) {
    const first = params.values().next().value!
    const { dtype, device } = first
    const align = 64 / itemSize[dtype]! // windows begin on a cache line
    let size = 0
    this.slots = [...params].map(([name, param]) => {
      const offset = size
      size += Math.ceil(param.size / align) * align
      return { name, param, shape: param.shape, offset }
    })
    const flat = keep(zeros([size], { dtype, device }))
    const wide = dtype === 'float64' ? 'float64' : 'float32'
    this.half = dtype === wide ? null : flat
    for (const { param, offset } of this.slots) {
      const place = windowOf(flat, param.shape, offset)
      native.assign(param.handle, place.handle)
      param.exchange(place)
      place.dispose() // the memory that the parameter had
    }
    this.master = this.half ? keep(zeros([size], { dtype: wide, device })) : flat
    if (this.half) native.assign(flat.handle, this.master.handle)
    this.grad = keep(zeros([size], { dtype: wide, device }))
    this.#grads = this.slots.map(() => null)
    this.collect()
  }

  /** Another buffer of the same layout, filled with zeros. */
  like(): Tensor {
    return keep(zeros(this.master.shape, { dtype: this.master.dtype, device: this.master.device }))
  }

  /** Each parameter's window on a buffer of this layout. */
  windows(buffer: Tensor): [name: string, window: Tensor][] {
    return this.slots.map(({ name, shape, offset }) => [name, windowOf(buffer, shape, offset)])
  }

  zeroGrad(): void {
    native.assignValue(0, this.grad.handle)
    this.#attach(false)
  }

  /** Brings gradients back into the buffer that somebody has put elsewhere; one that was set to null is zero. */
  collect(): void {
    this.#attach(true)
  }

  #attach(copy: boolean): void {
    this.slots.forEach(({ param, shape, offset }, i) => {
      const { grad } = param
      if (grad !== null && grad === this.#grads[i] && !grad.disposed) return
      const place = windowOf(this.grad, shape, offset)
      if (copy && grad && !grad.disposed) native.assign(grad.handle, place.handle)
      else if (copy) native.assignValue(0, place.handle)
      this.#grads[i] = place
      param.grad = place
    })
  }
}

/** Elements from `offset` on, seen through a shape; no scope disposes of it. */
function windowOf(flat: Tensor, shape: Shape, offset: number): Tensor {
  return keep(new Tensor(native.windowOf(flat.handle, shape, offset)))
}
