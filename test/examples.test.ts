// The short programs of examples/ run as a user's would: compiled, importing the package by its name.
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ModuleKind, ScriptTarget, transpileModule } from 'typescript'
import { afterAll, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = join(root, 'build', 'examples') // inside the package, so that it finds itself by name
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function run(name: string, ...args: string[]): string {
  const source = readFileSync(join(root, 'examples', `${name}.ts`), 'utf8')
  const options = { module: ModuleKind.ESNext, target: ScriptTarget.ES2022 }
  mkdirSync(folder, { recursive: true })
  const path = join(folder, `${name}.mjs`)
  writeFileSync(path, transpileModule(source, { compilerOptions: options }).outputText)
  return execFileSync(process.execPath, [path, ...args], { cwd: root, encoding: 'utf8' })
}

describe('examples', () => {
  test('train: the loss falls', () => {
    const losses = [...run('train').matchAll(/: ([\d.]+) nats/g)].map(([, loss]) => Number(loss))
    expect(losses).toHaveLength(5)
    expect(losses[0]).toBeGreaterThan(5)
    expect(losses[4]).toBeLessThan(1)
  })

  test('custom-op: its gradient is right', () => {
    expect(run('custom-op')).toContain('the gradient is right')
  })

  test('kernels: bias gets as much gradient as there are elements', () => {
    expect(run('kernels')).toContain('dbias Float32Array(1) [ 4096 ]')
  })

  test('each one is run here', () => {
    expect(readdirSync(join(root, 'examples')).sort()).toEqual(['custom-op.ts', 'kernels.ts', 'train.ts'])
  })

  test("README's program is examples/train.ts", () => {
    const program = readFileSync(join(root, 'examples', 'train.ts'), 'utf8')
      .split('\n')
      .slice(1)
      .join('\n')
    expect(readFileSync(join(root, 'README.md'), 'utf8')).toContain(`\`\`\`ts\n${program}\`\`\`\n`)
  })
})
