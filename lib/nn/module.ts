// A module is an object whose own properties are its parameters and submodules. Their paths are the names in checkpoints.
import { Tensor } from '../methods.ts'
import { native } from '../native.ts'
import { full } from '../ops/create.ts'
import { cast } from '../ops/index.ts'
import { type Device, type Dtype, isFloating, keep, type Shape } from '../tensor.ts'

/** Tensors by name, as `stateDict()` gives them and `loadStateDict()` takes them. */
export type StateDict = ReadonlyMap<string, Tensor> | Readonly<Record<string, Tensor>>

/** Makes a tensor a parameter: it requires a gradient and no scope disposes of it. */
export function parameter<T extends Tensor>(t: T): T {
  if (!isFloating(t.dtype)) throw new TypeError(`parameter: the tensor is ${t.dtype} but should be of a floating type`)
  t.requiresGrad = true
  return keep(t)
}

const list = (shape: Shape): string => `[${shape.join(', ')}]`

interface Slot {
  readonly path: string
  readonly owner: Module
  readonly key: string
  readonly tensor: Tensor
}

/**
 * The base of everything with parameters. A subclass only assigns its own properties: a tensor is part of the state (a
 * parameter where it requires a gradient, see {@link parameter}), a Module or an array of Modules is a part.
 * Nothing is registered. The path of a property, such as `model.layers.0.mlp.up_proj.weight`, is its name in a state dict.
 */
export abstract class Module {
  /** Whether it trains (dropout drops); set by `train()` and `eval()`. */
  training = true
  /** Its tensors hold several parts' one after another on the first axis; files keep the parts apart. @internal */
  readonly stacked: boolean = false

  /** The parameters by path: the tensors that require a gradient. A shared one stands at its first path. */
  namedParameters(): Map<string, Tensor> {
    const named = new Map<string, Tensor>()
    for (const { path, tensor } of this.#slots()) if (tensor.requiresGrad) named.set(path, tensor)
    return named
  }

  /** This module and all its parts, each with its path, parents first. */
  *modules(path = ''): Generator<[path: string, module: Module]> {
    yield [path, this]
    for (const [key, value] of Object.entries(this)) {
      const at = path ? `${path}.${key}` : key
      if (value instanceof Module) yield* value.modules(at)
      else if (Array.isArray(value))
        for (const [i, part] of value.entries()) if (part instanceof Module) yield* part.modules(`${at}.${i}`)
    }
  }

  // Every property that holds a tensor. A tensor at two paths comes once, unless `again`.
  *#slots(again = false): Generator<Slot> {
    const seen = new Set<Tensor>()
    for (const [path, owner] of this.modules())
      for (const [key, tensor] of Object.entries(owner))
        if (tensor instanceof Tensor && (again || !seen.has(tensor))) {
          seen.add(tensor)
          yield { path: path ? `${path}.${key}` : key, owner, key, tensor }
        }
  }

  /** The parameters, in the order of their paths' modules. */
  parameters(): Tensor[] {
    return [...this.namedParameters().values()]
  }

  /**
   * The parameters that the optimiser decays, and those it does not. Decayed are those with two axes in a file: matrices,
   * embeddings, each expert's matrices; never norms, biases and activation coefficients.
   */
  parameterGroups(): { decay: Map<string, Tensor>; noDecay: Map<string, Tensor> } {
    const groups = { decay: new Map<string, Tensor>(), noDecay: new Map<string, Tensor>() }
    for (const { path, owner, tensor } of this.#slots()) {
      if (!tensor.requiresGrad) continue
      const axes = tensor.rank - (owner.stacked ? 1 : 0)
      groups[axes >= 2 ? 'decay' : 'noDecay'].set(path, tensor)
    }
    return groups
  }

  /** How many numbers the parameters hold. */
  parameterCount(): number {
    return this.parameters().reduce((n, p) => n + p.size, 0)
  }

  /** All tensors by path, parameters or not: the module's own tensors, not copies. */
  stateDict(): Map<string, Tensor> {
    return new Map([...this.#slots()].map(({ path, tensor }) => [path, tensor]))
  }

  /**
   * Copies values into the module's tensors, by path, converting their type. Nothing is changed when it throws.
   * @param options.strict default true: a missing or an unexpected name is an error; else they are returned
   * @throws Error naming every missing and unexpected name and every tensor of another shape
   */
  loadStateDict(dict: StateDict, options: { strict?: boolean } = {}): { missing: string[]; unexpected: string[] } {
    const given = new Map(dict instanceof Map ? dict : Object.entries(dict))
    const own = this.stateDict()
    const missing = [...own.keys()].filter((name) => !given.has(name))
    const unexpected = [...given.keys()].filter((name) => !own.has(name))
    const problems: string[] = []
    if (options.strict ?? true) {
      if (missing.length) problems.push(`missing ${missing.join(', ')}`)
      if (unexpected.length) problems.push(`unexpected ${unexpected.join(', ')}`)
    }
    for (const [name, to] of own) {
      const from = given.get(name)
      if (from && from.shape.join() !== to.shape.join())
        problems.push(`${name} is ${list(from.shape)} but should be ${list(to.shape)}`)
    }
    if (problems.length) throw new Error(`loadStateDict: ${problems.join('; ')}`)
    for (const [name, to] of own) {
      const from = given.get(name)
      if (!from || from === to) continue
      const here = from.device === to.device ? from : from.detach().to({ device: to.device })
      native.assign(here.handle, to.handle)
    }
    return { missing, unexpected }
  }

  /** Training mode, for all parts: dropout drops. */
  train(mode = true): this {
    for (const [, module] of this.modules()) module.training = mode
    return this
  }

  /** Evaluation mode, for all parts: dropout passes everything on. */
  eval(): this {
    return this.train(false)
  }

  /**
   * Converts the tensors, which are new ones afterwards: make the optimiser after this. In a 16-bit model the vectors
   * (norms, biases, activation coefficients) are float32, as the operations want them.
   */
  to(options: { dtype?: Dtype; device?: Device }): this {
    const made = new Map<Tensor, Tensor>()
    for (const { owner, key, tensor } of [...this.#slots(true)]) {
      let next = made.get(tensor)
      if (!next) {
        const dtype = options.dtype && isFloating(tensor.dtype) ? storage(options.dtype, tensor, owner) : tensor.dtype
        next = dtype === tensor.dtype ? tensor : keep(cast(tensor.detach(), dtype))
        if (options.device && options.device !== next.device) next = keep(next.detach().to({ device: options.device }))
        next.requiresGrad = tensor.requiresGrad
        made.set(tensor, next)
      }
      Object.assign(owner, { [key]: next })
    }
    for (const [old, next] of made) if (old !== next) old.dispose()
    return this
  }

  /** Sets every gradient to zero, where it lies: it may be a window on an optimiser's buffer. */
  zeroGrad(): void {
    for (const { grad } of this.parameters()) {
      if (!grad) continue
      const zero = full([], 0, { dtype: grad.dtype, device: grad.device })
      native.assign(zero.handle, grad.handle)
      zero.dispose()
    }
  }
}

const storage = (dtype: Dtype, tensor: Tensor, owner: Module): Dtype =>
  tensor.rank - (owner.stacked ? 1 : 0) >= 2 ? dtype : vectorDtype(dtype)

/** What vectors are kept in beside matrices of `dtype`: float32 beside 16-bit types. @internal */
export const vectorDtype = (dtype: Dtype): Dtype => (dtype === 'bfloat16' || dtype === 'float16' ? 'float32' : dtype)
