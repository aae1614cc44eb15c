// The public surface and nothing else.
export { DeviceDataError, DisposedError, OutOfMemoryError } from './errors.ts'
export { backward, customOp, grad, valueAndGrad } from './grad.ts'
export { Tensor } from './methods.ts'
export { arange, full, ones, setDefaultDevice, tensor, zeros } from './ops/create.ts'
export * as ops from './ops/index.ts'
export * as optim from './optim/index.ts'
export type { Device, Dtype, Shape } from './tensor.ts'
export { keep, memory, noGrad, scope } from './tensor.ts'
