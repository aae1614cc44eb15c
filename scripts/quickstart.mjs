// npm start: TypeScript's own declaration files to tokens, then configs/quickstart.json on them.
// Held out is the end of lib.dom.d.ts, the largest file, which therefore comes last; lib.webworker*.d.ts, which repeat a
// third of it, stay out, so that nothing held out is seen in training.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

process.on('SIGINT', () => {}) // Ctrl-C is for the run, which then saves; this waits for it
const root = fileURLToPath(new URL('..', import.meta.url))
const main = `${root}dist/cli/main.js`
if (!existsSync(main)) {
  console.error('npm start: run ./setup.sh first; it builds what is started here')
  process.exit(1)
}
const text = ['lib.es*.d.ts', 'typescript.d.ts', 'lib.dom.d.ts'].map((name) => `node_modules/typescript/lib/${name}`)
const tokens = ['--tokenizer', 'bytes', '--out', 'runs/quickstart/typescript.bin', '--val-fraction', '0.05']
const extra = process.argv.slice(2)
for (const args of [
  ['prepare', ...text, ...tokens],
  ['train', 'configs/quickstart.json', '--prompt', 'interface ', ...extra],
]) {
  const { status } = spawnSync(process.execPath, [main, ...args], { cwd: root, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
