// Reverse-mode differentiation: from an output back to what it was computed from, each node after all its users.
import { context } from './context.ts'
import { native } from './native.ts'
import { asTensor, fullLike } from './ops/create.ts'
import { keep, type Node, noGrad, record, recordAll, Tensor, withGrad } from './tensor.ts'

interface Options {
  /** Keep the graph, so that it can be walked again. */
  retainGraph?: boolean
}

// The nodes behind `roots`, each before its users' inputs are: users first. A loop, because graphs are deep.
function usersFirst(roots: readonly Node[]): Node[] {
  const order: Node[] = []
  const state = new Map<Node, number>() // how many inputs have been visited
  for (const root of roots) {
    const stack = [root]
    while (stack.length) {
      const node = stack[stack.length - 1]!
      const at = state.get(node) ?? 0
      if (at === node.inputs.length) {
        stack.pop()
        if (state.get(node) !== -1) order.push(node)
        state.set(node, -1)
      } else if (at === -1) stack.pop()
      else {
        state.set(node, at + 1)
        const next = node.inputs[at]!.node
        if (next && (state.get(next) ?? 0) === 0) stack.push(next)
      }
    }
  }
  return order.reverse()
}

/** Gradients that are on their way: added up at each tensor, freed once they have been passed on. */
class Flow {
  readonly #arrived = new Map<Node, (Tensor | null)[]>()
  readonly #leaves = new Map<Tensor, Tensor>()
  readonly #uses = new Map<Tensor, number>()
  readonly #since: number

  constructor(
    since: number,
    readonly wanted: ReadonlySet<Tensor> | null,
  ) {
    this.#since = since
  }

  send(to: Tensor, d: Tensor): void {
    const isLeaf = to.node === null
    if (this.wanted ? this.wanted.has(to) : isLeaf && to.requiresGrad)
      this.#add(d, this.#leaves.get(to), (sum) => this.#leaves.set(to, sum))
    if (isLeaf) return
    let slots = this.#arrived.get(to.node!)
    if (!slots) {
      slots = new Array(to.node!.outputs).fill(null)
      this.#arrived.set(to.node!, slots)
    }
    this.#add(d, slots[to.output] ?? undefined, (sum) => {
      slots[to.output] = sum
    })
  }

  #add(d: Tensor, sum: Tensor | undefined, set: (sum: Tensor) => void): void {
    if (sum === undefined) {
      this.#uses.set(d, (this.#uses.get(d) ?? 0) + 1)
      set(d)
      return
    }
    // The sum of two gradients belongs to this walk alone; a first gradient may be shared or be the caller's.
    const total = new Tensor(native.add(sum.handle, d.handle))
    this.#uses.set(total, 1)
    set(total)
    this.#drop(sum)
    if (!this.#uses.has(d)) this.#free(d)
  }

  #drop(d: Tensor): void {
    const left = (this.#uses.get(d) ?? 1) - 1
    if (left > 0) {
      this.#uses.set(d, left)
      return
    }
    this.#uses.delete(d)
    this.#free(d)
  }

  // Only what this walk made, so never a tensor that a backward function saved earlier and handed out.
  #free(d: Tensor): void {
    if (d.serial >= this.#since && d.node === null) d.dispose()
  }

  take(node: Node): (Tensor | null)[] | undefined {
    const slots = this.#arrived.get(node)
    this.#arrived.delete(node)
    return slots
  }

  done(slots: readonly (Tensor | null)[]): void {
    for (const d of slots) if (d) this.#drop(d)
  }

  leaf(t: Tensor): Tensor | undefined {
    return this.#leaves.get(t)
  }

  leaves(): Iterable<[Tensor, Tensor]> {
    return this.#leaves
  }
}

function walk(y: Tensor, dy: Tensor | undefined, wanted: ReadonlySet<Tensor> | null, options: Options): Flow {
  if (!y.tracked)
    throw new Error('backward: no gradient flows to this tensor: nothing it was computed from requires one')
  if (dy === undefined && y.size !== 1)
    throw new Error(
      `backward: the tensor has the shape [${y.shape.join(', ')}]; without a given gradient it should have one element`,
    )
  if (dy && dy.shape.join() !== y.shape.join())
    throw new Error(`backward: the gradient is [${dy.shape.join(', ')}] but the tensor is [${y.shape.join(', ')}]`)
  const seed = dy ?? fullLike(y, 1)
  const flow = new Flow(seed.serial + (dy ? 1 : 0), wanted)
  flow.send(y, seed)
  for (const node of y.node ? usersFirst([y.node]) : []) {
    const dys = flow.take(node)
    if (!dys) continue
    if (!node.backward)
      throw new Error(
        `backward: the graph of ${node.name} has been freed by an earlier backward(); pass { retainGraph: true } there`,
      )
    const ds = node.backward(dys)
    if (ds.length !== node.inputs.length)
      throw new Error(`backward: ${node.name} returned ${ds.length} gradients for ${node.inputs.length} inputs`)
    ds.forEach((d, i) => {
      const input = node.inputs[i]!
      if (!d) return
      if (!input.tracked) {
        return
      }
      if (d.shape.join() !== input.shape.join())
        throw new Error(
          `backward: ${node.name} returned a gradient of shape [${d.shape.join(', ')}] for input ${i}, which is [${input.shape.join(', ')}]`,
        )
      flow.send(input, d)
    })
    flow.done(dys)
    if (!options.retainGraph) node.backward = null
  }
  return flow
}

/**
 * Adds the gradient of `y` to `grad` of every tensor with `requiresGrad` that `y` was computed from.
 * `dy` is the gradient that arrives at `y`; it may be left out if `y` has one element.
 * The graph is freed, unless `retainGraph`.
 */
export function backward(y: Tensor, dy?: Tensor, options: Options = {}): void {
  noGrad(() => {
    for (const [leaf, d] of walk(y, dy, null, options).leaves()) {
      if (leaf.grad) native.accumulate(d.handle, leaf.grad.handle)
      else leaf.grad = keep(d === dy ? new Tensor(native.cast(d.handle, native.dtypeOf(d.handle))) : d)
    }
  })
}

/**
 * The gradients of `y` with respect to `inputs`, null where `y` does not depend on one. `grad` fields stay as they are.
 */
export function grad(y: Tensor, inputs: readonly Tensor[], dy?: Tensor, options: Options = {}): (Tensor | null)[] {
  return noGrad(() => {
    const flow = walk(y, dy, new Set(inputs), options)
    return inputs.map((input) => flow.leaf(input) ?? null)
  })
}

/** A function that returns the value of `fn` (one element) and its gradients with respect to its tensor arguments. */
export function valueAndGrad<A extends Tensor[]>(
  fn: (...args: A) => Tensor,
): (...args: A) => { value: Tensor; grads: (Tensor | null)[] } {
  return (...args) => {
    const inputs = args.map((t) => {
      const leaf = t.detach()
      leaf.requiresGrad = true
      return leaf
    }) as A
    const value = withGrad(() => fn(...inputs))
    const grads = value.tracked ? grad(value, inputs) : inputs.map(() => null)
    value.node = null
    return { value, grads }
  }
}

/**
 * An operation of your own: `forward` computes from plain tensors (its own steps are not recorded), `backward` takes the
 * gradient of the result and what forward returned as `saved`, and returns one gradient (or null) for each input.
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
    const y = inputs.includes(made) ? new Tensor(native.alias(made.handle)) : made
    const inner = y.detach()
    if (context().recording && inputs.some((t) => t.tracked))
      y.node = {
        name: op.name ?? 'customOp',
        inputs,
        saved: [inner, ...saved],
        outputs: 1,
        backward: ([dy]) => op.backward(dy!, { inputs, y: inner, saved }),
      }
    return y
  }
}

export { asTensor, record, recordAll }
