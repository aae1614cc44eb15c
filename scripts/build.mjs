// Builds the addon (build/Release/polygrad.node) through cmake-js, then writes lib/signatures.ts from what the addon says of itself.
//   --cuda       with the CUDA backend: for the GPU that is here, or for every supported one where there is none
//                (POLYGRAD_CUDA_ARCHITECTURES, as CMake writes them, asks for others: `80-real;90a`)
//   --no-cuda    without it (default: with it when both nvcc and a GPU are here; POLYGRAD_CUDA=1 or 0 says the same)
//   --cuda-on-cpu  also build/cuda-on-cpu/polygrad.node, for tests: the CUDA kernels compiled for the CPU
//   --tests      that alone, leaving the addon as it was built
//   --prebuild   for every architecture; also copies the addon, stripped, to prebuilds/linux-x64/, where npm users find it
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const root = dirname(dirname(fileURLToPath(import.meta.url)))
const flags = new Set(process.argv.slice(2))
const addon = join(root, 'build/Release/polygrad.node')

function fail(message) {
  console.error(`polygrad: ${message}`)
  process.exit(1)
}

for (const flag of flags)
  if (!['--cuda', '--no-cuda', '--cuda-on-cpu', '--tests', '--prebuild'].includes(flag))
    fail(`unknown option ${flag} (--cuda, --no-cuda, --cuda-on-cpu, --tests, --prebuild)`)

/** What a command prints, or undefined when it is not there or fails. */
function ask(command, ...args) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return undefined
  }
}

/** The CUDA architectures of the GPUs here, as CMake writes them: `90a`, with the PTX that `npm run kernels` reads. */
function architecturesHere() {
  const found = ask('nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader')
  const capabilities = found?.match(/^\d+\.\d+$/gm) ?? []
  return [...new Set(capabilities.map((c) => `${c.replace('.', '')}${Number(c) >= 9 ? 'a' : ''}`))]
}

const { POLYGRAD_CUDA_ARCHITECTURES: wanted } = process.env
const nvcc = ['nvcc', '/usr/local/cuda/bin/nvcc'].find((path) => ask(path, '--version'))
const architectures = wanted?.split(';') ?? (flags.has('--prebuild') ? [] : architecturesHere())
const asked = flags.has('--cuda') || process.env.POLYGRAD_CUDA === '1'
const refused = flags.has('--no-cuda') || process.env.POLYGRAD_CUDA === '0'
const cuda = !refused && (asked || (nvcc !== undefined && architectures.length > 0))
if (cuda && !nvcc) fail('--cuda needs the CUDA toolkit: nvcc is neither on PATH nor in /usr/local/cuda/bin')

let cmakeJs
try {
  cmakeJs = require.resolve('cmake-js/bin/cmake-js')
} catch {
  fail(
    'building needs three packages that users of a prebuilt addon do not: npm install cmake-js node-addon-api node-api-headers',
  )
}

// A build folder that was made for another checkout, or by another generator, cannot be continued.
const cache = join(root, 'build/CMakeCache.txt')
if (existsSync(cache) && !readFileSync(cache, 'utf8').includes(`\nCMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`))
  rmSync(join(root, 'build'), { recursive: true })

const options = [
  `--CDWITH_CUDA=${cuda ? 'ON' : 'OFF'}`,
  `--CDCUDA_ARCHITECTURES=${cuda ? architectures.join(';') : ''}`,
  `--CDREADABLE_PTX=${flags.has('--prebuild') ? 'OFF' : 'ON'}`,
  ...(cuda && nvcc !== 'nvcc' ? [`--CDCMAKE_CUDA_COMPILER=${nvcc}`] : []),
]
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism())
const forTests = ['build', '--parallel', jobs, '--target', 'cuda_on_cpu']
const steps = flags.has('--tests')
  ? [forTests]
  : [['configure', ...options], ['build', '--parallel', jobs], ...(flags.has('--cuda-on-cpu') ? [forTests] : [])]
try {
  for (const [name, ...rest] of steps)
    execFileSync(process.execPath, [cmakeJs, name, '--directory', root, '--log-level', 'error', ...rest], {
      cwd: root,
      stdio: 'inherit',
    })
} catch {
  fail('the addon did not build; the first error above says why')
}
if (flags.has('--tests')) process.exit(0)

const { signatures, builtWithCuda } = require(addon)
const text = [
  '// Written by scripts/build.mjs from the addon itself: every op that C++ offers, one line each. Do not edit.',
  '',
  '/** A tensor on the native side: its number in the table of the environment that made it. */',
  'export type Handle = number & { readonly __brand: unique symbol }',
  '',
  'export interface Ops {',
  ...[...signatures].sort().map((line) => `  ${line}`),
  '}',
  '',
].join('\n')
const written = join(root, 'lib/signatures.ts')
if (!existsSync(written) || readFileSync(written, 'utf8') !== text) {
  mkdirSync(dirname(written), { recursive: true })
  writeFileSync(written, text)
  console.log('lib/signatures.ts changed')
}

const size = (path) => `${(statSync(path).size / 2 ** 20).toFixed(1)} MiB`
console.log(
  `${signatures.length} ops in build/Release/polygrad.node, ${size(addon)}, ${builtWithCuda ? 'with' : 'without'} CUDA`,
)

if (flags.has('--prebuild')) {
  const target = join(root, `prebuilds/${process.platform}-${process.arch}/polygrad.node`)
  mkdirSync(dirname(target), { recursive: true })
  execFileSync('strip', ['--strip-unneeded', '-o', target, addon])
  console.log(`${target.slice(root.length + 1)}: ${size(target)} stripped`)
}
