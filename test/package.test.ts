// The package as npm users get it: packed, installed in an empty strict TypeScript project, and training there.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const temp = mkdtempSync(join(tmpdir(), 'polygrad-package-'))
const staging = join(temp, 'staging')
const project = join(temp, 'project')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  files: string[]
  gypfile: boolean
  scripts: Record<string, string>
  dependencies: Record<string, string>
  exports: Record<string, Record<string, string> | string>
  bin: Record<string, string>
}

/** Runs a program to its end; what it printed is in the error if it fails. */
function run(command: string, args: string[], cwd: string): string {
  try {
    return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: 'pipe' })
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string }
    throw new Error(`${command} ${args.join(' ')}\n${stdout}${stderr}`)
  }
}
const bin = (name: string) => join(root, 'node_modules/.bin', name)

interface Packed {
  filename: string
  size: number
  files: { path: string; mode: number }[]
}
let packed: Packed

beforeAll(() => {
  // As `npm run build && npm run prebuild && npm pack`, without touching the checkout.
  mkdirSync(join(staging, 'prebuilds/linux-x64'), { recursive: true })
  for (const name of [...manifest.files, 'package.json', 'README.md', 'LICENSE'])
    if (!/^(!|dist|prebuilds)/.test(name) && existsSync(join(root, name)))
      cpSync(join(root, name), join(staging, name), { recursive: true })
  const output = join(staging, 'dist')
  run(
    bin('tsc'),
    ['-p', 'tsconfig.build.json', '--outDir', output, '--tsBuildInfoFile', join(output, '.tsbuildinfo')],
    root,
  )
  const addon = join(staging, 'prebuilds/linux-x64/polygrad.node')
  run('strip', ['--strip-unneeded', '-o', addon, join(root, 'build/Release/polygrad.node')], root)
  ;[packed] = JSON.parse(
    run('npm', ['pack', '--json', '--offline', '--ignore-scripts', '--pack-destination', temp], staging),
  ) as [Packed]

  // npm looks nothing up: every dependency comes from the checkout's node_modules.
  const local = Object.fromEntries(
    Object.keys(manifest.dependencies).map((d) => [d, `file:${join(root, 'node_modules', d)}`]),
  )
  const types = { '@types/node': `file:${join(root, 'node_modules/@types/node')}` }
  mkdirSync(project)
  const write = (name: string, text: string) => writeFileSync(join(project, name), text)
  write(
    'package.json',
    JSON.stringify({
      name: 'project',
      private: true,
      type: 'module',
      dependencies: { polygrad: `file:${join(temp, packed.filename)}`, ...local },
      devDependencies: types,
      overrides: Object.fromEntries(Object.keys(local).map((d) => [d, `$${d}`])),
    }),
  )
  write(
    'tsconfig.json',
    JSON.stringify({
      compilerOptions: { module: 'nodenext', target: 'es2022', strict: true, skipLibCheck: false, types: ['node'] },
      files: ['readme.ts', 'required.cts', 'rooms.ts'],
    }),
  )
  write('readme.ts', /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, 'README.md'), 'utf8'))![1]!)
  write('required.cts', required)
  const rooms = Object.keys(manifest.exports).filter((path) => path !== './package.json')
  write(
    'rooms.ts',
    rooms.map((path, i) => `import * as room${i} from '${path.replace('.', 'polygrad')}'\n`).join('') +
      `for (const room of [${rooms.map((_, i) => `room${i}`)}]) console.log(Object.keys(room).length)\n`,
  )
  run('npm', ['install', '--offline', '--no-audit', '--no-fund', '--ignore-scripts'], project)
  run(bin('tsc'), ['-p', project], root)
}, 240_000)
afterAll(() => rmSync(temp, { recursive: true, force: true }))

const required = `
import polygrad = require('polygrad')
const { nn, ops, optim, seed, tensor } = polygrad
seed(3)
const model = new nn.Linear(2, 1)
const optimizer = new optim.AdamW(model.parameters(), { lr: 0.1, weightDecay: 0 })
const x = tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
const y = tensor([[1], [3], [4], [6]])
async function main() {
  for (let step = 0; step < 300; step++) {
    const error = ops.sub(model.forward(x), y)
    const loss = ops.mean(ops.mul(error, error))
    loss.backward()
    optimizer.step()
    optimizer.zeroGrad()
    if (step % 299 === 0) console.log(await loss.item())
  }
}
main()
`

describe('the tarball', () => {
  test('holds every file that package.json points at, and the binary', () => {
    const paths = packed.files.map((file) => file.path)
    const targets = Object.values(manifest.exports).flatMap((entry) =>
      typeof entry === 'string' ? [entry] : Object.values(entry),
    )
    for (const target of [...targets, ...Object.values(manifest.bin)]) expect(paths).toContain(target.replace('./', ''))
    for (const file of ['prebuilds/linux-x64/polygrad.node', 'README.md', 'LICENSE', 'CMakeLists.txt', 'src/kernels.h'])
      expect(paths).toContain(file)
  })

  test('holds nothing else: no tests, no build, no run', () => {
    const rooms = new Set(packed.files.map((file) => file.path.split('/')[0]!))
    const wanted = [
      'dist',
      'prebuilds',
      'src',
      'cuda',
      'lib',
      'scripts',
      'CMakeLists.txt',
      'binding.gyp',
      'CHANGELOG.md',
    ]
    expect([...rooms].filter((room) => ![...wanted, 'package.json', 'README.md', 'LICENSE'].includes(room))).toEqual([])
    expect(packed.files.filter((file) => file.path.endsWith('.tsbuildinfo'))).toEqual([])
  })

  test('compiles nothing when it is installed', () => {
    expect(manifest.gypfile).toBe(false)
    expect(Object.keys(manifest.scripts).filter((name) => /^(pre|post)?install$|^prepare$/.test(name))).toEqual([])
  })

  test('`npm run build` does not build every architecture, as npm would have it of a script called prebuild', () => {
    const folder = join(temp, 'scripts')
    mkdirSync(folder)
    cpSync(join(root, '.npmrc'), join(folder, '.npmrc'))
    expect(Object.keys(manifest.scripts)).toEqual(expect.arrayContaining(['build', 'prebuild']))
    const scripts = { prebuild: 'echo every one', build: 'echo this one' }
    writeFileSync(join(folder, 'package.json'), JSON.stringify({ scripts }))
    const said = (name: string) => run('npm', ['run', '--silent', name], folder).trim()
    expect(said('build')).toBe('this one')
    expect(said('prebuild')).toBe('every one')
  })

  test('stays far below what npm takes (200 MB)', () => {
    expect(packed.size).toBeLessThan(50e6)
  })
})

describe('in an empty strict project', () => {
  const losses = (output: string) => [...output.matchAll(/\d+\.\d+(?:e-?\d+)?/g)].map(Number)

  test("the README's program trains, by import", () => {
    const seen = losses(run('node', ['readme.js'], project))
    expect(seen.length).toBeGreaterThan(1)
    expect(seen.at(-1)).toBeLessThan(0.5 * seen[0]!)
  })

  test('a step by require', () => {
    const [first, last] = losses(run('node', ['required.cjs'], project))
    expect(last).toBeLessThan(0.01 * first!)
  })

  test('every entry point of package.json imports', () => {
    const counts = run('node', ['rooms.js'], project).trim().split('\n').map(Number)
    expect(counts.length).toBe(Object.keys(manifest.exports).length - 1)
    expect(Math.min(...counts)).toBeGreaterThan(0)
  })

  test('the command is there and runs', () => {
    expect(run(join(project, 'node_modules/.bin/polygrad'), ['--help'], project)).toContain('train')
  })
})
