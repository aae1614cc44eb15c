// The house rules, as tests: arrows point one way, generated types are fresh, tests mirror lib.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, extname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const read = (file: string) => readFileSync(join(root, file), 'utf8')

/** The files below a folder whose names end so, relative to the repository; an absent folder has none. */
function files(folder: string, extensions: string[]): string[] {
  if (!existsSync(join(root, folder))) return []
  const entries = readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile() && extensions.includes(extname(entry.name)))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort()
}

// Each room may reach itself and the rooms before it.
const rooms = {
  lib: 'signatures errors native context tensor devices ops grad methods nn optim data io train generate distributed bench report cli index',
  src: 'math core kernels cpu kernels.cpp tensor ops napi',
}

/** `lib/ops/norm.ts` is in the room `ops`, `src/tensor.h` in `tensor`; the file that joins backends is a room of its own. */
function rank(house: 'lib' | 'src', file: string): number {
  const name = relative(house, file)
  const room = name === 'kernels.cpp' ? name : name.split(/[/.]/)[0]!
  const place = rooms[house].split(' ').indexOf(room)
  expect(place, `${file}: no room of ${house}/ is called ${room}`).toBeGreaterThanOrEqual(0)
  return place
}

/** Every arrow of a house that points up, as `from -> to`. */
function pointingUp(house: 'lib' | 'src', extensions: string[], links: (file: string) => string[]): string[] {
  const sources = files(house, extensions)
  expect(sources.length).toBeGreaterThan(10)
  return sources.flatMap((file) =>
    links(file)
      .filter((target) => rank(house, target) > rank(house, file))
      .map((target) => `${file} -> ${target}`),
  )
}

const cxx = ['.h', '.cpp', '.cu', '.cuh']
const includes = (file: string) => [...read(file).matchAll(/^\s*#\s*include "([^"]+)"/gm)].map((match) => match[1]!)

describe('arrows point one way', () => {
  test('imports of lib/', () => {
    const imports = (file: string) =>
      [...read(file).matchAll(/(?:from|import|import\()\s*'(\.[^']+)'/g)].map((m) => join(dirname(file), m[1]!))
    expect(pointingUp('lib', ['.ts'], imports)).toEqual([])
  })

  test('includes of src/', () => {
    expect(pointingUp('src', cxx, (file) => includes(file).map((target) => join('src', target)))).toEqual([])
  })

  test('cuda/ includes itself, src/math, src/core and src/kernels.h', () => {
    const own = files('cuda', cxx)
    const strays = own.flatMap((file) =>
      includes(file)
        .filter((target) => !/^(math|core)\//.test(target) && target !== 'kernels.h')
        .filter((target) => !own.includes(join('cuda', target)) && !own.includes(join(dirname(file), target)))
        .map((target) => `${file} -> ${target}`),
    )
    expect(strays).toEqual([])
  })

  test('src/ knows JavaScript in napi/ alone, and never ends the process', () => {
    const strays = files('src', cxx).filter((file) => {
      const text = read(file)
      return (
        (/#include <(napi|node_api|js_native_api)\.h>/.test(text) && !file.startsWith('src/napi/')) ||
        /\b(std::)?(exit|_exit|quick_exit|abort|terminate)\s*\(/.test(text)
      )
    })
    expect(strays).toEqual([])
  })
})

test('lib/signatures.ts is what the addon says of itself', () => {
  const addon = createRequire(import.meta.url)('node-gyp-build')(root) as { signatures: string[] }
  const body = read('lib/signatures.ts').split('export interface Ops {\n')[1]!
  const written = [...body.matchAll(/^ {2}(\S.*)$/gm)].map((match) => match[1])
  expect(written, 'npm run build writes it anew').toEqual([...addon.signatures].sort())
})

describe('names and sizes', () => {
  const everything = ['lib', 'src', 'cuda', 'test', 'scripts', 'examples'].flatMap((folder) =>
    files(folder, ['.ts', '.mts', '.mjs', '.js', '.sh', ...cxx]),
  )

  test('no file has a name that says nothing', () => {
    const empty = /^(utils?|common|helpers?|misc|managers?|base|impl)$/
    expect(everything.filter((file) => empty.test(basename(file).split('.')[0]!))).toEqual([])
  })

  test('no file is longer than 600 lines', () => {
    const long = everything.filter((file) => file !== 'lib/signatures.ts' && read(file).split('\n').length > 601)
    expect(long).toEqual([])
  })

  test('every file of lib/{ops,nn,optim,data,io,train} has its test', () => {
    const tested = ['ops', 'nn', 'optim', 'data', 'io', 'train'].flatMap((room) => files(join('lib', room), ['.ts']))
    expect(tested.length).toBeGreaterThan(4)
    const tests = files('test', ['.ts'])
    const missing = tested
      .filter((file) => basename(file) !== 'index.ts')
      .filter((file) => !tests.includes(`test/${relative('lib', file).replace(/\.ts$/, '.test.ts')}`))
    expect(missing).toEqual([])
  })

  test('the rooms of package.json have documentation and an entry each', () => {
    const { exports } = JSON.parse(read('package.json')) as { exports: Record<string, { default: string } | string> }
    const entries = Object.values(exports)
      .filter((target) => typeof target !== 'string')
      .map((target) => target.default.replace('./dist/', 'lib/').replace(/\.js$/, '.ts'))
    expect(JSON.parse(read('typedoc.json')).entryPoints).toEqual(entries)
  })
})
