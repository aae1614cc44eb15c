// Oracles in float64, each written from its definition and slow; nothing here comes from src/math.
import type { Values } from './golden.ts'

/** Rows of `n` elements of a flat array. */
export const rowsOf = (x: ArrayLike<number>, n: number): number[][] =>
  Array.from({ length: x.length / n }, (_, r) => Array.from({ length: n }, (_, i) => x[r * n + i]!))

const sumOf = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0)

/** The gradient of `sum(dy * fn(x))` by central differences. */
export function differences(fn: (x: Float64Array) => ArrayLike<number>, x: Float64Array, dy: ArrayLike<number>) {
  const dot = (y: ArrayLike<number>) => Array.from(y).reduce((s, v, i) => s + v * dy[i]!, 0)
  return x.map((v, i) => {
    const h = 1e-5 * Math.max(1, Math.abs(v))
    const [up, down] = [x.slice(), x.slice()]
    up[i] = v + h
    down[i] = v - h
    return (dot(fn(up)) - dot(fn(down))) / (2 * h)
  })
}

/** x (rows, weight.length) */
export const rmsNorm = (x: ArrayLike<number>, weight: ArrayLike<number>, eps: number): Float64Array =>
  Float64Array.from(
    rowsOf(x, weight.length).flatMap((row) => {
      const scale = 1 / Math.sqrt(sumOf(row.map((v) => v * v)) / row.length + eps)
      return row.map((v, i) => v * scale * weight[i]!)
    }),
  )

export const layerNorm = (
  x: ArrayLike<number>,
  weight: ArrayLike<number>,
  bias: ArrayLike<number>,
  eps: number,
): Float64Array =>
  Float64Array.from(
    rowsOf(x, weight.length).flatMap((row) => {
      const mean = sumOf(row) / row.length
      const variance = sumOf(row.map((v) => (v - mean) ** 2)) / row.length
      return row.map((v, i) => ((v - mean) / Math.sqrt(variance + eps)) * weight[i]! + bias[i]!)
    }),
  )

/** logsumexp of one row. */
export function logsumexp(row: readonly number[]): number {
  const top = Math.max(...row)
  return Number.isFinite(top) ? top + Math.log(sumOf(row.map((v) => Math.exp(v - top)))) : top
}
export function softmax(row: readonly number[]): number[] {
  const all = logsumexp(row)
  return row.map((v) => Math.exp(v - all))
}

/** Mean over the rows whose target is not `ignore`. */
export function crossEntropy(logits: ArrayLike<number>, targets: ArrayLike<number>, ignore = -100): number {
  const rows = rowsOf(logits, logits.length / targets.length)
  const losses = rows.flatMap((row, i) => (targets[i] === ignore ? [] : [logsumexp(row) - row[targets[i]!]!]))
  return losses.length ? sumOf(losses) / losses.length : 0
}

/** x (.., length, size): pairs (i, i + size / 2) as complex numbers, times exp(i angle). */
export const rope = (x: ArrayLike<number>, length: number, size: number, theta = 10000, offset = 0): Float64Array =>
  Float64Array.from(
    rowsOf(x, size).flatMap((row, r) => {
      const angle = (i: number) => (offset + (r % length)) / theta ** ((2 * i) / size)
      const half = size / 2
      return row.map((v, i) =>
        i < half
          ? v * Math.cos(angle(i)) - row[i + half]! * Math.sin(angle(i))
          : v * Math.cos(angle(i - half)) + row[i - half]! * Math.sin(angle(i - half)),
      )
    }),
  )

// --- test values ---

/** Normal values of root mean square `scale`; every `outlierEvery`-th is `outlier` instead. */
export function normals(shape: number[], seed: number, scale = 1, outlierEvery = 0, outlier = 0): Values {
  let state = (seed * 2654435761 + 97) >>> 0
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return ((state >>> 8) + 0.5) / 2 ** 24
  }
  const data = Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) =>
    outlierEvery && i % outlierEvery === 3
      ? outlier
      : scale * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  )
  return { data, shape }
}

/** The values as a tensor of the dtype holds them. */
export function rounded(v: Values, dtype: string): Values {
  if (dtype === 'float64') return v
  if (dtype === 'float32') return { ...v, data: Float64Array.from(v.data, Math.fround) }
  const [bits, least] = dtype === 'bfloat16' ? [7, -126] : [10, -14]
  const data = Float64Array.from(v.data, (x) => {
    if (x === 0 || !Number.isFinite(x)) return x
    const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x))), least) - bits)
    const n = Math.abs(x) / unit
    let whole = Math.floor(n)
    if (n - whole > 0.5 || (n - whole === 0.5 && whole % 2)) whole++
    return Math.sign(x) * whole * unit
  })
  return { ...v, data }
}

const flat = (shape: number[], fn: (i: number) => number): Values => ({
  shape,
  data: Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => fn(i)),
})

// --- elementwise ---

/** erf by its series, and by the continued fraction of erfc where that converges faster. */
export function erf(x: number): number {
  const a = Math.abs(x)
  if (Number.isNaN(x)) return x
  if (a > 6) return Math.sign(x)
  if (a < 2.5) {
    let term = x
    let sum = x
    for (let n = 1; n < 200 && Math.abs(term) > 1e-19 * Math.abs(sum); n++) {
      term *= (-x * x) / n
      sum += term / (2 * n + 1)
    }
    return (2 / Math.sqrt(Math.PI)) * sum
  }
  let fraction = 0
  for (let n = 120; n > 0; n--) fraction = n / 2 / (a + fraction)
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction))
}
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
const normalDensity = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)
const geluInner = (x: number): number => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)

/** Functions of one number with their derivatives. */
export const unary: Record<string, { f: (x: number) => number; df: (x: number) => number }> = {
  neg: { f: (x) => -x, df: () => -1 },
  exp: { f: Math.exp, df: Math.exp },
  log: { f: Math.log, df: (x) => 1 / x },
  sqrt: { f: Math.sqrt, df: (x) => 1 / (2 * Math.sqrt(x)) },
  abs: { f: Math.abs, df: Math.sign },
  sign: { f: Math.sign, df: () => 0 },
  sin: { f: Math.sin, df: Math.cos },
  cos: { f: Math.cos, df: (x) => -Math.sin(x) },
  tanh: { f: Math.tanh, df: (x) => 1 / Math.cosh(x) ** 2 },
  sigmoid: { f: sigmoid, df: (x) => sigmoid(x) * sigmoid(-x) },
  relu: { f: (x) => Math.max(x, 0), df: (x) => (x > 0 ? 1 : 0) },
  relu2: { f: (x) => Math.max(x, 0) ** 2, df: (x) => 2 * Math.max(x, 0) },
  silu: { f: (x) => x * sigmoid(x), df: (x) => sigmoid(x) + x * sigmoid(x) * sigmoid(-x) },
  gelu: {
    f: (x) => (x * (1 + erf(x / Math.SQRT2))) / 2,
    df: (x) => (1 + erf(x / Math.SQRT2)) / 2 + x * normalDensity(x),
  },
  geluTanh: {
    f: (x) => (x * (1 + Math.tanh(geluInner(x)))) / 2,
    df: (x) =>
      (1 + Math.tanh(geluInner(x))) / 2 +
      ((x / 2) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x)) / Math.cosh(geluInner(x)) ** 2,
  },
}

/** silu(gate) up, with its gradients. */
export function swiglu(gate: Values, up: Values, dy: Values): { y: Values; dgate: Values; dup: Values } {
  const { f, df } = unary.silu!
  return {
    y: flat(gate.shape, (i) => f(gate.data[i]!) * up.data[i]!),
    dgate: flat(gate.shape, (i) => dy.data[i]! * up.data[i]! * df(gate.data[i]!)),
    dup: flat(gate.shape, (i) => dy.data[i]! * f(gate.data[i]!)),
  }
}

// --- poly ---

export interface PolyReference {
  y: Values
  dx: Values
  /** Of the gated form. */
  dup: Values
  dweight: Values
  dbias: Values
  /** Sums of the absolute values of the terms of dweight and dbias. */
  terms: { weight: number[]; bias: number }
}

/** y = sum_i weight[i] relu(x)^(r-i) + bias */
export function polyRelu(x: Values, weight: Values, bias: number, dy: Values): PolyReference {
  const r = weight.data.length
  const y = flat(x.shape, () => bias)
  const dx = flat(x.shape, () => 0)
  const dweight = flat([r], () => 0)
  const dbias = flat([1], () => 0)
  const terms = { weight: Array<number>(r).fill(0), bias: 0 }
  for (let j = 0; j < x.data.length; j++) {
    const p = x.data[j]! > 0 ? x.data[j]! : 0
    const d = dy.data[j]!
    for (let i = 0; i < r; i++) {
      const k = r - i
      y.data[j]! += weight.data[i]! * p ** k
      if (p > 0) dx.data[j]! += d * weight.data[i]! * k * p ** (k - 1)
      dweight.data[i]! += d * p ** k
      terms.weight[i]! += Math.abs(d * p ** k)
    }
    dbias.data[0]! += d
    terms.bias += Math.abs(d)
  }
  return { y, dx, dup: dx, dweight, dbias, terms }
}

/**
 * y = (sum_i weight[i] norm(x^(r-i)) + bias) * up, norm(u) = u / sqrt(mean(u^2) + eps) over rows of the last axis;
 * up left out is 1. The gradient goes through u = x^k and through norm, one after the other.
 */
export function polyNorm(
  x: Values,
  weight: Values,
  bias: number,
  dy: Values,
  { eps = 1e-6, up }: { eps?: number; up?: Values } = {},
): PolyReference {
  const r = weight.data.length
  const D = x.shape.at(-1)!
  const inner = flat(x.shape, () => bias)
  const dx = flat(x.shape, () => 0)
  const dweight = flat([r], () => 0)
  const dbias = flat([1], () => 0)
  const terms = { weight: Array<number>(r).fill(0), bias: 0 }
  const d = (j: number): number => dy.data[j]! * (up ? up.data[j]! : 1)
  for (let row = 0; row < x.data.length / D; row++) {
    const js = Array.from({ length: D }, (_, j) => row * D + j)
    for (let i = 0; i < r; i++) {
      const k = r - i
      const u = js.map((j) => x.data[j]! ** k)
      const size = Math.sqrt(u.reduce((s, v) => s + (v / D) * v, 0) + eps)
      const n = u.map((v) => v / size)
      const mean = n.reduce((s, v, j) => s + (v * d(js[j]!)) / D, 0)
      for (let j = 0; j < D; j++) {
        const at = js[j]!
        inner.data[at]! += weight.data[i]! * n[j]!
        const du = (weight.data[i]! / size) * (d(at) - n[j]! * mean)
        dx.data[at]! += du * k * x.data[at]! ** (k - 1)
        dweight.data[i]! += d(at) * n[j]!
        terms.weight[i]! += Math.abs(d(at) * n[j]!)
      }
    }
    for (const j of js) {
      dbias.data[0]! += d(j)
      terms.bias += Math.abs(d(j))
    }
  }
  return {
    y: flat(x.shape, (j) => inner.data[j]! * (up ? up.data[j]! : 1)),
    dx,
    dup: flat(x.shape, (j) => inner.data[j]! * dy.data[j]!),
    dweight,
    dbias,
    terms,
  }
}

/** AdamW with decoupled decay, one array of parameters. */
export class AdamW {
  p: Float64Array
  #m: Float64Array
  #v: Float64Array
  #steps = 0
  constructor(
    start: Float64Array,
    readonly options: { betas: readonly [number, number]; eps: number; weightDecay: number },
  ) {
    this.p = start.slice()
    this.#m = new Float64Array(start.length)
    this.#v = new Float64Array(start.length)
  }
  step(g: ArrayLike<number>, lr: number): void {
    const [b1, b2] = this.options.betas
    this.#steps++
    this.p.forEach((p, i) => {
      this.#m[i] = b1 * this.#m[i]! + (1 - b1) * g[i]!
      this.#v[i] = b2 * this.#v[i]! + (1 - b2) * g[i]! * g[i]!
      const mean = this.#m[i]! / (1 - b1 ** this.#steps)
      const square = this.#v[i]! / (1 - b2 ** this.#steps)
      this.p[i] = p - lr * (this.options.weightDecay * p + mean / (Math.sqrt(square) + this.options.eps))
    })
  }
}
