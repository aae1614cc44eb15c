// The stages of a GPU run (test/gpu/run.sh), as far as the stand-in goes: what they leave behind, and what they say of it.
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { temporaryFolder } from '../cli/program.ts'
import { standIn } from './process.ts'

const folder = temporaryFolder()
const stages = fileURLToPath(new URL('../gpu/stages.mjs', import.meta.url))

// Beside the GPU's stand-in, one for what comes with its driver, and nothing for what comes with the toolkit.
const commands = join(folder, 'bin')
mkdirSync(commands)
function command(name: string, script: string): void {
  writeFileSync(join(commands, name), `#!/bin/sh\n${script}\n`)
  chmodSync(join(commands, name), 0o755)
}
command('compute-sanitizer', 'exit 127')
command(
  'nvidia-smi',
  `case "$*" in
*name,*) echo 'A GPU, 580.1, 80000 MiB, 1 MiB, 1980 MHz, 700.00 W, 9.0' ;;
*driver*) echo 580.1 ;;
*) echo 'A GPU' ;;
esac`,
)

function run(out: string, ...args: string[]) {
  const env = { ...process.env, PATH: `${commands}:${process.env.PATH}`, GPU_SMALL: '1' }
  const { status, stderr } = spawnSync(process.execPath, [stages, join(folder, out), ...args], {
    encoding: 'utf8',
    env,
  })
  return { status, stderr }
}

test.skipIf(!standIn)(
  'train: falling losses, the same bits with and without a graph; a failing stage stops no other',
  () => {
    // A machine without compute-sanitizer is told of, not passed.
    expect(run('out', 'train', 'machine', 'sanitizer')).toEqual({ status: 8, stderr: '' })
    const found = JSON.parse(readFileSync(join(folder, 'out/run.json'), 'utf8'))
    expect(found).toMatchObject({ card: 'A GPU', driver: '580.1', status: 8, small: true })
    expect(found.command).toContain('train machine sanitizer')
    expect(Object.keys(found.stages)).toEqual(['machine', 'sanitizer', 'train'])
    expect(found.stages.machine).toMatchObject({ ok: true, card: 'A GPU', driver: '580.1', power: '700.00 W' })
    expect(found.stages.sanitizer).toMatchObject({
      ok: false,
      reason: expect.stringContaining('is not on this machine'),
    })
    const { train } = found.stages
    expect(train).toMatchObject({ ok: true, steps: 12, stepsCompared: 6, sameBits: true, falls: true })
    expect(train.peakBytes.direct).toBeGreaterThan(0)
    expect(train.peakBytes.capture).toBeGreaterThan(train.peakBytes.direct)
    const { capture, direct } = JSON.parse(readFileSync(join(folder, 'out/train.json'), 'utf8'))
    expect(capture.loss).toHaveLength(12)
    expect(direct.loss).toEqual(capture.loss.slice(0, 6))
    expect(readdirSync(join(folder, 'out')).sort()).toEqual(['logs.tar.gz', 'run.json', 'train.json'])
  },
)

test.skipIf(!standIn)('an unknown stage is named', () => {
  const { status, stderr } = run('other', 'tset')
  expect(status).toBe(64)
  expect(stderr).toContain('tset is not a stage; there are machine tests golden sanitizer train bench')
})
