import { expect, test } from 'vitest'
import type { Findings } from '../../lib/cli/doctor.ts'
import { devices } from '../../lib/devices.ts'
import { onlyLine, polygrad, start } from './program.ts'

test('doctor --json says what devices() says, or why not', async () => {
  const { status, stdout } = await polygrad('doctor', '--json')
  expect(status).toBe(0)
  const found = JSON.parse(stdout) as Findings
  const here = devices()
  expect(found.addon.available).toBe(true)
  expect(found.node.version).toBe(process.version)
  expect(found.cpu.instructionSet).toBe(here.cpu.instructionSet)
  expect(found.cpu.features).toContain('avx2')
  expect(found.blas).toEqual({ name: here.cpu.blas })
  expect(found.memory.available).toBeGreaterThan(0)
  expect(found.gpu.available).toBe(here.cuda.available)
  if (!found.gpu.available) expect(found.gpu.reason).not.toBe('')
})

test('doctor prints each part on a line', async () => {
  const { stdout } = await polygrad('doctor')
  for (const part of ['Node', 'addon', 'CPU', 'BLAS', 'memory', 'driver', 'GPU'])
    expect(stdout).toMatch(new RegExp(`^${part} `, 'm'))
})

test('threads follow POLYGRAD_THREADS', async () => {
  const { stdout } = await start(['doctor', '--json'], { env: { POLYGRAD_THREADS: '1' } }).ended
  expect((JSON.parse(stdout) as Findings).cpu.threads).toBe(1)
})

test.skipIf(devices().cuda.available)(
  '--device cuda without one: status 2 and the reason; auto is the CPU',
  async () => {
    const { status, stderr } = await polygrad('doctor', '--device', 'cuda')
    expect(status).toBe(2)
    const { cuda } = devices()
    expect(onlyLine(stderr)).toContain(cuda.available ? '' : cuda.reason)
    expect((await polygrad('doctor', '--device', 'auto')).status).toBe(0)
  },
)
