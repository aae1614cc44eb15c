// AdamW over flat buffers: one call for the norm and one for the update of each group, whatever the number of parameters.
import { native } from '../native.ts'
import { tensor, zeros } from '../ops/create.ts'
import { keep, Tensor } from '../tensor.ts'
import { Flat } from './flat.ts'

export interface AdamWOptions {
  /** Default 1e-3. */
  lr?: number
  /** How much of the averages of the gradient and of its square is kept at each step. Default [0.9, 0.999]. */
  betas?: readonly [number, number]
  /** Default 1e-8. */
  eps?: number
  /** Times the learning rate: the share of each parameter that a step takes away. Default 0.01. */
  weightDecay?: number
}

/** Parameters with their names (as `module.namedParameters()` gives them), or without (then they are numbered). */
export type Parameters = Iterable<Tensor> | ReadonlyMap<string, Tensor> | Readonly<Record<string, Tensor>>

/** Parameters with settings of their own; what is left out is as for the others. */
export interface ParameterGroup extends AdamWOptions {
  params: Parameters
}

/** What an optimiser remembers, by name: `NAME.exp_avg`, `NAME.exp_avg_sq`, and `NAME.master` of 16-bit parameters. */
export type OptimizerState = ReadonlyMap<string, Tensor> | Readonly<Record<string, Tensor>>

// The numbers that the device reads at each step, so that a captured step can be replayed with others.
const [updates, , finite, norm] = [0, 1, 2, 3]

interface Buffers {
  flat: Flat
  mean: Tensor
  square: Tensor
  hyper: Tensor
  options: Required<AdamWOptions>
  /** Its learning rate over the optimiser's. */
  ratio: number
}

/**
 * AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101):
 * `p -= lr * (weightDecay * p + mHat / (sqrt(vHat) + eps))` with bias-corrected averages, as PyTorch does it.
 *
 * Making one moves the parameters into flat buffers: each parameter tensor, and from now on its `grad`, is a window on
 * one. (Views of a parameter that were taken before keep its old memory.) Gradients of 16-bit parameters are float32, as
 * are the averages and the copy that is updated; load weights before making the optimiser. A parameter whose gradient
 * never arrives has a gradient of zero and is updated all the same.
 *
 * An update whose gradients or loss are not all finite changes nothing.
 */
export class AdamW {
  readonly #buffers: Buffers[] = []
  readonly #state: Tensor
  readonly #sums: Tensor
  readonly #gradNorm: Tensor
  readonly #finite: Tensor
  readonly #updates: Tensor
  readonly #names = new Set<string>()
  #lr: number
  #maxNorm = 0
  #measured = false

  /**
   * @throws Error if there are no parameters, one is given twice, two have one name, one is not floating-point, or they
   * are on several devices; RangeError if an option makes no sense
   */
  constructor(params: Parameters | readonly ParameterGroup[], options: AdamWOptions = {}) {
    const base = withDefaults(options, {})
    this.#lr = base.lr
    const seen = new Set<Tensor>()
    let device: string | undefined
    for (const { params: members, ...own } of groupsOf(params)) {
      const byDtype = new Map<string, Map<string, Tensor>>()
      for (const [name, param] of named(members, seen.size)) {
        if (seen.has(param)) throw new Error(`AdamW: ${name} is given twice`)
        if (this.#names.has(name)) throw new Error(`AdamW: two parameters are called ${name}`)
        if (!param.requiresGrad || param.node) throw new Error(`AdamW: ${name} is not a leaf that requires a gradient`)
        device ??= param.device
        if (param.device !== device)
          throw new Error(`AdamW: ${name} is on ${param.device}, the others are on ${device}`)
        seen.add(param)
        this.#names.add(name)
        if (!byDtype.has(param.dtype)) byDtype.set(param.dtype, new Map())
        byDtype.get(param.dtype)!.set(name, param)
      }
      const settings = withDefaults(own, base)
      for (const members of byDtype.values()) {
        const flat = new Flat(members)
        this.#buffers.push({
          flat,
          mean: flat.like(),
          square: flat.like(),
          hyper: keep(zeros([5], { dtype: 'float64', device: flat.master.device })),
          options: settings,
          ratio: base.lr > 0 ? settings.lr / base.lr : 1,
        })
      }
    }
    if (!seen.size) throw new Error('AdamW: there are no parameters')
    const place = { dtype: 'float64', device: this.#buffers[0]!.flat.master.device } as const
    this.#state = keep(tensor([0, 1, 1, 0], place))
    this.#sums = keep(zeros([this.#buffers.length], place))
    const numberAt = (i: number) => keep(new Tensor(native.windowOf(this.#state.handle, [], i)))
    this.#gradNorm = numberAt(norm)
    this.#finite = numberAt(finite)
    this.#updates = numberAt(updates)
    this.#writeRates()
  }

  /** The learning rate of the groups that were given none of their own; the others' follow in proportion. */
  get lr(): number {
    return this.#lr
  }
  set lr(value: number) {
    inRange('lr', value, 0)
    if (value === this.#lr) return
    this.#lr = value
    this.#writeRates()
  }

  #writeRates(): void {
    for (const { hyper, options, ratio } of this.#buffers) {
      const { betas, eps, weightDecay } = options
      native.write(hyper.handle, Float64Array.of(this.#lr * ratio, ...betas, eps, weightDecay))
    }
  }

  /** The global norm of the gradients before clipping, as `clip` or `step` found it last. float64, one element. */
  get gradNorm(): Tensor {
    return this.#gradNorm
  }

  /** 1 if all gradients, and the loss if `step` was given it, were finite, else 0. float64, one element. */
  get finite(): Tensor {
    return this.#finite
  }

  /** How many updates have been made. float64, one element. */
  get updates(): Tensor {
    return this.#updates
  }

  /** The flat buffers of the gradients: what an all-reduce works on. */
  get gradients(): readonly Tensor[] {
    return this.#buffers.map(({ flat }) => flat.grad)
  }

  /** Sets all gradients to zero. */
  zeroGrad(): void {
    for (const { flat } of this.#buffers) flat.zeroGrad()
  }

  /**
   * Measures the global norm of the gradients; the next `step` scales them to `maxNorm` if it is larger. The gradients
   * themselves stay as they are.
   * @param maxNorm 0 or Infinity: no clipping
   * @returns `gradNorm`
   */
  clip(maxNorm: number): Tensor {
    inRange('maxNorm', maxNorm, 0, Number.POSITIVE_INFINITY)
    this.#maxNorm = Number.isFinite(maxNorm) ? maxNorm : 0
    this.#buffers.forEach(({ flat }, i) => {
      flat.collect()
      const sum = native.windowOf(this.#sums.handle, [1], i)
      native.sumSquares(flat.grad.handle, sum)
      native.release(sum)
    })
    native.clipCoefficient(this.#sums.handle, null, this.#maxNorm, this.#state.handle)
    this.#measured = true
    return this.#gradNorm
  }

  /**
   * One update of all parameters. It changes nothing if a gradient, or `loss`, is not finite.
   * @param options.lr the learning rate from now on
   * @param options.loss a tensor of one element
   */
  step(options: { lr?: number; loss?: Tensor } = {}): void {
    if (options.lr !== undefined) this.lr = options.lr
    if (!this.#measured) this.clip(0)
    const state = this.#state.handle
    if (options.loss) native.clipCoefficient(this.#sums.handle, options.loss.handle, this.#maxNorm, state)
    native.countUpdate(state)
    for (const { flat, mean, square, hyper } of this.#buffers) {
      const { master, half, grad } = flat
      const [p, g, m, v] = [master.handle, grad.handle, mean.handle, square.handle]
      native.adamw(p, g, m, v, half?.handle ?? null, hyper.handle, state)
    }
    this.#measured = false
  }

  /**
   * Sets 16-bit parameters from wider values, by name: the float32 copies that are updated get them whole, the parameters
   * rounded. Without it the copies start from the rounded parameters. Names of other parameters are passed over.
   * @throws Error if a 16-bit parameter is missing or has another shape
   */
  setMasters(values: ReadonlyMap<string, Tensor>): void {
    const halves = this.#buffers.flatMap(({ flat }) => (flat.half ? [{ flat, half: flat.half }] : []))
    const copies = halves.flatMap(({ flat }) => flat.windows(flat.master))
    for (const [name, to] of copies) {
      const from = values.get(name)
      if (!from) throw new Error(`AdamW: setMasters has no ${name}`)
      if (from.shape.join() !== to.shape.join())
        throw new Error(`AdamW: ${name} is [${from.shape.join(', ')}] but should be [${to.shape.join(', ')}]`)
    }
    for (const [name, to] of copies) native.assign(values.get(name)!.handle, to.handle)
    for (const { flat, half } of halves) native.assign(flat.master.handle, half.handle)
    for (const [, window] of copies) window.dispose()
  }

  /** What is remembered of each parameter, by name; the tensors are the optimiser's own, not copies. */
  state(): Map<string, Tensor> {
    const all = new Map<string, Tensor>()
    for (const { flat, mean, square } of this.#buffers) {
      for (const [name, t] of flat.windows(mean)) all.set(`${name}.exp_avg`, t)
      for (const [name, t] of flat.windows(square)) all.set(`${name}.exp_avg_sq`, t)
      if (flat.half) for (const [name, t] of flat.windows(flat.master)) all.set(`${name}.master`, t)
    }
    return all
  }

  /**
   * Takes over what `state` gave. Nothing is changed when it throws.
   * @param updates how many updates had been made
   * @throws Error naming every missing and unexpected name and every tensor of another shape
   */
  loadState(state: OptimizerState, updates: number): void {
    inRange('updates', updates, 0)
    const given = new Map<string, Tensor>(state instanceof Map ? state : Object.entries(state))
    const own = this.state()
    const problems: string[] = []
    for (const [name, to] of own) {
      const from = given.get(name)
      if (!from) problems.push(`missing ${name}`)
      else if (from.shape.join() !== to.shape.join())
        problems.push(`${name} is [${from.shape.join(', ')}] but should be [${to.shape.join(', ')}]`)
    }
    for (const name of given.keys()) if (!own.has(name)) problems.push(`unexpected ${name}`)
    if (problems.length) throw new Error(`AdamW: ${problems.join('; ')}`)
    for (const [name, to] of own) native.assign(given.get(name)!.handle, to.handle)
    for (const { flat } of this.#buffers) if (flat.half) native.assign(flat.master.handle, flat.half.handle)
    native.assignValue(updates, this.#updates.handle)
  }
}

function* groupsOf(params: Parameters | readonly ParameterGroup[]): Generator<ParameterGroup> {
  const isGroup = (one: unknown): one is ParameterGroup => typeof one === 'object' && one !== null && 'params' in one
  if (Array.isArray(params) && params.some((one) => isGroup(one) && !(one instanceof Tensor)))
    yield* params as readonly ParameterGroup[]
  else yield { params: params as Parameters }
}

function* named(params: Parameters, from: number): Generator<[string, Tensor]> {
  if (params instanceof Map) yield* params as Map<string, Tensor>
  else if (Symbol.iterator in params) {
    let at = from
    for (const param of params as Iterable<Tensor>) yield [`param.${at++}`, param]
  } else yield* Object.entries(params as Record<string, Tensor>)
}

function inRange(name: string, value: number, least: number, most = Number.MAX_VALUE): void {
  if (!(value >= least && value <= most))
    throw new RangeError(`AdamW: ${name} is ${value}, but should be ${least} or above`)
}

function withDefaults(own: AdamWOptions, base: AdamWOptions): Required<AdamWOptions> {
  const all = {
    lr: own.lr ?? base.lr ?? 1e-3,
    betas: own.betas ?? base.betas ?? ([0.9, 0.999] as const),
    eps: own.eps ?? base.eps ?? 1e-8,
    weightDecay: own.weightDecay ?? base.weightDecay ?? 0.01,
  }
  inRange('lr', all.lr, 0)
  inRange('eps', all.eps, 0)
  inRange('weightDecay', all.weightDecay, 0)
  for (const beta of all.betas)
    if (!(beta >= 0 && beta < 1))
      throw new RangeError(`AdamW: betas are ${all.betas.join(', ')}, but should be in [0, 1)`)
  return all
}
