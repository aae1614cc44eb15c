// What the last CUDA build made of each kernel: registers, shared memory, spills and how many blocks a processor holds, by
// architecture. Fails when a kernel spills or needs a stack frame; float64 kernels may, no training runs on them.
//   --all    every kernel, not only the widest of each function
//   FOLDER   where the objects are (default: those of the build here)
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const given = process.argv.slice(2).filter((argument) => argument !== '--all')
const objects = given[0] ?? join(root, 'build/CMakeFiles/polygrad.dir/cuda')

// What a multiprocessor has, by compute capability (CUDA C++ Programming Guide, technical specifications).
const processors = {
  80: { warps: 64, blocks: 32, shared: 164 << 10 },
  89: { warps: 48, blocks: 24, shared: 100 << 10 },
  90: { warps: 64, blocks: 32, shared: 228 << 10 },
  100: { warps: 64, blocks: 32, shared: 228 << 10 },
  120: { warps: 48, blocks: 24, shared: 100 << 10 },
}

/** Kernels as ptxas tells of them. @returns {{ file: string, symbol: string, arch: string, registers: number, stack: number, spills: number }[]} */
function parse(file, text) {
  const kernels = []
  let kernel
  for (const line of text.split('\n')) {
    const [, symbol, arch] = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line) ?? []
    if (symbol) {
      kernel = { file, symbol, arch, registers: 0, stack: 0, spills: 0 }
      kernels.push(kernel)
    }
    if (!kernel) continue
    const [, stack, stores, loads] =
      /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line) ?? []
    // A function that is called has properties of its own; they count for the kernel before it.
    if (stack) kernel.stack += Number(stack)
    if (stores) kernel.spills += Number(stores) + Number(loads)
    const [, registers] = /Used (\d+) registers/.exec(line) ?? []
    if (registers) kernel.registers = Number(registers)
  }
  return kernels
}

/**
 * What the PTX in an object says of its kernels: threads a block may have (__launch_bounds__) and bytes of shared memory
 * (`launch`: as each launch likes), which sharedBytes() of cuda/device/shared.cuh wrote there. All of it is dynamic, so
 * ptxas does not know; that launches give as much is what the emulator checks when it runs them.
 */
function ptxOf(path) {
  const found = new Map()
  if (!existsSync(path)) return found
  const text = readFileSync(path, 'latin1')
  // A function or an entry lasts to the next one; behind the last there are bytes of something else.
  for (const [, kind, symbol, body] of text.matchAll(
    /^(?:\.(?:visible|weak) )*\.(entry|func)\s(?:\(.*\) )?(\w+)\(([\s\S]*?\n\}\n)/gm,
  )) {
    const named = [...body.matchAll(/\.reg \.b32 sharedMemory(\d+);/g)].map(([, bytes]) => Number(bytes))
    if (kind === 'func' && (named.length || /dynamicShared/.test(body)))
      throw new Error(
        `${path}: the function ${symbol} uses shared memory but was not inlined: its kernel does not show it`,
      )
    if (!named.length && /dynamicShared/.test(body))
      throw new Error(
        `${path}: ${symbol} uses shared memory that sharedBytes() of cuda/device/shared.cuh did not give it`,
      )
    // For another architecture than this PTX the kernel may have a body.
    const shared = named.includes(0)
      ? 'launch'
      : named.length
        ? Math.max(...named)
        : /\{\s*ret;\s*\}/.test(body)
          ? '?'
          : 0
    const threads = /^\.(?:maxntid|reqntid) (\d+)/m.exec(body)?.[1]
    const before = found.get(symbol)
    if (!before || before.shared === '?') found.set(symbol, { shared, threads: threads ? Number(threads) : '?' })
  }
  return found
}

/** Blocks of a kernel that a multiprocessor holds, and what keeps it from more. */
function resident({ arch, registers, shared, threads }) {
  const has = processors[Number.parseInt(arch.replace('sm_', ''), 10)]
  if (!has || typeof threads !== 'number' || shared === '?') return '?'
  const warps = Math.ceil(threads / 32)
  // Each quarter of a multiprocessor has 16384 registers and gives them to warps in units of 256.
  const warpsByRegisters = 4 * Math.floor(16384 / (256 * Math.ceil((32 * registers) / 256)))
  const limits = [
    ['warps', Math.floor(has.warps / warps)],
    ['blocks', has.blocks],
    ['registers', Math.floor(warpsByRegisters / warps)],
    // The system takes 1 KiB of each block.
    [
      'shared',
      shared === 'launch' ? Number.POSITIVE_INFINITY : Math.floor(has.shared / (1024 + 128 * Math.ceil(shared / 128))),
    ],
  ]
  const [by, blocks] = limits.reduce((least, one) => (one[1] < least[1] ? one : least))
  return `${blocks} ${by}`
}

let files = []
try {
  files = readdirSync(objects).filter((name) => name.endsWith('.ptxas'))
} catch {}
if (!files.length) {
  console.error('kernel-report: there is no CUDA build to report on; ./setup.sh --cuda makes one')
  process.exit(1)
}
const warnings = []
const kernels = files.flatMap((name) => {
  const text = readFileSync(join(objects, name), 'utf8')
  // C75..: registers of warpgroups that cannot be handed over, or products (wgmma) made to wait for each other.
  for (const line of text.split('\n'))
    if (/^ptxas (warning|info +: \(C75\d\d\))/.test(line)) warnings.push(`${name}: ${line}`)
  const ptx = ptxOf(join(objects, name.replace(/\.ptxas$/, '')))
  return parse(name.replace(/\.cu\.o\.ptxas$/, ''), text).map((kernel) => {
    const all = { ...kernel, shared: '?', threads: '?', ...ptx.get(kernel.symbol) }
    return { ...all, resident: resident(all) }
  })
})
const names = execFileSync('c++filt', { input: kernels.map((k) => k.symbol).join('\n'), encoding: 'utf8' }).split('\n')
kernels.forEach((kernel, i) => {
  kernel.name = names[i]
    .replace(/^void /, '')
    .replace(/\(anonymous namespace\)::|cuda::/g, '')
    .replace(/\((?!anonymous).*\)$/, '')
})

const wide = (kernel) => /\bdouble\b/.test(kernel.name)
const bad = kernels.filter((kernel) => !wide(kernel) && (kernel.stack || kernel.spills))
const shown = new Map() // function and architecture -> its kernel of most registers
for (const kernel of kernels) {
  const key = process.argv.includes('--all')
    ? kernel.symbol + kernel.arch
    : `${kernel.file}:${kernel.name.replace(/<.*/, '')} ${wide(kernel)} ${kernel.arch}`
  const seen = shown.get(key)
  if (!seen || kernel.spills > seen.spills || (kernel.spills === seen.spills && kernel.registers > seen.registers))
    shown.set(key, { ...kernel, count: 0 })
}
const rows = [...shown.values()].sort((a, b) => a.file.localeCompare(b.file) || a.name.localeCompare(b.name))
const columns = [
  ['file', -21, (k) => k.file],
  ['arch', -8, (k) => k.arch],
  ['registers', 9, (k) => k.registers],
  ['stack', 6, (k) => k.stack],
  ['spills', 7, (k) => k.spills],
  ['shared', 7, (k) => k.shared],
  ['threads', 8, (k) => k.threads],
  ['  blocks, by', -13, (k) => `  ${k.resident}`],
  ['kernel (the one of its instances with most registers)', -1, (k) => k.name.slice(0, 100)],
]
const line = (cells) =>
  columns
    .map(([, width], i) => (width < 0 ? String(cells[i]).padEnd(-width) : String(cells[i]).padStart(width)))
    .join(' ')
console.log(line(columns.map(([title]) => title)))
for (const k of rows) console.log(line(columns.map(([, , of]) => of(k))))
console.log(
  'shared: bytes a block; `launch`: as each launch likes. threads: most a block may have. blocks: resident at a time, and what keeps more out.',
)
const unknown = kernels.filter((kernel) => kernel.shared === '?').length
if (unknown)
  console.log(
    `${unknown} of ${kernels.length} have no readable PTX in the build, so their shared memory is not known: build without --prebuild, for an architecture not only -real`,
  )
console.log(
  `${kernels.length} kernels for ${[...new Set(kernels.map((k) => k.arch))].join(', ')}; ${kernels.filter(wide).length} of them float64`,
)
for (const warning of warnings) console.error(warning)
for (const k of bad)
  console.error(`${k.file}: ${k.name} for ${k.arch} has a stack frame of ${k.stack} bytes and spills ${k.spills}`)
if (bad.length || warnings.length) process.exit(1)
