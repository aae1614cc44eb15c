// Hugging Face folders: their config.json to and from a ModelConfig.
import { type ModelConfig, modelConfig, modelRules } from '../nn/config.ts'
import { ConfigError, isRecord, show } from '../nn/fields.ts'

// What would change the numbers if it were passed over: the value that means "not used", and what we compute instead.
const unsupported: Record<string, { off: (v: unknown) => boolean; instead: string }> = {
  attention_bias: { off: (v) => v === false, instead: 'no biases' },
  mlp_bias: { off: (v) => v === false, instead: 'no biases' },
  rope_scaling: { off: (v) => isRecord(v) && (v.rope_type ?? v.type) === 'default', instead: 'plain RoPE' },
  rope_parameters: { off: (v) => isRecord(v) && (v.rope_type ?? 'default') === 'default', instead: 'plain RoPE' },
  partial_rotary_factor: { off: (v) => v === 1, instead: 'RoPE over the whole head' },
  clip_qkv: { off: () => false, instead: 'no clipping' },
}
// transformers would otherwise take its own models' ids, which are ordinary tokens here, for the end of a text.
const noTokens = { bos_token_id: null, eos_token_id: null, pad_token_id: null }
const actAliases: Record<string, string> = { gelu_pytorch_tanh: 'gelu_tanh', gelu_new: 'gelu_tanh' }

/**
 * Reads a Hugging Face folder's config.json, or one written by {@link toHuggingFace}. Unknown fields are passed over;
 * Hugging Face's `silu` is `swiglu`; `model_type: "olmoe"` has QK-norm and the experts' width in `intermediate_size`.
 * @param json the parsed file
 * @param where what errors call it, such as the file's path
 * @throws ConfigError for a known field with a bad value, and for one that asks for what is not computed here (biases, scaled RoPE)
 */
export function fromHuggingFace(json: unknown, where = 'config.json'): ModelConfig {
  if (!isRecord(json)) throw new ConfigError(where, ` is ${show(json)} but must be an object of fields`)
  for (const [name, { off, instead }] of Object.entries(unsupported)) {
    const value = json[name]
    if (value !== undefined && value !== null && !off(value))
      throw new ConfigError(`${where}.${name}`, ` is ${show(value)} but polygrad computes ${instead}`)
  }
  const fields: Record<string, unknown> = {}
  for (const name of Object.keys(modelRules))
    if (name !== 'preset' && json[name] !== undefined && json[name] !== null) fields[name] = json[name]
  if (isRecord(json.rope_parameters)) fields.rope_theta ??= json.rope_parameters.rope_theta ?? undefined
  if (fields.rope_theta === undefined) delete fields.rope_theta
  const act = fields.hidden_act
  fields.hidden_act = act === undefined ? 'swiglu' : ((typeof act === 'string' && actAliases[act]) ?? act)
  if (json.model_type === 'olmoe') fields.qk_norm ??= true
  return modelConfig(fields, where)
}

/**
 * The config.json of a model: every field of ModelConfig, and `model_type`. A SwiGLU model that transformers can run is
 * written as its `llama` or `olmoe`, with `hidden_act: "silu"`; any other has `model_type: "polygrad"`.
 */
export function toHuggingFace(config: ModelConfig): Record<string, unknown> {
  const { preset: _, ...fields } = config
  const plain = config.hidden_act === 'swiglu' && config.norm_type === 'rms' && config.hidden_dropout === 0
  const moe = config.num_experts > 0
  if (plain && !moe && !config.qk_norm)
    return { architectures: ['LlamaForCausalLM'], model_type: 'llama', ...fields, hidden_act: 'silu', ...noTokens }
  // OLMoE has no head_dim of its own and keeps the experts' width in intermediate_size.
  const olmoe = plain && moe && config.qk_norm && config.num_shared_experts === 0
  if (olmoe && config.head_dim * config.num_attention_heads === config.hidden_size)
    return {
      architectures: ['OlmoeForCausalLM'],
      model_type: 'olmoe',
      ...fields,
      intermediate_size: config.moe_intermediate_size,
      hidden_act: 'silu',
      ...noTokens,
    }
  return { model_type: 'polygrad', ...fields }
}
