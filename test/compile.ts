// Before all tests: dist/ is made from lib/, because Node 20 runs no TypeScript and some tests start programs and workers;
// and the addon that runs the CUDA kernels on the CPU.
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

export default function compile(): void {
  if (process.env.POLYGRAD_TEST_COMPILED === '1') return // both were brought along (test/gpu/run.sh)
  execFileSync(process.execPath, ['scripts/build.mjs', '--tests'], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' })
}
