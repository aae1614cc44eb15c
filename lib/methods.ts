// Gives every operation that starts with a tensor a method of the same name: gelu(x) is also x.gelu(). An op family that
// `ops/index.ts` exports is picked up from there.
import { backward } from './grad.ts'
import { native } from './native.ts'
import * as ops from './ops/index.ts'
import { cast } from './ops/view.ts'
import { type Device, type Dtype, deviceCode, record, Tensor } from './tensor.ts'

type Ops = typeof ops
type Method<F> = F extends (x: Tensor, ...rest: infer Rest) => infer Result ? (...rest: Rest) => Result : never
type Methods = { [K in Exclude<keyof Ops, 'cast'>]: Method<Ops[K]> }

declare module './tensor.ts' {
  interface Tensor<D extends Dtype = Dtype> extends Methods {
    /** A copy in another dtype; see `ops.cast`. */
    cast<E extends Dtype>(dtype: E): Tensor<E>
    /** The tensor in another dtype, on another device; itself where nothing changes. Gradients flow. */
    to<E extends Dtype = D>(options: { dtype?: E; device?: Device }): Tensor<E>
    /** Adds the gradient of this tensor to `grad` of every tensor with `requiresGrad` behind it; see `backward`. */
    backward(dy?: Tensor, options?: { retainGraph?: boolean }): void
  }
}

const methods: Record<string, (x: Tensor, ...rest: never[]) => unknown> = { ...ops, backward, to }

function to(x: Tensor, options: { dtype?: Dtype; device?: Device }): Tensor {
  const moved =
    options.device === undefined || deviceCode(options.device) === deviceCode(x.device)
      ? x
      : record('to', native.toDevice(x.handle, deviceCode(options.device)), [x], (dy) => [
          new Tensor(native.toDevice(dy.handle, deviceCode(x.device))),
        ])
  return options.dtype === undefined || options.dtype === moved.dtype ? moved : cast(moved, options.dtype)
}

for (const [name, op] of Object.entries(methods))
  Object.defineProperty(Tensor.prototype, name, {
    value(this: Tensor, ...rest: never[]) {
      return op(this, ...rest)
    },
    configurable: true,
    writable: true,
  })

export { Tensor }
