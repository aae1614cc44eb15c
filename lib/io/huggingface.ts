// Hugging Face folders: config.json to and from a ModelConfig, and their weights to and from a model.
import { join } from 'node:path'
import { native } from '../native.ts'
import { type ModelConfig, modelConfig, modelRules } from '../nn/config.ts'
import { ConfigError, isRecord, show } from '../nn/fields.ts'
import { constant } from '../nn/init.ts'
import type { Module } from '../nn/module.ts'
import { Transformer } from '../nn/transformer.ts'
import { cast, reshape, slice } from '../ops/index.ts'
import { type Device, type Dtype, noGrad, type Tensor } from '../tensor.ts'
import { readText, realDisk, replaceFile } from './disk.ts'
import { SafetensorsReader, saveModel, type TensorEntry } from './safetensors.ts'
import { readTensor, tensorEntry } from './tensors.ts'

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

// `...mlp.experts.up_proj.weight`, stacked in memory, is `...mlp.experts.0.up_proj.weight` and so on in files.
const stackedName = /^(.*\bexperts)\.(?!\d)(.+)$/

/**
 * Tensors by the names they have in files: each expert's matrices apart, views of the stacked ones. Other names stay, so
 * the optimiser's state goes through here too (`...experts.up_proj.weight.exp_avg`).
 */
export function fileTensors(tensors: ReadonlyMap<string, Tensor>): Map<string, Tensor> {
  const files = new Map<string, Tensor>()
  for (const [name, t] of tensors) {
    const stacked = stackedName.exec(name)
    if (!stacked) files.set(name, t)
    else
      noGrad(() => {
        const [experts, ...shape] = t.shape as [number, ...number[]]
        for (let e = 0; e < experts; e++)
          files.set(`${stacked[1]}.${e}.${stacked[2]}`, reshape(slice(t, 0, e, e + 1), shape))
      })
  }
  return files
}

/** The entries that {@link saveModel}, `writeModel` or a checkpoint writes for these tensors, experts apart. */
export const fileEntries = (tensors: ReadonlyMap<string, Tensor>): TensorEntry[] =>
  [...fileTensors(tensors)].map(([name, t]) => tensorEntry(name, t))

const list = (names: readonly string[]) =>
  names.length > 8 ? `${names.slice(0, 8).join(', ')} and ${names.length - 8} more` : names.join(', ')

/**
 * Fills tensors from an open file, by the names they have in files, converting types. Nothing is changed when a name is
 * missing or a shape differs.
 * @param options.passOver names that the file may have besides
 * @throws Error naming the file and every tensor that is missing, unexpected or of another shape
 */
export async function readInto(
  reader: SafetensorsReader,
  tensors: ReadonlyMap<string, Tensor>,
  options: { strict?: boolean; passOver?: (name: string) => boolean } = {},
): Promise<{ missing: string[]; unexpected: string[] }> {
  const targets = fileTensors(tensors)
  const passOver = options.passOver ?? (() => false)
  const missing = [...targets.keys()].filter((name) => !reader.tensors.has(name))
  const unexpected = [...reader.tensors.keys()].filter((name) => !targets.has(name) && !passOver(name))
  const problems: string[] = []
  if (options.strict ?? true) {
    if (missing.length) problems.push(`has no ${list(missing)}`)
    if (unexpected.length) problems.push(`has ${list(unexpected)}, which the model has not`)
  }
  for (const [name, to] of targets) {
    const from = reader.tensors.get(name)
    if (from && from.shape.join() !== to.shape.join())
      problems.push(`${name} is [${from.shape.join(', ')}] but the model's is [${to.shape.join(', ')}]`)
  }
  if (problems.length) throw new Error(`${reader.path}: ${problems.join('; ')}`)
  for (const [name, to] of targets) {
    if (!reader.tensors.has(name)) continue
    const from = await readTensor(reader, name, to.device)
    native.assign(from.handle, to.handle)
    from.dispose()
  }
  return { missing, unexpected }
}

/**
 * Reads a model's weights from a .safetensors file, an index.json of shards, or a folder that holds either, with the names
 * of Hugging Face's llama and olmoe. Types are converted. A tied model passes over `lm_head.weight`, and every model over
 * the rotary frequencies that old files hold.
 * @param options.strict default true: missing and unexpected tensors are errors; else they are returned
 * @throws Error naming the file and every tensor that is missing, unexpected or of another shape
 */
export async function loadWeights(
  model: Module,
  path: string,
  options: { strict?: boolean } = {},
): Promise<{ missing: string[]; unexpected: string[] }> {
  const reader = await SafetensorsReader.open(path)
  const tied = model instanceof Transformer && model.lm_head === null
  try {
    return await readInto(reader, model.stateDict(), {
      ...options,
      passOver: (name) => name.endsWith('.rotary_emb.inv_freq') || (tied && name === 'lm_head.weight'),
    })
  } finally {
    await reader.close()
  }
}

/**
 * Makes the model that a folder holds: `config.json` and `model.safetensors` (or shards), of Hugging Face's llama or
 * olmoe, or written by {@link savePretrained} or as a checkpoint.
 * @throws ConfigError naming the field of config.json; Error naming the tensors that do not fit
 */
export async function loadPretrained(
  folder: string,
  options: { dtype?: Dtype; device?: Device } = {},
): Promise<Transformer> {
  const path = join(folder, 'config.json')
  const text = await readText(realDisk, path)
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (e) {
    throw new ConfigError(path, ` is not JSON: ${(e as Error).message}`)
  }
  // Initial values would be drawn only to be overwritten.
  const model = new Transformer(fromHuggingFace(json, path), { ...options, init: constant(0) })
  await loadWeights(model, folder)
  return model
}

/**
 * Writes a model into a folder as Hugging Face does: `config.json` and `model.safetensors`, in shards with an index above
 * 5 GB.
 * @param options.dtype converts the weights; default: as they are
 */
export async function savePretrained(
  model: Transformer,
  folder: string,
  options: { dtype?: Dtype; shardBytes?: number } = {},
): Promise<void> {
  const { dtype, shardBytes } = options
  const entries = [...fileTensors(model.stateDict())].map(([name, t]): TensorEntry => {
    if (!dtype || dtype === t.dtype) return tensorEntry(name, t)
    const data = async () => {
      const converted = noGrad(() => cast(t, dtype))
      const values = await converted.data()
      converted.dispose()
      return values
    }
    return { name, dtype, shape: t.shape, data }
  })
  await saveModel(folder, entries, { shardBytes })
  const config = { ...toHuggingFace(model.config), torch_dtype: dtype ?? model.head.dtype }
  await replaceFile(realDisk, join(folder, 'config.json'), (w) => w.write(`${JSON.stringify(config, null, 2)}\n`))
}
