// Packs what a whole run on a bare machine with a GPU needs into .gpu/: Node.js, the addon for the given architectures, the
// compiled library, vitest, and tokens to train on. The rest is read from the checkout (test/gpu/run.sh), nothing fetched.
//   node test/gpu/pack.mjs TEXT [ARCHITECTURES]     TEXT: what to train on; default `90a-real`
//   node test/gpu/pack.mjs TEXT ADDON.node          one that is there already, such as build/cuda-on-cpu/polygrad.node
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, '.gpu')
const [text, architectures = '90a-real'] = process.argv.slice(2)
if (!text) {
  console.error('pack: which text to train on? node test/gpu/pack.mjs TEXT [ARCHITECTURES | ADDON.node]')
  process.exit(2)
}
const run = (command, args, env = {}) =>
  execFileSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } })

/** A package of node_modules and all that it needs, as paths. */
function withDependencies(names) {
  const found = new Set()
  const visit = (name, from) => {
    for (let at = from; ; at = at.slice(0, at.lastIndexOf('/node_modules'))) {
      const path = `${at}/node_modules/${name}`
      if (existsSync(join(root, path, 'package.json'))) {
        if (found.has(path)) return
        found.add(path)
        const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
          readFileSync(join(root, path, 'package.json'), 'utf8'),
        )
        for (const one of Object.keys({ ...dependencies, ...optionalDependencies })) visit(one, path)
        return
      }
      if (!at.includes('/node_modules')) return // optional, for another platform
    }
  }
  for (const name of names) visit(name, '.')
  return [...found]
}

const given = architectures.endsWith('.node')
if (!given) run(process.execPath, ['scripts/build.mjs', '--cuda'], { POLYGRAD_CUDA_ARCHITECTURES: architectures })
run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'])
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
run(process.execPath, [
  'dist/cli/main.js',
  'prepare',
  text,
  '--tokenizer',
  'gpt2',
  '--out',
  '.gpu/text.bin',
  '--val-fraction',
  '0.02',
])
// All of it travels, with the checkout, in 64 MiB.
for (const [name, from] of [
  ['node', process.execPath],
  ['polygrad.node', given ? architectures : 'build/Release/polygrad.node'],
]) {
  run('strip', ['--strip-unneeded', '-o', `.gpu/${name}`, from])
  run('xz', ['-T0', '-6', `.gpu/${name}`])
}
const commit = execFileSync('git', ['describe', '--always', '--dirty', '--abbrev=40'], { cwd: root, encoding: 'utf8' })
writeFileSync(join(folder, 'commit'), commit)
const packages = withDependencies([
  'vitest',
  'fast-check',
  'node-gyp-build',
  'gpt-tokenizer',
  '@huggingface/tokenizers',
])
writeFileSync(
  join(folder, 'files'),
  ['dist', 'lib', 'configs', 'package.json', 'tsconfig.json', 'vitest.config.ts', ...packages].join('\n'),
)
// What nothing of it needs: sources for debuggers, other forms of the tokenizers, and what minifies style sheets.
const unneeded = [
  '*.map',
  '*.d.ts',
  '*.d.mts',
  '*.d.cts',
  ...['cjs', 'data', 'src'].map((part) => `*/gpt-tokenizer/${part}`),
]
unneeded.push('*/lightningcss-linux-*')
run('tar', ['-cJf', '.gpu/bundle.tar.xz', ...unneeded.map((name) => `--exclude=${name}`), '-T', '.gpu/files'])
rmSync(join(folder, 'files'))
const total = execFileSync('du', ['-sb', folder], { encoding: 'utf8' }).split('\t')[0]
console.log(
  `.gpu: ${(Number(total) / 2 ** 20).toFixed(1)} MiB, of which Node.js ${(statSync(join(folder, 'node.xz')).size / 2 ** 20).toFixed(1)}; with the checkout it should stay under 64`,
)
