// Proves that the tests of the kernels can fail: seeds one bug after another into a copy of the tree, builds the stand-in
// with it, and expects the named test file to fail. `node test/cuda-on-cpu/mutate.mjs [WORD]`: only those whose `why` has it.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mutations } from './mutations.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const tree = join(root, 'build/mutants')
const addon = join(tree, 'build/cuda-on-cpu/polygrad.node')

function copyTree() {
  mkdirSync(tree, { recursive: true })
  for (const room of ['src', 'cuda', 'scripts', 'test/cuda-on-cpu']) {
    rmSync(join(tree, room), { recursive: true, force: true })
    cpSync(join(root, room), join(tree, room), { recursive: true, preserveTimestamps: true })
  }
  for (const file of ['CMakeLists.txt', 'package.json', 'binding.gyp']) cpSync(join(root, file), join(tree, file))
  mkdirSync(join(tree, 'lib'), { recursive: true }) // where the build writes the signatures
  if (!existsSync(join(tree, 'node_modules'))) symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'))
}

/** Builds the copy; what the compiler says, or undefined if it went well. */
function build() {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(tree, 'scripts/build.mjs'), '--no-cuda', '--cuda-on-cpu'],
    { cwd: tree, encoding: 'utf8' },
  )
  return status === 0 ? undefined : stdout + stderr
}

/** Whether the tests of a file pass with the addon of the copy. */
function passes({ test, project = 'cuda-on-cpu' }) {
  const { status, stdout } = spawnSync(
    process.execPath,
    [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--project', project, '--bail', '1', ...[test].flat()],
    {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, POLYGRAD_MUTANT: addon, TEST_REPORT: '', NO_COLOR: '1' },
      timeout: 600_000,
    },
  )
  // A run in which nothing was tried proves nothing.
  if (!/Tests .*(passed|failed)/.test(stdout) && status === 0) throw new Error(`${test}: no test ran`)
  return status === 0
}

const word = process.argv[2] ?? ''
const chosen = mutations.filter((m) => `${m.file} ${m.why}`.includes(word))
copyTree()
const problem = build()
if (problem) throw new Error(`the tree does not build as it is:\n${problem}`)
const key = ({ test, project = 'cuda-on-cpu' }) => `${project} ${test}`
for (const one of new Map(chosen.map((m) => [key(m), m])).values())
  if (!passes(one)) throw new Error(`${key(one)} fails without any mutation`)

let survived = 0
for (const m of chosen) {
  const path = join(tree, m.file)
  const text = readFileSync(path, 'utf8')
  if (text.split(m.from).length !== 2)
    throw new Error(`${m.file} holds ${text.split(m.from).length - 1} times: ${m.from}`)
  writeFileSync(
    path,
    text.replace(m.from, () => m.to),
  )
  const error = build()
  if (error) throw new Error(`${m.file}: the mutation does not compile: ${m.why}\n${error.slice(-2000)}`)
  const caught = !passes(m)
  if (!caught) survived++
  console.log(`${caught ? 'caught  ' : 'SURVIVED'}  ${m.file}: ${m.why}`)
  writeFileSync(path, text)
}
build() // else the next run, whose copies are older than the last mutant's objects, would begin with that
console.log(`${chosen.length - survived} of ${chosen.length} mutations were caught`)
process.exit(survived ? 1 : 0)
