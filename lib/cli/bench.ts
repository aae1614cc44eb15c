// polygrad bench: what the kernels reach of the machine's own ceilings, and beside others.
import { writeFileSync } from 'node:fs'
import { type CaseName, cases, readShape } from '../bench/cases.ts'
import { type Figures, shareOfRoof } from '../bench/measure.ts'
import { bench } from '../bench/run.ts'
import { diskError } from '../errors.ts'
import { ConfigError, nearest } from '../nn/fields.ts'
import { roofline } from '../report/roofline.ts'
import type { Arguments } from './arguments.ts'
import type { commands } from './commands.ts'
import { requireDevice } from './device.ts'

const all = [...Object.keys(cases), 'overhead'] as (CaseName | 'overhead')[]

const percent = (x: number): string => `${(100 * x).toFixed(1)} %`
const time = (seconds: number): string =>
  seconds < 1e-3 ? `${(seconds * 1e6).toFixed(1)} us` : `${(seconds * 1e3).toFixed(3)} ms`

function line(f: Figures): string {
  const speed = f.operations ? `${(f.rate / 1e12).toPrecision(4)} TFLOP/s` : `${(f.bandwidth / 1e9).toFixed(0)} GB/s`
  const others = Object.entries(f.beside).map(([name, { ratio }]) => `${ratio.toFixed(2)}x ${name}`)
  return [
    f.name.padEnd(30),
    f.shape.padEnd(26),
    time(f.seconds.median).padStart(11),
    `±${percent(f.spread / 2)}`.padStart(9),
    speed.padStart(15),
    `  ${others.join('  ')}`,
  ]
    .join(' ')
    .trimEnd()
}

/** Of each case with several figures: how the others compare over all of them. */
function* summaries(figures: readonly Figures[]): Generator<string> {
  const groups = new Map<string, Figures[]>()
  for (const f of figures) {
    const name = f.name.split(' ')[0]!
    groups.set(name, [...(groups.get(name) ?? []), f])
  }
  for (const [name, group] of groups)
    for (const other of new Set(group.flatMap((f) => Object.keys(f.beside)))) {
      const ratios = group.flatMap((f) => f.beside[other]?.ratio ?? [])
      if (ratios.length < 2) continue
      const mean = Math.exp(ratios.reduce((sum, r) => sum + Math.log(r), 0) / ratios.length)
      const least = Math.min(...ratios)
      yield `${name.padEnd(30)} ${other}: geometric mean ${mean.toFixed(3)}x, least ${least.toFixed(3)}x of ${ratios.length}`
    }
}

export async function benchCommand({ positionals, options }: Arguments<typeof commands.bench>): Promise<number> {
  const asked = positionals.length ? positionals : all.filter((name) => name !== 'overhead')
  for (const name of asked)
    if (!(all as string[]).includes(name))
      throw new ConfigError(`"${name}"`, ` is not a case of polygrad bench; did you mean "${nearest(name, all)}"?`)
  const chosen = asked as (CaseName | 'overhead')[]
  const { shape } = options
  if (shape !== undefined) {
    if (chosen.length !== 1 || chosen[0] === 'overhead')
      throw new ConfigError(
        '--shape',
        ' needs exactly one case that has a shape: polygrad bench poly --shape 8192x8256',
      )
    readShape(chosen[0] as CaseName, shape)
  }
  const device = await requireDevice(options.device, options.threads)
  const dtype = options.dtype ?? (device === 'cpu' ? 'float32' : 'bfloat16')
  console.log(`${dtype} on ${device}; ratios: how many times longer each of the others takes`)
  const result = await bench({
    device,
    dtype,
    cases: chosen,
    ...(shape !== undefined && { shapes: { [chosen[0]!]: shape } }),
    ...(options.rounds !== undefined && { rounds: options.rounds }),
    peers: options.peers ?? false,
    onFigures: (f) => console.log(line(f)),
  })
  const { ceilings, figures, machine } = result
  console.log(
    `\nceilings of this run: ${(ceilings.bandwidth / 1e9).toFixed(0)} GB/s copied, ${(ceilings.rate / 1e12).toPrecision(4)} TFLOP/s multiplied (${machine.device})`,
  )
  for (const f of figures)
    console.log(
      `${f.name.padEnd(30)} ${f.shape.padEnd(26)} ${percent(f.bandwidth / ceilings.bandwidth).padStart(8)} of the copy ${
        f.operations ? `${percent(f.rate / ceilings.rate).padStart(8)} of the product ` : ''
      }${percent(shareOfRoof(f, ceilings)).padStart(8)} of the roof`,
    )
  for (const summary of summaries(figures)) console.log(summary)
  for (const o of result.overhead ?? [])
    console.log(
      `${o.name.padEnd(30)} ${o.median.toFixed(0).padStart(8)} ns, ${o.p99.toFixed(0)} ns at the 99th percentile`,
    )
  write(
    options.json,
    () => `${JSON.stringify({ command: ['polygrad', ...process.argv.slice(2)].join(' '), ...result }, null, 2)}\n`,
  )
  write(options.svg, () => roofline(`${machine.device}, ${dtype}, ${machine.date.slice(0, 10)}`, figures, ceilings))
  return 0
}

function write(path: string | undefined, text: () => string): void {
  if (path === undefined) return
  try {
    writeFileSync(path, text())
  } catch (error) {
    throw diskError('write', path, error as NodeJS.ErrnoException)
  }
  console.log(`wrote ${path}`)
}
