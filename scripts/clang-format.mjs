// Checks the formatting of every C++ and CUDA file that git knows or would add; --fix rewrites them.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))))
const listed = execFileSync(
  'git',
  [
    'ls-files',
    '--cached',
    '--others',
    '--exclude-standard',
    '--',
    ...['src', 'cuda', 'test'].flatMap((d) => ['h', 'cpp', 'cu', 'cuh'].map((e) => `${d}/**.${e}`)),
  ],
  { encoding: 'utf8' },
)
const files = listed.split('\n').filter((file) => file && existsSync(file))
if (files.length === 0) {
  console.error('clang-format: no C++ file found under src, cuda and test')
  process.exit(1)
}
try {
  execFileSync('clang-format', [...(process.argv.includes('--fix') ? ['-i'] : ['--dry-run', '--Werror']), ...files], {
    stdio: 'inherit',
  })
} catch (error) {
  console.error(
    error.code === 'ENOENT'
      ? 'clang-format is missing: apt-get install clang-format'
      : 'clang-format: the files above are not formatted; npm run format does it',
  )
  process.exit(1)
}
console.log(`clang-format: ${files.length} files`)
