// scripts/kernel-report.mjs on what ptxas and nvcc leave of small builds: what it prints, and what it refuses.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'

const script = join(dirname(fileURLToPath(import.meta.url)), '../scripts/kernel-report.mjs')
const temp = mkdtempSync(join(tmpdir(), 'polygrad-kernels-'))
afterAll(() => rmSync(temp, { recursive: true, force: true }))

interface Kernel {
  symbol: string
  arch?: string
  registers?: number
  stack?: number
  spills?: number
  /** Of its PTX; absent: the object has none of it. */
  body?: string
  threads?: number
}

const log = ({ symbol, arch = 'sm_80', registers = 32, stack = 0, spills = 0 }: Kernel): string => `\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '${symbol}' for '${arch}'
ptxas info    : Function properties for ${symbol}
    ${stack} bytes stack frame, ${spills} bytes spill stores, 0 bytes spill loads
ptxas info    : Used ${registers} registers, used 1 barriers
`
const entry = ({ symbol, body, threads }: Kernel): string =>
  body === undefined
    ? ''
    : `.entry ${symbol}(\n\t.param .u64 ${symbol}_param_0\n)\n${threads ? `.maxntid ${threads}, 1, 1\n` : ''}{\n${body}\tret;\n\n}\n\n`

let folders = 0
/** The report of one object file with these kernels, and of what else its PTX holds. */
function report(kernels: Kernel[], ptx = '', ...options: string[]) {
  const folder = join(temp, String(folders++))
  mkdirSync(folder)
  // As in an object file: text among bytes that are none.
  const bytes = Buffer.from([0x7f, 0x45, 0, 0xff, 0x0a])
  const text = `.version 9.0\n.target sm_80\n.extern .shared .align 1024 .b8 _ZN4cuda13dynamicSharedE[];\n\n`
  writeFileSync(
    join(folder, 'norm.cu.o'),
    Buffer.concat([bytes, Buffer.from(text + kernels.map(entry).join('') + ptx), bytes]),
  )
  writeFileSync(join(folder, 'norm.cu.o.ptxas'), kernels.map(log).join(''))
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...options, folder], { encoding: 'utf8' })
  const [head, ...rows] = stdout.split('\n').filter((line) => /^(file|norm) /.test(line))
  return { status, stdout, stderr, head, rows: rows.map((row) => row.trim().split(/\s+/)) }
}

const symbol = (name: string, type = 'f') => `_ZN4cuda${name.length}${name}I${type}EEvPT_`
const uses = (bytes: number): string =>
  `\t.reg .b32 %r<2>;\n\t{ .reg .b32 sharedMemory${bytes}; }\n\tmov.u32 %r1, _ZN4cuda13dynamicSharedE;\n`
const uninvolved = '\t.reg .b32 %r<2>;\n\tmov.u32 %r1, %tid.x;\n'

test('a row a kernel: registers, shared memory, threads, and how many blocks fit', () => {
  const { status, head, rows } = report([
    { symbol: symbol('many'), registers: 168, body: uses(49152), threads: 128 },
    { symbol: symbol('none'), registers: 16, body: uninvolved, threads: 1024 },
    { symbol: symbol('asked'), registers: 24, body: uses(0), threads: 32 },
    { symbol: symbol('free'), registers: 255, body: uses(128) },
    { symbol: symbol('wide'), registers: 80, body: uninvolved, threads: 256 },
  ])
  expect(status).toBe(0)
  expect(
    head!
      .trim()
      .split(/ {2,}| (?=stack|spills|shared|threads)/)
      .slice(0, 7),
  ).toEqual(['file', 'arch', 'registers', 'stack', 'spills', 'shared', 'threads'])
  // 164 KiB a processor of sm_80: three blocks of 48 + 1 KiB. 65536 registers: three of 256 threads with 80 each.
  expect(rows).toEqual([
    ['norm', 'sm_80', '24', '0', '0', 'launch', '32', '32', 'blocks', 'asked<float>'],
    ['norm', 'sm_80', '255', '0', '0', '128', '?', '?', 'free<float>'],
    ['norm', 'sm_80', '168', '0', '0', '49152', '128', '3', 'registers', 'many<float>'],
    ['norm', 'sm_80', '16', '0', '0', '0', '1024', '2', 'warps', 'none<float>'],
    ['norm', 'sm_80', '80', '0', '0', '0', '256', '3', 'registers', 'wide<float>'],
  ])
})

test('of the instances of a function the one with most registers; --all shows each', () => {
  const kernels = [20, 90, 40].map((registers, i) => ({
    symbol: symbol('norm', 'fij'[i]),
    registers,
    body: uses(registers),
    threads: 64,
  }))
  expect(report(kernels).rows.map((row) => row.slice(2, 6))).toEqual([['90', '0', '0', '90']])
  expect(report(kernels, '', '--all').rows.map((row) => row[5])).toEqual(['20', '90', '40'])
})

test('shared memory limits the blocks, by architecture', () => {
  const rows = ['sm_80', 'sm_89', 'sm_90a', 'sm_77'].flatMap(
    (arch) => report([{ symbol: symbol('norm'), arch, body: uses(60000), threads: 64 }]).rows,
  )
  expect(rows.map((row) => row.slice(6, -1))).toEqual([
    ['64', '2', 'shared'],
    ['64', '1', 'shared'],
    ['64', '3', 'shared'],
    ['64', '?'],
  ])
})

test('what the PTX does not show is not called 0', () => {
  const { status, stdout, rows } = report([
    { symbol: symbol('absent') },
    { symbol: symbol('otherArch'), body: '', threads: 64 }, // no body for this architecture
  ])
  expect(status).toBe(0)
  expect(rows.map((row) => row.slice(5, 8))).toEqual([
    ['?', '?', '?'],
    ['?', '64', '?'],
  ])
  expect(stdout).toMatch(/2 of 2 have no readable PTX/)
})

test('shared memory past sharedBytes(), or in a function that was not inlined, is an error', () => {
  const past = report([{ symbol: symbol('norm'), body: '\tmov.u32 %r1, _ZN4cuda13dynamicSharedE;\n' }])
  expect(past.status).not.toBe(0)
  expect(past.stderr).toMatch(/norm\S* uses shared memory that sharedBytes\(\) .* did not give it/)
  const called = report([{ symbol: symbol('norm'), body: uninvolved }], `.func called(\n)\n{\n${uses(8)}\tret;\n\n}\n`)
  expect(called.status).not.toBe(0)
  expect(called.stderr).toMatch(/called uses shared memory but was not inlined/)
})

test('a spill or a stack frame fails, but for float64; so does a warning of ptxas', () => {
  for (const fault of [{ stack: 8 }, { spills: 4 }]) {
    const { status, stderr } = report([{ symbol: symbol('norm'), ...fault, body: uninvolved }])
    expect(status).toBe(1)
    expect(stderr).toContain('norm: norm<float> for sm_80 has a stack frame of')
    expect(report([{ symbol: symbol('norm', 'd'), ...fault, body: uninvolved }]).status).toBe(0)
  }
  const folder = join(temp, 'warned')
  mkdirSync(folder)
  const warning = 'ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n'
  writeFileSync(join(folder, 'norm.cu.o.ptxas'), log({ symbol: symbol('norm') }) + warning)
  const { status, stderr } = spawnSync(process.execPath, [script, folder], { encoding: 'utf8' })
  expect(status).toBe(1)
  expect(stderr).toContain('C7510')
})

test('no build to report on is said, not passed over', () => {
  const { status, stderr } = spawnSync(process.execPath, [script, join(temp, 'nowhere')], { encoding: 'utf8' })
  expect(status).toBe(1)
  expect(stderr).toContain('there is no CUDA build')
})
