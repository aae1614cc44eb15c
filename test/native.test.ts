// The addon: what a user reads when it does not load.
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { loadError } from '../lib/native.ts'

const root = mkdtempSync(join(tmpdir(), 'polygrad-'))
afterAll(() => rmSync(root, { recursive: true }))

/** What loading from `root` fails with, put into words. */
function explained(): string {
  try {
    createRequire(import.meta.url)('node-gyp-build')(root)
  } catch (cause) {
    return loadError(root, cause).message
  }
  throw new Error('it loaded')
}

test('an addon that is nowhere: both places and the way to build it', () => {
  const message = explained()
  expect(message).toContain(`${root}/build/Release/polygrad.node: not there`)
  expect(message).toContain(`${root}/prebuilds/linux-x64/polygrad.node: not there`)
  expect(message).toContain('./setup.sh')
})

test('an addon that does not load: the reason, at its place', () => {
  const folder = join(root, 'prebuilds/linux-x64')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'polygrad.node'), 'no library')
  expect(explained()).toMatch(/prebuilds\/linux-x64\/polygrad\.node: .*file too short/)
})

test('a system older than the addon', () => {
  const message = loadError(root, new Error("version `GLIBC_2.99' not found")).message
  expect(message).toContain('older than the addon')
})

test('an addon that was copied elsewhere loads: it needs nothing beside it', () => {
  const folder = join(root, 'build/Release')
  mkdirSync(folder, { recursive: true })
  copyFileSync(join(import.meta.dirname, '../build/Release/polygrad.node'), join(folder, 'polygrad.node'))
  expect(() => explained()).toThrow('it loaded')
})
