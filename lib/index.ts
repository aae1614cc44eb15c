// The public surface and nothing else.
export * as data from './data/index.ts'
export { type CpuInfo, type CudaInfo, devices } from './devices.ts'
export { DeviceDataError, DisposedError, OutOfMemoryError } from './errors.ts'
export { type GenerateOptions, generate, generateText, type Piece, Sampler, type SamplingOptions } from './generate.ts'
export {
  backward,
  checkpoint,
  customOp,
  type GradcheckOptions,
  type GraphOptions,
  grad,
  gradcheck,
  valueAndGrad,
} from './grad.ts'
export * as io from './io/index.ts'
export { Tensor } from './methods.ts'
export * as nn from './nn/index.ts'
export { arange, full, ones, setDefaultDevice, type TensorOptions, tensor, type Values, zeros } from './ops/create.ts'
export * as ops from './ops/index.ts'
export {
  type GeneratorState,
  generatorState,
  rand,
  randint,
  randn,
  seed,
  setGeneratorState,
  truncatedNormal,
} from './ops/random.ts'
export * as optim from './optim/index.ts'
export type { ArrayOf, Device, Dtype, Known, Shape } from './tensor.ts'
export { dtypes, keep, memory, noGrad, scope, synchronize } from './tensor.ts'
export * as train from './train/index.ts'
