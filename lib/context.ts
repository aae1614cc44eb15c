// What surrounds the code that runs now: the scope that new tensors belong to, and whether gradients are recorded.
import { AsyncLocalStorage } from 'node:async_hooks'

/** What a scope has to dispose of: tensors, with holes where one has been disposed of or taken out. */
export interface Owned {
  readonly tensors: ({ dispose(): void } | undefined)[]
  /** What an async function makes after the scope that started it has ended belongs to nobody. */
  ended: boolean
}

export interface Context {
  /** New tensors are added here, to be disposed of when the scope ends; undefined outside every scope. */
  readonly owned: Owned | undefined
  readonly recording: boolean
}

const outermost: Context = { owned: undefined, recording: true }
const storage = new AsyncLocalStorage<Context>()
// The context of the synchronous code that runs now. It is unset again before any other code runs, so what is resumed
// after an await finds its own context in the storage.
let current: Context | undefined
let stored = false

/** The context of the calling code. */
export const context = (): Context => current ?? (stored ? storage.getStore() : undefined) ?? outermost

/**
 * Runs `fn`, which may be async, with parts of the context replaced. `finish` gets what it returned (undefined if it
 * threw) before the caller does.
 */
export function within<R>(change: Partial<Context>, fn: () => R, finish: (result: unknown) => void = () => {}): R {
  const before = current
  const inner = { ...context(), ...change }
  let result: R
  stored = true
  current = inner
  try {
    result = storage.run(inner, fn)
  } catch (error) {
    finish(undefined)
    throw error
  } finally {
    current = before
  }
  if (!(result instanceof Promise)) {
    finish(result)
    return result
  }
  return result.then(
    (value) => {
      finish(value)
      return value
    },
    (error) => {
      finish(undefined)
      throw error
    },
  ) as R
}
