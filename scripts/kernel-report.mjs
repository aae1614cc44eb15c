// What the last CUDA build made of each kernel: registers, shared memory, spills, by architecture. Fails when a kernel
// spills or needs a stack frame; float64 kernels may, no training runs on them.
//   --all   every kernel, not only the widest of each function
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const objects = join(root, 'build/CMakeFiles/polygrad.dir/cuda')

/** Kernels as ptxas tells of them. @returns {{ file: string, symbol: string, arch: string, registers: number, stack: number, spills: number, shared: number }[]} */
function parse(file, text) {
  const kernels = []
  let kernel
  for (const line of text.split('\n')) {
    const [, symbol, arch] = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line) ?? []
    if (symbol) {
      kernel = { file, symbol, arch, registers: 0, stack: 0, spills: 0, shared: 0 }
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
    const [, shared] = /(\d+) bytes smem/.exec(line) ?? []
    if (shared) kernel.shared = Number(shared)
  }
  return kernels
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
  return parse(name.replace(/\.cu\.o\.ptxas$/, ''), text)
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
console.log(
  `${'file'.padEnd(16)} ${'arch'.padEnd(8)} registers  stack  spills  kernel (the one of its instances with most registers)`,
)
for (const k of rows)
  console.log(
    `${k.file.padEnd(16)} ${k.arch.padEnd(8)} ${String(k.registers).padStart(9)} ${String(k.stack).padStart(6)} ${String(k.spills).padStart(7)}  ${k.name.slice(0, 100)}`,
  )
console.log(
  `${kernels.length} kernels for ${[...new Set(kernels.map((k) => k.arch))].join(', ')}; ${kernels.filter(wide).length} of them float64`,
)
for (const warning of warnings) console.error(warning)
for (const k of bad)
  console.error(`${k.file}: ${k.name} for ${k.arch} has a stack frame of ${k.stack} bytes and spills ${k.spills}`)
if (bad.length || warnings.length) process.exit(1)
