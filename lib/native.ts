// Finds and loads the binary. The only file that knows where it is.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { DeviceDataError, DisposedError, OutOfMemoryError } from './errors.ts'
import type { Handle, Ops } from './signatures.ts'

export type { Handle } from './signatures.ts'

type Bytes = Exclude<NodeJS.TypedArray, never>

/** A file in the address space. Unmapped when it is collected, if not before. */
export type Mapping = object & { readonly __brand: unique symbol }

/** A recorded step. */
export type Graph = object & { readonly __brand: unique symbol }
export type Mark = object & { readonly __mark: unique symbol }

/** What the addon offers besides its ops: the crossing itself. */
interface Crossing {
  signatures: string[]
  builtWithCuda: boolean
  /** The handle dies with the object. */
  attach(handle: Handle, object: object): void
  release(handle: Handle): void
  releaseAll(handles: readonly Handle[]): void
  /** Where each call leaves what there is to know of the tensors it returns; see lib/tensor.ts. */
  setResults(rows: Float64Array): void
  /** Exchanges the tensors behind two handles. */
  swap(a: Handle, b: Handle): void
  sweep(): number
  setCollector(collect: (full: boolean) => void): void
  /** Makes the error for what went wrong in C++; sizes in bytes, for ERR_OUT_OF_MEMORY. */
  setErrorMaker(make: (code: string, message: string, requested: number, free: number, peak: number) => Error): void
  write(handle: Handle, from: Bytes): void
  read<A extends Bytes>(handle: Handle, to: A): Promise<A>
  readSync<A extends Bytes>(handle: Handle, to: A): A
  /** Maps an open file for reading; `fd` may be closed after. */
  mapFile(fd: number): Mapping
  /** Fills `to` with what the file has from byte `offset` on. False when the file has become shorter than that. */
  readMapped(file: Mapping, offset: number, to: Bytes): boolean
  unmapFile(file: Mapping): void
  /** Of a kind of device: 0 the CPU, 1 the GPU. */
  memory(device: number): { inUse: number; cached: number; peak: number; tensors: number }
  /** What is called until `endCapture` is recorded instead of done. */
  beginCapture(device: number): void
  endCapture(device: number, keep: boolean): Graph | null
  replay(graph: Graph): void
  destroyGraph(graph: Graph): void
  /** A moment of the device's stream: when all that was queued before is done. */
  mark(device: number): Mark
  /** Seconds between two marks. Waits for both; they cannot be used again. */
  elapsed(device: number, from: Mark, to: Mark): number
  /** Bytes that this process may still take of the GPU's memory. */
  cudaAvailableMemory(): number
  /** GPUs that can be used, or the reason why none can; the newest CUDA that the driver knows, as 13000. */
  cudaReport(): { gpus: { name: string; memory: number; capability: number }[]; reason: string; driver: number }
  trim(): void
  resetPeak(): void
  threads(): number
  setThreads(count: number): void
  instructionSet(): string
  blas(): string
}

export type Native = Ops & Crossing

/**
 * The error of a program whose addon does not load: where it was looked for, what stood in the way, what to do.
 * @internal
 */
export function loadError(root: string, cause: unknown): Error {
  const { glibcVersionRuntime } = (process.report.getReport() as { header: { glibcVersionRuntime?: string } }).header
  const here = `${process.platform}-${process.arch}`
  const libc = glibcVersionRuntime ? `glibc ${glibcVersionRuntime}` : 'no glibc'
  const tried = ['build/Release/polygrad.node', `prebuilds/${here}/polygrad.node`].map((path) => join(root, path))
  const found = tried.find((path) => existsSync(path))
  const reason = found ? String((cause as Error).message ?? cause) : ''
  const advice =
    here !== 'linux-x64'
      ? ['polygrad runs on Linux x64 only for now: use such a machine, or WSL 2, or a container on it.']
      : !glibcVersionRuntime
        ? ['polygrad needs glibc; Alpine and other musl systems have none: use Debian, Ubuntu or the like.']
        : [
            ...(/GLIBC_/.test(reason) ? ['This system is older than the addon: use a newer one, or build here.'] : []),
            'In a checkout: ./setup.sh',
            'In a project: npm install polygrad again, or build: apt-get install cmake g++ make libopenblas-pthread-dev;',
            '  npm install --save-dev cmake-js node-addon-api node-api-headers; node node_modules/polygrad/scripts/build.mjs',
          ]
  const lines = [
    `Could not load the native part of polygrad (${here}, Node ${process.version}, ${libc}).`,
    'Looked for:',
    ...tried.map((path) => `- ${path}: ${path === found ? reason : existsSync(path) ? 'not tried' : 'not there'}`),
    'What to do:',
    ...advice.map((line) => (line.startsWith(' ') ? line : `- ${line}`)),
  ]
  return new Error(lines.join('\n'), { cause })
}

function load(): Native {
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  try {
    const require = createRequire(import.meta.url)
    const asked = process.env.POLYGRAD_NATIVE_PATH
    return (asked ? require(asked) : require('node-gyp-build')(root)) as Native
  } catch (cause) {
    throw loadError(root, cause)
  }
}

export const native: Native = load()

// The collector without a command-line flag: finalizers never run inside a synchronous loop, so the addon asks for a
// collection when many bytes are held by tensors that may be dead, and sweeps.
setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as (options?: { type: 'minor' | 'major' }) => void
native.setCollector((full) => gc(full ? undefined : { type: 'minor' }))

native.setErrorMaker((code, message, requested, free, peak) => {
  if (code === 'ERR_OUT_OF_MEMORY') return new OutOfMemoryError(message, requested, free, peak)
  if (code === 'ERR_DEVICE_DATA') return new DeviceDataError(message)
  if (code === 'ERR_DISPOSED') return new DisposedError(message)
  return Object.assign(new Error(message), { code })
})
