// Checks the formatting of every C++ and CUDA file; --fix rewrites them.
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))))
const files = ['src', 'cuda', 'test'].flatMap((room) => {
  try {
    return readdirSync(room, { recursive: true })
      .filter((f) => /\.(h|cpp|cu|cuh)$/.test(f))
      .map((f) => join(room, f))
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
})
if (files.length === 0) {
  console.error('clang-format: no C++ file found under src, cuda and test')
  process.exit(1)
}
try {
  const mode = process.argv.includes('--fix') ? ['-i'] : ['--dry-run', '--Werror']
  execFileSync('clang-format', [...mode, ...files], { stdio: 'inherit' })
} catch (error) {
  const missing = error.code === 'ENOENT'
  console.error(
    `clang-format: ${missing ? 'not installed (apt-get install clang-format)' : 'not formatted as .clang-format says; npm run format does it'}`,
  )
  process.exit(1)
}
console.log(`clang-format: ${files.length} files`)
