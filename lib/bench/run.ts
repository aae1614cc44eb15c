// A whole benchmark: the ceilings first, then the cases, with the table's rows as they come.
import { execFileSync } from 'node:child_process'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { devices, driverVersion } from '../devices.ts'
import { type Device, scope } from '../tensor.ts'
import { type CaseName, worksOf } from './cases.ts'
import { type Ceilings, type Figures, measure } from './measure.ts'
import { type Overhead, overhead } from './overhead.ts'
import { Peer } from './peer.ts'
import type { BenchDtype } from './work.ts'

export interface BenchOptions {
  device: Device
  dtype: BenchDtype
  cases: readonly (CaseName | 'overhead')[]
  /** Lengths of one shape for a case, as `8192x8256`; default those of the case. `copy` and `gemm` also give the ceilings. */
  shapes?: Partial<Record<CaseName, string>>
  /** Measure PyTorch and what runs on it, in turns with ours. */
  peers?: boolean
  rounds?: number
  /** Told of each piece of work as it is done. */
  onFigures?: (figures: Figures) => void
  /** Told of a case whose result is wrong, or that fails; the others go on. Without it the first one ends everything. */
  onFailure?: (name: CaseName, error: Error) => void
}

/** What a benchmark found, and on what. */
export interface BenchResult {
  machine: { processor: string; device: string; driver?: string; node: string; date: string; peer?: PeerHello }
  ceilings: Ceilings
  figures: Figures[]
  overhead?: Overhead[]
}

/** What scripts/bench-peer.py says of itself. */
export interface PeerHello {
  torch: string
  device: string
  variants: string[]
}

async function startPeers(device: Device): Promise<[Record<string, Peer>, PeerHello]> {
  const script = fileURLToPath(new URL('../../scripts/bench-peer.py', import.meta.url))
  const tried: string[] = []
  for (const python of ['python3', '/usr/bin/python3'])
    try {
      execFileSync(python, ['-c', 'import torch'], { stdio: 'ignore' })
      const [peer, hello] = await Peer.start<PeerHello>(python, [script, device === 'cpu' ? 'cpu' : 'cuda'])
      return [Object.fromEntries(hello.variants.map((name) => [name, peer])), hello]
    } catch (error) {
      tried.push(`${python}: ${(error as Error).message.split('\n')[0]}`)
    }
  throw new Error(`--peers needs a python3 that has PyTorch (${tried.join('; ')})`)
}

/**
 * Measures cases on a device. Every result is compared with an oracle before its time is taken.
 * @throws Error when a result is wrong, or a peer is asked for and not there
 */
export async function bench(options: BenchOptions): Promise<BenchResult> {
  const { device, dtype, rounds, shapes } = options
  const [peers, peer] = options.peers ? await startPeers(device) : [{}, undefined]
  const place = { device, dtype }
  const figures: Figures[] = []
  const run = async (name: CaseName): Promise<Figures[]> => {
    const found: Figures[] = []
    try {
      for (const make of worksOf(name, place, shapes?.[name]))
        await scope(async () => {
          for (const work of make()) {
            const one = await measure(work, { device, peers, ...(rounds && { rounds }) })
            found.push(one)
            if (options.cases.includes(name)) options.onFigures?.(one)
          }
        })
    } catch (error) {
      if (!options.onFailure) throw error
      options.onFailure(name, error as Error)
    }
    return found
  }
  try {
    // The ceilings are our own best copy and product in this run, or a peer's where it is faster.
    const best = (of: Figures[], value: (f: Figures) => number): number =>
      Math.max(0, ...of.map((f) => value(f) / Math.min(1, ...Object.values(f.beside).map((b) => b.ratio))))
    const copies = await run('copy')
    const products = await run('gemm')
    const ceilings = { bandwidth: best(copies, (f) => f.bandwidth), rate: best(products, (f) => f.rate) }
    let overheads: Overhead[] | undefined
    for (const name of options.cases) {
      if (name === 'overhead') overheads = await overhead(device)
      else figures.push(...(name === 'copy' ? copies : name === 'gemm' ? products : await run(name)))
    }
    const { cuda } = devices()
    const driver = driverVersion()
    return {
      machine: {
        processor: cpus()[0]?.model.trim() ?? 'unknown',
        device: device === 'cpu' ? 'cpu' : cuda.available ? cuda.devices[0]!.name : device,
        ...(driver && { driver }),
        node: process.version,
        date: new Date().toISOString(),
        ...(peer && { peer }),
      },
      ceilings,
      figures,
      ...(overheads && { overhead: overheads }),
    }
  } finally {
    for (const one of new Set(Object.values(peers))) one.stop()
  }
}
