// What compute-sanitizer is shown on a GPU (test/gpu/once.mjs) leaves out no row of the contract and no kernel.
import { execFileSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { inProcess, standIn } from './process.ts'

const addon = process.env.POLYGRAD_NATIVE_PATH

/** Rows that were not called and the kernels that were launched, on a GPU of this capability. */
const run = (capability: number, families: string) =>
  inProcess(
    { CUDA_ON_CPU_CAPABILITY: String(capability) },
    `polygrad.setDefaultDevice('cuda')
     const { families, runOnce } = await import(new URL('../test/gpu/once.mjs', library).href)
     await runOnce(${families})
     tell([native.rowsNotCalled(), native.kernelsLaunched().split(' ').map(Number)])`,
  ) as Promise<[string, number[]]>

/** The kernels of the addon: the offset of each instance, and its function's name. */
function kernelsOf(path: string): Map<number, string> {
  const listed = execFileSync('nm', ['-C', path], { encoding: 'utf8', maxBuffer: 2 ** 28 })
  const found = new Map<number, string>()
  for (const [, at, name] of listed.matchAll(/^([0-9a-f]+) [tTwW] .*?(\w+Kernel)[<(]/gm))
    found.set(Number.parseInt(at!, 16), name!)
  return found
}

test.skipIf(!standIn)('every row is called and every kernel launched', async () => {
  const [[left, onAny], [, onHopper]] = await Promise.all([
    run(80, 'Object.keys(families)'),
    run(90, "['matmul', 'mlp']"),
  ])
  expect(left).toBe('')
  const kernels = kernelsOf(addon!)
  const launched = new Set([...onAny, ...onHopper].map((at) => kernels.get(at)))
  const ofTests = ['breachKernel', 'reportKernel'] // provoke.cpp
  const all = [...new Set(kernels.values())].filter((name) => !ofTests.includes(name))
  expect(all.length).toBeGreaterThan(60)
  expect(all.filter((name) => !launched.has(name))).toEqual([])
})
