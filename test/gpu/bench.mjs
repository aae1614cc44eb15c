// All cases of `polygrad bench` on the GPU, each beside PyTorch where a python3 has it; a case that fails does not stop the
// others, and what is known is on the disk after each: node test/gpu/bench.mjs OUT.json [SVG]
// GPU_SMALL=1: tiny shapes, to try this where there is no GPU.
import { writeFileSync } from 'node:fs'
import { bench, shareOfRoof } from '../../dist/bench/index.js'
import { roofline } from '../../dist/report/roofline.js'

const [out, svg] = process.argv.slice(2)
const device = process.env.POLYGRAD_TEST_DEVICE ?? 'cuda'
const tiny = {
  copy: '5000',
  gemm: '33x40x24',
  poly: '5x37',
  norm: '5x37',
  loss: '6x29',
  adamw: '1000',
  attention: '1x2x9x16',
  ffn: '6x16x24',
  moe: '9x16x24x4x2',
}
const small = process.env.GPU_SMALL === '1'
const figures = []
const failures = []
const save = (result) => writeFileSync(out, `${JSON.stringify({ ...result, failures }, null, 1)}\n`)
const options = {
  device,
  dtype: 'bfloat16',
  cases: Object.keys(tiny),
  ...(small && { shapes: tiny, rounds: 3 }),
  onFigures(f) {
    figures.push(f)
    save({ unfinished: true, figures })
    const beside = Object.entries(f.beside).map(([name, { ratio }]) => `${ratio.toFixed(2)}x ${name}`)
    console.log([f.name, f.shape, `${(f.seconds.median * 1e6).toFixed(1)} us`, ...beside].join('  '))
  },
  onFailure(name, error) {
    failures.push({ name, error: String(error.message ?? error) })
    save({ unfinished: true, figures })
    console.log(`${name} FAILED: ${error.message}`)
  },
}
let result
try {
  result = await bench({ ...options, peers: true })
} catch (error) {
  // Without anything to compare with, then, but measured.
  failures.push({ name: 'peers', error: String(error.message) })
  console.log(`peers: ${error.message}`)
  figures.length = 0
  result = await bench(options)
}
save(result)
if (svg && result.ceilings.rate > 0 && result.ceilings.bandwidth > 0) {
  writeFileSync(svg, roofline(`${result.machine.device}, bfloat16`, result.figures, result.ceilings))
  for (const f of result.figures)
    console.log(`${f.name}  ${f.shape}  ${(100 * shareOfRoof(f, result.ceilings)).toFixed(1)} % of the roof`)
}
process.exit(failures.some(({ name }) => name !== 'peers') ? 1 : 0)
