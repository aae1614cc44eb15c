// What a call costs in JavaScript, by mitata: not what the device does, which is queued meanwhile.
import { native } from '../native.ts'
import { tensor } from '../ops/create.ts'
import { add } from '../ops/index.ts'
import { type Device, noGrad, scope, synchronize } from '../tensor.ts'

/** Nanoseconds of one call. */
export interface Overhead {
  name: string
  median: number
  p99: number
  runs: number
}

/** @throws Error that says how to install mitata where it is missing */
export async function overhead(device: Device): Promise<Overhead[]> {
  const { measure } = await import('mitata').catch(() => {
    throw new Error('the case overhead needs mitata, which is not installed: npm install mitata')
  })
  const a = tensor([1], { device })
  const tracked = tensor([1], { device, requiresGrad: true })
  const calls: Record<string, () => void> = {
    'native call': () => native.threads(),
    'new tensor, disposed': () => tensor([1], { device }).dispose(),
    'add, result disposed': () => noGrad(() => add(a, a)).dispose(),
    'add on the tape': () => add(tracked, tracked).dispose(),
    'empty scope': () => scope(() => undefined),
    'add in a scope': () => void scope(() => void noGrad(() => add(a, a))),
  }
  const rows: Overhead[] = []
  for (const [name, call] of Object.entries(calls)) {
    const stats = await measure(call, { batch_samples: 512 })
    await synchronize()
    rows.push({ name, median: stats.p50, p99: stats.p99, runs: stats.samples.length })
  }
  return rows
}
