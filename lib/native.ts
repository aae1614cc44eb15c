// Finds and loads the binary. The only file that knows where it is.
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Handle, Ops } from './signatures.ts'

export type { Handle } from './signatures.ts'

type Bytes = Exclude<NodeJS.TypedArray, never>

/** What the addon offers besides its ops: the crossing itself. */
interface Crossing {
  signatures: string[]
  builtWithCuda: boolean
  /** The handle dies with the object. */
  attach(handle: Handle, object: object): void
  release(handle: Handle): void
  /** Exchanges the tensors behind two handles. */
  swap(a: Handle, b: Handle): void
  sweep(): number
  setCollector(collect: (full: boolean) => void): void
  write(handle: Handle, from: Bytes): void
  read<A extends Bytes>(handle: Handle, to: A): Promise<A>
  readSync<A extends Bytes>(handle: Handle, to: A): A
  memory(): { inUse: number; cached: number; peak: number; tensors: number }
  trim(): void
  resetPeak(): void
  threads(): number
  setThreads(count: number): void
  instructionSet(): string
  blas(): string
}

export type Native = Ops & Crossing

function load(): Native {
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  const require = createRequire(import.meta.url)
  try {
    return require('node-gyp-build')(root) as Native
  } catch (cause) {
    const here = `${process.platform}-${process.arch}`
    const advice =
      here === 'linux-x64'
        ? 'In a checkout, run ./setup.sh; in a project, `npm rebuild polygrad` or reinstall it.'
        : 'polygrad runs on Linux x64 only.'
    throw new Error(`Could not load the native part of polygrad on ${here}, Node ${process.version}. ${advice}`, {
      cause,
    })
  }
}

export const native: Native = load()

// The collector without a command-line flag: finalizers never run inside a synchronous loop, so the addon asks for a
// collection when many bytes are held by tensors that may be dead, and sweeps.
setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as (options?: { type: 'minor' | 'major' }) => void
native.setCollector((full) => gc(full ? undefined : { type: 'minor' }))
