// The modules of lib/nn from their definitions, in plain float64 loops: what the tests compare with.
import type { ModelConfig } from '../../lib/nn/config.ts'
import type { Tensor } from '../../lib/tensor.ts'

export type Row = number[]
export type Rows = Row[]
/** Tensors' values by name. */
export type Values = Record<string, { shape: readonly number[]; data: ArrayLike<number> }>

/** The values of tensors, by name. */
export const valuesOf = (tensors: ReadonlyMap<string, Tensor>): Values =>
  Object.fromEntries([...tensors].map(([name, t]) => [name, { shape: t.shape, data: t.dataSync() as Float64Array }]))

const vector = (v: Values, name: string): Row => {
  const found = v[name]
  if (!found) throw new Error(`the reference has no ${name}`)
  return Array.from(found.data)
}
/** A matrix [out, in] by name, or one expert's of a stack. */
export function matrix(v: Values, name: string, expert?: number): Rows {
  const { shape, data } = v[name]!
  const [rows, cols] = shape.slice(-2) as [number, number]
  const from = (expert ?? 0) * rows * cols
  return Array.from({ length: rows }, (_, r) => Array.from({ length: cols }, (_, c) => data[from + r * cols + c]!))
}

const dot = (a: Row, b: Row) => a.reduce((s, x, i) => s + x * b[i]!, 0)
export const product = (x: Rows, w: Rows): Rows => x.map((row) => w.map((one) => dot(row, one)))
const plus = (a: Rows, b: Rows): Rows => a.map((row, i) => row.map((x, j) => x + b[i]![j]!))

export const rmsNorm = (x: Row, weight: Row, eps: number): Row => {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps)
  return x.map((v, i) => v * scale * weight[i]!)
}
export const layerNorm = (x: Row, weight: Row, eps: number): Row => {
  const mean = x.reduce((a, b) => a + b, 0) / x.length
  const variance = x.reduce((s, v) => s + (v - mean) ** 2, 0) / x.length
  return x.map((v, i) => ((v - mean) / Math.sqrt(variance + eps)) * weight[i]!)
}
const unit = (x: Row, eps: number): Row =>
  rmsNorm(
    x,
    x.map(() => 1),
    eps,
  )

export const softmax = (x: Row): Row => {
  const most = Math.max(...x)
  const e = x.map((v) => Math.exp(v - most))
  const sum = e.reduce((a, b) => a + b, 0)
  return e.map((v) => v / sum)
}

// Abramowitz and Stegun's series 7.1.6: exact to float64 for what tests use.
function erf(x: number): number {
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-18 * Math.abs(sum) && n < 500; n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}

const polyNorm = (x: Row, w: Row, b: number, eps: number): Row => {
  const parts = w.map((_, i) =>
    unit(
      x.map((v) => v ** (w.length - i)),
      eps,
    ),
  )
  return x.map((_, j) => parts.reduce((s, part, i) => s + w[i]! * part[j]!, b))
}

/** An activation by its name in config.json. */
export function activation(act: string, up: Row, gate: Row, w: Row, b: number, eps: number): Row {
  switch (act) {
    case 'polynorm':
      return polyNorm(up, w, b, eps)
    case 'polynorm_glu':
      return polyNorm(gate, w, b, eps).map((g, i) => g * up[i]!)
    case 'polyrelu':
      return up.map((x) => w.reduce((s, wi, i) => s + wi * Math.max(x, 0) ** (w.length - i), b))
    case 'swiglu':
      return up.map((u, i) => (u * gate[i]!) / (1 + Math.exp(-gate[i]!)))
    case 'gelu':
      return up.map((x) => (x / 2) * (1 + erf(x / Math.SQRT2)))
    case 'gelu_tanh':
      return up.map((x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))))
    case 'relu':
      return up.map((x) => Math.max(x, 0))
    case 'relu2':
      return up.map((x) => Math.max(x, 0) ** 2)
    default:
      throw new Error(`the reference has no ${act}`)
  }
}

// Rotate-half: the two halves of a head are the real and imaginary parts.
function rotate(head: Row, position: number, theta: number): Row {
  const half = head.length / 2
  return head.map((x, i) => {
    const angle = position * theta ** (-(i % half) / half)
    const other = i < half ? -head[i + half]! : head[i - half]!
    return x * Math.cos(angle) + other * Math.sin(angle)
  })
}

/** One sequence [T][hidden] through causal attention. `at` is the path of the module, with its dot. */
export function attention(x: Rows, v: Values, at: string, c: ModelConfig): Rows {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: size } = c
  const project = (name: string, norm: string): Rows => {
    const rows = product(x, matrix(v, `${at}${name}.weight`))
    return c.qk_norm && norm ? rows.map((r) => rmsNorm(r, vector(v, `${at}${norm}.weight`), c.rms_norm_eps)) : rows
  }
  const q = project('q_proj', 'q_norm')
  const k = project('k_proj', 'k_norm')
  const values = project('v_proj', '')
  const head = (rows: Rows, t: number, h: number) => rows[t]!.slice(h * size, (h + 1) * size)
  const out = x.map((_, t) =>
    Array.from({ length: heads }, (_, h) => {
      const shared = Math.floor(h / (heads / kvHeads))
      const query = rotate(head(q, t, h), t, c.rope_theta)
      const scores = Array.from(
        { length: t + 1 },
        (_, s) => dot(query, rotate(head(k, s, shared), s, c.rope_theta)) / Math.sqrt(size),
      )
      const p = softmax(scores)
      return Array.from({ length: size }, (_, i) => p.reduce((sum, ps, s) => sum + ps * head(values, s, shared)[i]!, 0))
    }).flat(),
  )
  return product(out, matrix(v, `${at}o_proj.weight`))
}

/** Rows [N][hidden] through a feed-forward layer, and its router's losses and loads. */
export function feedForward(
  x: Rows,
  v: Values,
  at: string,
  c: ModelConfig,
): { y: Rows; aux: number; z: number; load: Row } {
  const gated = c.hidden_act === 'swiglu' || c.hidden_act === 'polynorm_glu'
  const dense = (row: Row, path: string, act: string, expert?: number): Row => {
    const [up] = product([row], matrix(v, `${path}up_proj.weight`, expert))
    const [gate] = gated ? product([row], matrix(v, `${path}gate_proj.weight`, expert)) : [[]]
    let w: Row = []
    let b = 0
    if (v[`${act}weight`]) {
      const all = vector(v, `${act}weight`)
      const own = v[`${act}weight`]!.shape.length === 2 ? expert! : 0
      w = all.slice(own * c.poly_order, (own + 1) * c.poly_order)
      b = vector(v, `${act}bias`)[own]!
    }
    const h = activation(c.hidden_act, up!, gate!, w, b, c.poly_eps)
    return product([h], matrix(v, `${path}down_proj.weight`, expert))[0]!
  }
  if (!c.num_experts) return { y: x.map((row) => dense(row, at, `${at}act_fn.`)), aux: 0, z: 0, load: [] }

  const [E, k] = [c.num_experts, c.num_experts_per_tok]
  const logits = product(x, matrix(v, `${at}gate.weight`))
  const p = logits.map(softmax)
  const load: Row = new Array(E).fill(0)
  const act = c.act_per_expert ? `${at}experts.act_fn.` : `${at}act_fn.`
  const y = x.map((row, n) => {
    const chosen = p[n]!.map((weight, e) => ({ weight, e }))
      .sort((a, b) => b.weight - a.weight)
      .slice(0, k)
    const sum = c.norm_topk_prob ? chosen.reduce((s, { weight }) => s + weight, 0) : 1
    let out: Row = row.map(() => 0)
    for (const { weight, e } of chosen) {
      load[e]! += 1 / (x.length * k)
      const one = dense(row, `${at}experts.`, act, e)
      out = out.map((o, i) => o + (weight / sum) * one[i]!)
    }
    if (!c.num_shared_experts) return out
    const shared = dense(row, `${at}shared_expert.`, c.act_per_expert ? `${at}shared_expert.act_fn.` : act)
    return out.map((o, i) => o + shared[i]!)
  })
  const mean = (e: number) => p.reduce((s, row) => s + row[e]!, 0) / x.length
  const aux = E * load.reduce((s, share, e) => s + share * mean(e), 0)
  const z = logits.reduce((s, row) => s + Math.log(row.reduce((a, l) => a + Math.exp(l), 0)) ** 2, 0) / x.length
  return { y, aux, z, load }
}

/** Sequences of ids through the whole model: logits, the router's losses averaged over the layers, and the loads. */
export function transformer(ids: Rows, v: Values, c: ModelConfig) {
  const embedding = matrix(v, 'model.embed_tokens.weight')
  const norm = (rows: Rows, name: string): Rows =>
    rows.map((r) => (c.norm_type === 'layer' ? layerNorm : rmsNorm)(r, vector(v, `${name}.weight`), c.rms_norm_eps))
  let x = ids.map((row) => row.map((id) => embedding[id]!)) // [B][T][D]
  let [aux, z] = [0, 0]
  const loads: Rows = []
  for (let layer = 0; layer < c.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}.`
    x = x.map((rows) => plus(rows, attention(norm(rows, `${at}input_layernorm`), v, `${at}self_attn.`, c)))
    const flat = x.flat()
    const ffn = feedForward(norm(flat, `${at}post_attention_layernorm`), v, `${at}mlp.`, c)
    const sum = plus(flat, ffn.y)
    const length = ids[0]!.length
    x = x.map((_, b) => sum.slice(b * length, (b + 1) * length))
    aux += ffn.aux / c.num_hidden_layers
    z += ffn.z / c.num_hidden_layers
    loads.push(ffn.load)
  }
  const head = v['lm_head.weight'] ? matrix(v, 'lm_head.weight') : embedding
  const logits = x.map((rows) => product(norm(rows, 'model.norm'), head))
  return { logits, aux, z, loads }
}

/** Mean cross-entropy of logits [B][T][V]; a target of -100 does not count. */
export function crossEntropy(logits: Rows[], targets: Rows): number {
  const losses = logits.flatMap((rows, b) =>
    rows.flatMap((row, t) => (targets[b]![t]! < 0 ? [] : [-Math.log(softmax(row)[targets[b]![t]!]!)])),
  )
  return losses.reduce((a, b) => a + b, 0) / losses.length
}

/** The largest difference, relative to the largest expected value; NaN counts as infinite. */
export function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, but ${expected.length} are expected`)
  let [most, worst] = [Number.MIN_VALUE, 0]
  for (let i = 0; i < expected.length; i++) {
    const d = Math.abs(actual[i]! - expected[i]!)
    worst = Number.isNaN(d) ? Number.POSITIVE_INFINITY : Math.max(worst, d)
    most = Math.max(most, Math.abs(expected[i]!))
  }
  return worst / most
}
