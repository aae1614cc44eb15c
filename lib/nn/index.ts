// polygrad/nn: modules, from single layers to the language model.
export { Activation, type ActivationOptions } from './activation.ts'
export { Attention, type AttentionConfig, type LayerCache } from './attention.ts'
export { Block, type BlockConfig } from './block.ts'
export {
  activations,
  type HiddenAct,
  isGated,
  isPolynomial,
  type ModelConfig,
  type ModelConfigInput,
  modelConfig,
  type Preset,
  type PresetName,
  presetName,
  presets,
} from './config.ts'
export { Dropout } from './dropout.ts'
export { Embedding } from './embedding.ts'
export { type FeedForward, type FfnConfig, feedForward, ffnConfig } from './ffn.ts'
export { ConfigError } from './fields.ts'
export { constant, type Init, normal, type TensorKind, uniform } from './init.ts'
export { Linear, type LinearOptions } from './linear.ts'
export { type DenseConfig, Mlp } from './mlp.ts'
export { Module, parameter, type StateDict } from './module.ts'
export { Experts, Moe, type MoeConfig, type Routing, StackedActivation, StackedLinear } from './moe.ts'
export { LayerNorm, type NormOptions, RMSNorm } from './norm.ts'
export { Decoder, KvCache, type Losses, Transformer, type TransformerOptions } from './transformer.ts'
