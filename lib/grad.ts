// Reverse-mode differentiation: from an output back to what it was computed from, each node after all its users.
import { context } from './context.ts'
import { native } from './native.ts'
import { fullLike, tensor } from './ops/create.ts'
import { add, mul } from './ops/elementwise.ts'
import { currentGenerator, withGenerator } from './ops/random.ts'
import { sum } from './ops/reduce.ts'
import {
  collectingInPlace,
  dtypeCode,
  isFloating,
  keep,
  lost,
  type Node,
  nextSerial,
  noGrad,
  recorded,
  sameShape,
  scope,
  Tensor,
  withGrad,
} from './tensor.ts'

export interface GraphOptions {
  /** Keep the graph, so that it can be walked again. */
  retainGraph?: boolean
}

// The nodes behind `roots`, every node before those that its inputs came from. A loop, because graphs are deep.
function usersFirst(roots: readonly Node[]): Node[] {
  const order: Node[] = []
  const visited = new Map<Node, number>() // how many of its inputs; -1 when done
  for (const root of roots) {
    const stack = visited.has(root) ? [] : [root]
    while (stack.length) {
      const node = stack[stack.length - 1]!
      const at = visited.get(node) ?? 0
      if (at < 0) stack.pop()
      else if (at === node.inputs.length) {
        stack.pop()
        order.push(node)
        visited.set(node, -1)
      } else {
        visited.set(node, at + 1)
        const next = node.inputs[at]!.node
        if (next && !visited.has(next)) stack.push(next)
      }
    }
  }
  return order.reverse()
}

/** Gradients that are on their way: added up at each tensor, freed once they have been passed on. */
class Flow {
  readonly #arrived = new Map<Node, (Tensor | null)[]>()
  readonly #collected = new Map<Tensor, Tensor>()
  readonly #uses = new Map<Tensor, number>()
  readonly #sums = new Set<Tensor>()

  /** Tensors with a serial below `since` are not this walk's own, so it neither frees nor changes them. */
  constructor(
    readonly since: number,
    readonly wanted: ReadonlySet<Tensor> | null,
  ) {}

  send(to: Tensor, d: Tensor): void {
    if (to.node === lost)
      throw new Error(
        'backward: a gradient has to pass a tensor that has been disposed of; dispose of it after backward()',
      )
    if (this.wanted ? this.wanted.has(to) : to.node === null && to.requiresGrad) {
      // Added at once where there is a gradient already: not all of them need be held until the end.
      if (!this.wanted && to.grad && !to.grad.disposed) native.accumulate(d.handle, to.grad.handle)
      else this.#collected.set(to, this.#add(this.#collected.get(to), d))
    }
    if (to.node) {
      let slots = this.#arrived.get(to.node)
      if (!slots) {
        slots = new Array(to.node.outputs).fill(null)
        this.#arrived.set(to.node, slots)
      }
      slots[to.output] = this.#add(slots[to.output], d)
    }
  }

  #add(sum: Tensor | null | undefined, d: Tensor): Tensor {
    if (!sum) {
      this.#uses.set(d, (this.#uses.get(d) ?? 0) + 1)
      return d
    }
    if (this.#sums.has(sum)) {
      native.accumulate(d.handle, sum.handle)
      return sum
    }
    // A first gradient may be shared with another tensor or be the caller's; the sum of two belongs to one place alone.
    const total = new Tensor(native.add(sum.handle, d.handle))
    this.#sums.add(total)
    this.#uses.set(total, 1)
    this.release(sum)
    return total
  }

  /** One use less; the last one frees it. */
  release(d: Tensor): void {
    const left = (this.#uses.get(d) ?? 0) - 1
    if (left > 0) {
      this.#uses.set(d, left)
      return
    }
    this.#uses.delete(d)
    if (d.serial >= this.since && d.node === null) d.dispose()
  }

  /** Frees what a backward function returned unless it has been kept for somebody. */
  settle(ds: readonly (Tensor | null)[]): void {
    for (const d of ds) if (d && !d.disposed && !this.#uses.has(d)) this.release(d)
  }

  take(node: Node): (Tensor | null)[] | undefined {
    const slots = this.#arrived.get(node)
    this.#arrived.delete(node)
    return slots
  }

  /** Whether the gradient may be handed out as it is: nobody else sees its memory. */
  owns(d: Tensor): boolean {
    return d.serial >= this.since && this.#uses.get(d) === 1 && native.ownsMemory(d.handle)
  }

  get collected(): ReadonlyMap<Tensor, Tensor> {
    return this.#collected
  }
}

// The nodes that a gradient must pass to reach one of the wanted tensors, or may have to: nobody knows where those led
// that have been freed or disposed of.
function towards(order: readonly Node[], wanted: ReadonlySet<Tensor>): Set<Node> {
  const needed = new Set<Node>()
  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i]!
    if (!node.backward || node.inputs.some((t) => wanted.has(t) || (t.node !== null && needed.has(t.node))))
      needed.add(node)
  }
  return needed
}

const shown = (t: Tensor): string => `[${t.shape.join(', ')}]`

function walk(
  ys: readonly Tensor[],
  dys: readonly (Tensor | undefined)[],
  wanted: ReadonlySet<Tensor> | null,
  options: GraphOptions,
): Flow {
  const flow = new Flow(nextSerial(), wanted)
  ys.forEach((y, i) => {
    const dy = dys[i]
    if (!y.tracked)
      throw new Error('backward: no gradient flows to this tensor: nothing it was computed from requires one')
    if (dy === undefined && y.size !== 1)
      throw new Error(
        `backward: the tensor has the shape ${shown(y)}; without a given gradient it should have one element`,
      )
    if (dy && !sameShape(dy.shape, y.shape))
      throw new Error(`backward: the gradient is ${shown(dy)} but the tensor is ${shown(y)}`)
    flow.send(y, dy ?? fullLike(y, 1))
  })
  const order = usersFirst(ys.flatMap((y) => y.node ?? []))
  const needed = wanted && towards(order, wanted)
  for (const node of order) {
    const arrived = flow.take(node)
    if (!arrived || (needed && !needed.has(node))) continue
    if (!node.backward)
      throw new Error(
        `backward: the graph of ${node.name} has been freed by an earlier backward(); pass { retainGraph: true } there`,
      )
    const ds = node.backward(arrived, !options.retainGraph)
    if (ds.length !== node.inputs.length)
      throw new Error(`backward: ${node.name} returned ${ds.length} gradients for ${node.inputs.length} inputs`)
    const sent = ds.map((d, i) => {
      const input = node.inputs[i]!
      if (!d || !input.tracked) return d
      if (!sameShape(d.shape, input.shape))
        throw new Error(
          `backward: ${node.name} returned a gradient of shape ${shown(d)} for input ${i}, which is ${shown(input)}`,
        )
      const fitting = d.dtype === input.dtype ? d : new Tensor(native.cast(d.handle, dtypeCode(input.dtype)))
      flow.send(input, fitting)
      return fitting
    })
    flow.settle(ds)
    flow.settle(sent)
    for (const d of arrived) if (d) flow.release(d)
    if (!options.retainGraph) {
      node.backward = null
      node.inputs = []
      node.saved = []
    }
  }
  return flow
}

/**
 * Adds the gradient of `y` to `grad` of every tensor with `requiresGrad` that `y` was computed from.
 * `dy` is the gradient that arrives at `y`; it may be left out if `y` has one element.
 * The graph is freed, unless `retainGraph`.
 * @throws Error if no gradient flows to `y`, `dy` has another shape, or the graph has been freed
 */
export function backward(y: Tensor, dy?: Tensor, options: GraphOptions = {}): void {
  noGrad(() => {
    // A copy, because dy may be a gradient that is added to on the way.
    const seed = dy && new Tensor(native.cast(dy.handle, dtypeCode(dy.dtype)))
    const flow = collectingInPlace(true, () => walk([y], [seed], null, options))
    for (const [leaf, d] of flow.collected) {
      leaf.grad = flow.owns(d) ? d : new Tensor(native.cast(d.handle, dtypeCode(d.dtype)))
      if (leaf.grad !== d) flow.release(d)
      // A gradient lives as long as its tensor; in a scope that does not own the tensor, it outlives the scope.
      if (!leaf.owned) keep(leaf.grad)
    }
    seed?.dispose()
  })
}

/**
 * The gradients of `y` with respect to `inputs`, null where `y` does not depend on one. `grad` fields stay as they are.
 * `dy` may be left out if `y` has one element.
 */
export function grad(y: Tensor, inputs: readonly Tensor[], dy?: Tensor, options: GraphOptions = {}): (Tensor | null)[] {
  return gradients([y], inputs, [dy], options)
}

function gradients(
  ys: readonly Tensor[],
  inputs: readonly Tensor[],
  dys: readonly (Tensor | undefined)[],
  options: GraphOptions = {},
): (Tensor | null)[] {
  return noGrad(() => {
    const flow = collectingInPlace(false, () => walk(ys, dys, new Set(inputs), options))
    return inputs.map((input) => flow.collected.get(input) ?? null)
  })
}

// A tensor of the same memory that gradients are collected for.
function leafOf(t: Tensor): Tensor {
  const leaf = t.detach()
  leaf.requiresGrad = isFloating(t.dtype)
  return leaf
}

/**
 * A function that returns the value of `fn` (one element) and its gradients with respect to its tensor arguments, null for
 * those that it does not depend on.
 */
export function valueAndGrad<A extends Tensor[]>(
  fn: (...args: A) => Tensor,
): (...args: A) => { value: Tensor; grads: (Tensor | null)[] } {
  return (...args) => {
    const inputs = args.map(leafOf) as A
    const value = withGrad(() => fn(...inputs))
    const grads = value.tracked ? grad(value, inputs) : inputs.map(() => null)
    value.node = null
    return { value, grads }
  }
}

/**
 * An operation of your own: `forward` computes from plain tensors (its own steps are not recorded), `backward` takes the
 * gradient of the result and what forward returned as `saved`, and returns one gradient (or null) for each input.
 * The gradients that pass through `backward` are freed after it; take `dy.detach()` of one to keep it.
 */
export function customOp<I extends Tensor[], S extends readonly Tensor[] = []>(op: {
  name?: string
  forward: (...inputs: I) => Tensor | { y: Tensor; saved: S }
  backward: (dy: Tensor, context: { inputs: I; y: Tensor; saved: S }) => readonly (Tensor | null)[]
}): (...inputs: I) => Tensor {
  return (...inputs) => {
    const result = noGrad(() => op.forward(...inputs))
    const [made, saved] = result instanceof Tensor ? [result, [] as unknown as S] : [result.y, result.saved]
    // A tensor of its own, so that an input that is handed through does not get this history.
    const y = inputs.includes(made) || made.tracked ? made.detach() : made
    if (recorded(inputs)) {
      const inner = y.detach()
      y.node = {
        name: op.name ?? 'customOp',
        inputs,
        saved: [inner, ...saved],
        outputs: 1,
        backward: ([dy]) => op.backward(dy!, { inputs, y: inner, saved }),
      }
    }
    return y
  }
}

// All tensors in what a function returned: itself, in an array, or the values of an object.
const parts = (result: unknown): Tensor[] =>
  result instanceof Tensor
    ? [result]
    : result !== null && typeof result === 'object'
      ? Object.values(result).flatMap((one) => (one instanceof Tensor ? [one] : []))
      : []

function replaceParts<R>(result: R, change: (t: Tensor) => Tensor): R {
  if (result instanceof Tensor) return change(result) as R
  if (result === null || typeof result !== 'object') return result
  if (Array.isArray(result)) return result.map((one) => (one instanceof Tensor ? change(one) : one)) as R
  return Object.fromEntries(
    Object.entries(result).map(([key, one]) => [key, one instanceof Tensor ? change(one) : one]),
  ) as R
}

// What gradients of `ys` reach of the tensors that existed before `since`.
function captured(ys: readonly Tensor[], since: number): Set<Tensor> {
  const found = new Set<Tensor>()
  const seen = new Set<Node>()
  const stack: Tensor[] = [...ys]
  while (stack.length) {
    const t = stack.pop()!
    if (t.serial < since) {
      if (t.tracked) found.add(t)
    } else if (t.node && !seen.has(t.node)) {
      seen.add(t.node)
      stack.push(...t.node.inputs)
    }
  }
  return found
}

/**
 * Computes `fn(...args)` without keeping what its gradient needs; `backward` computes it again, with the same random
 * numbers. Saves memory for time. Gradients flow to the tensors among `args` and to those that `fn` captured from outside,
 * parameters for example. `fn` returns a tensor, or tensors in an array or object.
 * @throws TypeError if `fn` is async
 */
export function checkpoint<A extends readonly unknown[], R>(fn: (...args: A) => R, ...args: A): R {
  if (!context().recording) return fn(...args)
  const generator = currentGenerator()
  const since = nextSerial()
  const leavesOf = (): A => args.map((a) => (a instanceof Tensor && a.tracked ? leafOf(a) : a)) as unknown as A
  let outside: Tensor[] = []
  let tracked: boolean[] = []
  const result = scope(() => {
    const made = fn(...leavesOf())
    if (made instanceof Promise) throw new TypeError('checkpoint: fn should not be async')
    const ys = parts(made)
    outside = [...captured(ys, since)]
    tracked = ys.map((y) => y.tracked)
    return replaceParts(made, (y) => y.detach())
  })
  const given = args.filter((a): a is Tensor => a instanceof Tensor && a.tracked)
  const inputs = [...given, ...outside]
  if (!inputs.length) return result
  const node: Node = {
    name: 'checkpoint',
    inputs,
    saved: [],
    outputs: tracked.length,
    backward: (dys) =>
      scope(() => {
        const leaves = leavesOf()
        const ys = withGenerator(generator, () => withGrad(() => parts(fn(...leaves))))
        const used = ys.flatMap((y, i) => (dys[i] && y.tracked ? [{ y, dy: dys[i] }] : []))
        const wanted = [...leaves.filter((a, i): a is Tensor => a !== args[i]), ...outside]
        return gradients(
          used.map(({ y }) => y),
          wanted,
          used.map(({ dy }) => dy),
        )
      }),
  }
  parts(result).forEach((y, i) => {
    if (!tracked[i]) return
    y.node = node
    y.output = i
  })
  return result
}

/** Settings of `gradcheck`. */
export interface GradcheckOptions {
  /** The step of the central difference. Default 1e-6. */
  eps?: number
  /** Allowed difference. Default 1e-7. */
  atol?: number
  /** Allowed difference relative to the larger of both slopes. Default 1e-5. */
  rtol?: number
  /** At most so many elements of each input are tried, evenly spread. Default all. */
  most?: number
}

/**
 * Compares the gradient of `fn` with central differences, in float64: floating-point inputs are converted, others passed as
 * they are. `fn` returns a tensor or a list of tensors; a fixed weighted sum of their elements is differentiated.
 * @returns true
 * @throws Error that names the input, the element and both slopes where they differ, or are NaN
 */
export function gradcheck(
  fn: (...inputs: Tensor[]) => Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradcheckOptions = {},
): true {
  const { eps = 1e-6, atol = 1e-7, rtol = 1e-5, most = Number.POSITIVE_INFINITY } = options
  const values = inputs.map((t) => {
    if (!isFloating(t.dtype)) return null
    const wide = new Tensor<'float64'>(native.cast(t.handle, dtypeCode('float64')))
    const data = wide.dataSync()
    wide.dispose()
    return data
  })
  const leaf = (i: number, data: Float64Array): Tensor => tensor(data, { shape: inputs[i]!.shape, requiresGrad: true })
  const weighted = (ys: readonly Tensor[]): Tensor =>
    ys
      .map((y, k) => {
        if (y.dtype !== 'float64') throw new Error(`gradcheck: output ${k} is ${y.dtype}, but should be float64`)
        const weights = Float64Array.from({ length: y.size }, (_, i) => 1 + Math.sin(12.9898 * (i + 1) + 78.233 * k))
        return sum(mul(y, tensor(weights, { shape: y.shape })))
      })
      .reduce((a, b) => add(a, b))
  const list = (y: Tensor | readonly Tensor[]): readonly Tensor[] => (y instanceof Tensor ? [y] : y)

  const slopes = scope(() =>
    withGrad(() => {
      const leaves = inputs.map((t, i) => (values[i] ? leaf(i, values[i]) : t))
      const total = weighted(list(fn(...leaves)))
      const ds = total.tracked ? grad(total, leaves) : leaves.map(() => null)
      return ds.map((d, i) => (d?.dataSync() as Float64Array | undefined) ?? new Float64Array(values[i]?.length ?? 0))
    }),
  )
  values.forEach((data, i) => {
    if (!data) return
    const every = Math.max(1, Math.ceil(data.length / most))
    for (let at = 0; at < data.length; at += every) {
      const valueAt = (x: number): number =>
        scope(() =>
          noGrad(() => {
            const moved = data.slice()
            moved[at] = x
            const leaves = inputs.map((t, k) => (k === i ? leaf(k, moved) : values[k] ? leaf(k, values[k]) : t))
            return weighted(list(fn(...leaves))).itemSync()
          }),
        )
      const [high, low] = [data[at]! + eps, data[at]! - eps]
      const numeric = (valueAt(high) - valueAt(low)) / (high - low)
      const analytic = slopes[i]![at]!
      const allowed = atol + rtol * Math.max(Math.abs(numeric), Math.abs(analytic))
      if (!(Math.abs(numeric - analytic) <= allowed))
        throw new Error(
          `gradcheck: input ${i} ${shown(inputs[i]!)}, element ${at}: the gradient is ${analytic}, but the slope is ${numeric} (${allowed} apart would be allowed)`,
        )
    }
  })
  return true
}
