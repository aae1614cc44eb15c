// What describes a transformer: config.json's fields, their rules and defaults, and the presets by name.
import { ConfigError, flag, integer, number, oneOf, orNull, type Rules, readField, readFields } from './fields.ts'

/** The activations of the feed-forward layer, by their names in config.json. */
export const activations = [
  'polynorm',
  'polyrelu',
  'polynorm_glu',
  'swiglu',
  'gelu',
  'gelu_tanh',
  'relu',
  'relu2',
] as const
/** The name of a feed-forward activation. */
export type HiddenAct = (typeof activations)[number]

/** Whether an activation multiplies by a second projection, so that the layer has a `gate_proj`. */
export const isGated = (act: HiddenAct): boolean => act === 'swiglu' || act === 'polynorm_glu'
/** Whether an activation has trained coefficients (`act_fn.weight`, `act_fn.bias`). */
export const isPolynomial = (act: HiddenAct): boolean => act.startsWith('poly')

/**
 * A transformer, with every default filled in. The names are those of Hugging Face's config.json; the same names stand in
 * RUN.json's `model` section. Make one with {@link modelConfig}, which checks it.
 */
export interface ModelConfig {
  /** The preset that the other fields started from, if any. */
  preset?: PresetName
  vocab_size: number
  hidden_size: number
  num_hidden_layers: number
  num_attention_heads: number
  /** Heads of keys and values; query heads share them in equal groups. Default: `num_attention_heads`. */
  num_key_value_heads: number
  /** Default: `hidden_size / num_attention_heads`. Even, for RoPE. */
  head_dim: number
  /** Width of a dense feed-forward layer. A MoE model without it has `moe_intermediate_size` here. */
  intermediate_size: number
  /** Default 1e-5. Also LayerNorm's, with `norm_type: "layer"`. */
  rms_norm_eps: number
  /** Default 10000. */
  rope_theta: number
  /** The longest sequence the model is meant for. Default 2048, or the run's `seq_len` if that is longer. */
  max_position_embeddings: number
  /** The output matrix is the embedding. Default false. */
  tie_word_embeddings: boolean
  /** Standard deviation of the normal initial weights. Default 0.02. */
  initializer_range: number
  /** Cut of the normal, in standard deviations; null (default): no cut. */
  initializer_cutoff: number | null
  /** Default `polynorm`. Hugging Face's `silu`, which has a gate, is read as `swiglu`. */
  hidden_act: HiddenAct
  /** Order of the polynomial activations, 1 to 8. Default 3. */
  poly_order: number
  /** PolyNorm's eps. Default 1e-6. */
  poly_eps: number
  /** Experts of each feed-forward layer; 0 (default): dense, and the fields on experts do not matter. */
  num_experts: number
  /** Experts a token goes to. Needed when there are experts. */
  num_experts_per_tok: number
  /** Width of one expert. Default: `intermediate_size`. */
  moe_intermediate_size: number
  /** Scale the chosen experts' weights to a sum of 1. Default false. */
  norm_topk_prob: boolean
  /** Coefficient of the load-balancing loss. Default 0.01. */
  router_aux_loss_coef: number
  /** Coefficient of the router's z-loss. Default 0.001. */
  router_z_loss_coef: number
  /** Experts that every token goes to. Default 0. */
  num_shared_experts: number
  /** Each expert has activation coefficients of its own. Default false. */
  act_per_expert: boolean
  /** Normalise queries and keys, over the whole projected row. Default false. */
  qk_norm: boolean
  /** Dropout after attention and feed-forward. Default 0. */
  hidden_dropout: number
  /** Default `rms`. */
  norm_type: 'rms' | 'layer'
}

/** The fields that a configuration may give; the rest is filled in. */
export type ModelConfigInput = Partial<ModelConfig>

/** The name of a preset. */
export type PresetName = 'polycom-dense-1b' | 'polycom-moe-1b-7b'

/** What a preset fills in. */
export interface Preset {
  fields: ModelConfigInput
  /** The width that has the same parameter count with a gate. */
  gated: Pick<ModelConfigInput, 'intermediate_size' | 'moe_intermediate_size'>
}

// "Polynomial Composition Activations" (arXiv 2411.03884), section 4 and appendix.
const presetTable = {
  'polycom-dense-1b': {
    fields: {
      vocab_size: 32000,
      hidden_size: 2048,
      num_hidden_layers: 24,
      num_attention_heads: 16,
      intermediate_size: 8256,
      max_position_embeddings: 4096,
      initializer_range: Math.sqrt(0.4 / 2048),
      hidden_act: 'polynorm',
    },
    gated: { intermediate_size: 5504 },
  },
  'polycom-moe-1b-7b': {
    fields: {
      vocab_size: 50304,
      hidden_size: 2048,
      num_hidden_layers: 16,
      num_attention_heads: 16,
      num_experts: 64,
      num_experts_per_tok: 8,
      moe_intermediate_size: 1536,
      router_aux_loss_coef: 0.01,
      router_z_loss_coef: 0.001,
      qk_norm: true,
      max_position_embeddings: 4096,
      initializer_range: 0.02,
      initializer_cutoff: 3,
      hidden_act: 'polynorm',
    },
    gated: { moe_intermediate_size: 1024 },
  },
} as const satisfies Record<PresetName, Preset>

/** The presets by name: the models of the paper on polynomial composition activations. */
export const presets: Readonly<Record<PresetName, Preset>> = presetTable

/** The rule of every field of config.json's model. */
export const modelRules: Rules<ModelConfig> = {
  preset: oneOf(Object.keys(presetTable) as PresetName[]),
  vocab_size: integer(1),
  hidden_size: integer(1),
  num_hidden_layers: integer(1),
  num_attention_heads: integer(1),
  num_key_value_heads: integer(1),
  head_dim: integer(1),
  intermediate_size: integer(1),
  rms_norm_eps: number({ above: 0 }),
  rope_theta: number({ above: 0 }),
  max_position_embeddings: integer(1),
  tie_word_embeddings: flag,
  initializer_range: number({ min: 0 }),
  initializer_cutoff: orNull(number({ above: 0 })),
  hidden_act: oneOf(activations, { silu: 'swiglu' }),
  poly_order: integer(1, 8),
  poly_eps: number({ above: 0 }),
  num_experts: integer(0),
  num_experts_per_tok: integer(1),
  moe_intermediate_size: integer(1),
  norm_topk_prob: flag,
  router_aux_loss_coef: number({ min: 0 }),
  router_z_loss_coef: number({ min: 0 }),
  num_shared_experts: integer(0),
  act_per_expert: flag,
  qk_norm: flag,
  hidden_dropout: number({ min: 0, below: 1 }),
  norm_type: oneOf(['rms', 'layer'] as const),
}

/**
 * Checks a model's fields, applies its preset and fills in the defaults.
 *
 * With a preset, a gated `hidden_act` takes the preset's gated width (the same parameter count, as the paper compares)
 * unless the width is given.
 * @param where what errors call the object: `model` in RUN.json
 * @throws ConfigError naming a field that is unknown, missing, of the wrong type, out of range, or at odds with another
 */
export function modelConfig(input: unknown, where = 'model', elsewhere: readonly string[] = []): ModelConfig {
  const given = readFields<ModelConfig>(input, modelRules, where, elsewhere)
  const preset = given.preset && presets[given.preset]
  const act = given.hidden_act ?? preset?.fields.hidden_act ?? 'polynorm'
  const fields: ModelConfigInput = { ...preset?.fields, ...(isGated(act) ? preset?.gated : undefined), ...given }

  const need = <K extends keyof ModelConfig>(name: K, note = ''): NonNullable<ModelConfig[K]> => {
    const value = fields[name]
    if (value === undefined || value === null)
      throw new ConfigError(`${where}.${name}`, ` is missing: it must be ${modelRules[name].what}${note}`)
    return value
  }
  const hidden = need('hidden_size')
  const heads = need('num_attention_heads')
  const moe = (fields.num_experts ?? 0) > 0
  const width = moe ? (fields.intermediate_size ?? fields.moe_intermediate_size) : need('intermediate_size')
  const config: ModelConfig = {
    ...(given.preset && { preset: given.preset }),
    vocab_size: need('vocab_size'),
    hidden_size: hidden,
    num_hidden_layers: need('num_hidden_layers'),
    num_attention_heads: heads,
    num_key_value_heads: fields.num_key_value_heads ?? heads,
    head_dim: fields.head_dim ?? hidden / heads,
    intermediate_size: width ?? need('moe_intermediate_size', ', since num_experts is not 0'),
    rms_norm_eps: fields.rms_norm_eps ?? 1e-5,
    rope_theta: fields.rope_theta ?? 10000,
    max_position_embeddings: fields.max_position_embeddings ?? 2048,
    tie_word_embeddings: fields.tie_word_embeddings ?? false,
    initializer_range: fields.initializer_range ?? 0.02,
    initializer_cutoff: fields.initializer_cutoff ?? null,
    hidden_act: act,
    poly_order: fields.poly_order ?? 3,
    poly_eps: fields.poly_eps ?? 1e-6,
    num_experts: fields.num_experts ?? 0,
    num_experts_per_tok:
      fields.num_experts_per_tok ?? (moe ? need('num_experts_per_tok', ', since num_experts is not 0') : 1),
    moe_intermediate_size: fields.moe_intermediate_size ?? width ?? 0,
    norm_topk_prob: fields.norm_topk_prob ?? false,
    router_aux_loss_coef: fields.router_aux_loss_coef ?? 0.01,
    router_z_loss_coef: fields.router_z_loss_coef ?? 0.001,
    num_shared_experts: fields.num_shared_experts ?? 0,
    act_per_expert: fields.act_per_expert ?? false,
    qk_norm: fields.qk_norm ?? false,
    hidden_dropout: fields.hidden_dropout ?? 0,
    norm_type: fields.norm_type ?? 'rms',
  }
  checkTogether(config, where, fields.head_dim !== undefined)
  return config
}

function checkTogether(c: ModelConfig, where: string, headDimGiven: boolean): void {
  const fail = (name: keyof ModelConfig, message: string): never => {
    throw new ConfigError(`${where}.${name}`, ` is ${c[name]} but ${message}`)
  }
  if (!headDimGiven && c.hidden_size % c.num_attention_heads !== 0)
    fail('num_attention_heads', `must divide hidden_size, ${c.hidden_size}; or give head_dim`)
  if (c.head_dim % 2 !== 0)
    fail(
      'head_dim',
      `must be even, since RoPE rotates pairs${headDimGiven ? '' : ' (it is hidden_size / num_attention_heads)'}`,
    )
  if (c.num_attention_heads % c.num_key_value_heads !== 0)
    fail('num_key_value_heads', `must divide num_attention_heads, ${c.num_attention_heads}`)
  if (c.num_experts > 0 && c.num_experts_per_tok > c.num_experts)
    fail('num_experts_per_tok', `must be at most num_experts, ${c.num_experts}`)
  if (c.num_experts > 0 && c.act_per_expert && !isPolynomial(c.hidden_act))
    fail('act_per_expert', `hidden_act "${c.hidden_act}" has no coefficients`)
}

/** Reads a preset's name; throws a ConfigError naming the nearest one. */
export const presetName = (name: string): PresetName => readField(name, modelRules.preset, 'preset') as PresetName
