// polygrad doctor: what is on this machine, and what is in the way.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism, cpus, release, totalmem } from 'node:os'
import type { Arguments } from './arguments.ts'
import type { commands } from './commands.ts'
import { requireDevice } from './device.ts'
import { oneLine } from './failure.ts'

const wantedFeatures = ['avx2', 'fma', 'f16c', 'avx512f', 'avx512bw', 'avx512vl', 'avx512_bf16', 'amx_bf16']

/** What doctor finds; --json prints it. A part that is missing says why in `reason`. */
export interface Findings {
  node: { version: string; napi: string; platform: string; kernel: string }
  addon: { available: true; ops: number; cuda: boolean } | { available: false; reason: string }
  cpu: { name: string; cores: number; usable: number; features: string[]; instructionSet?: string; threads?: number }
  blas: { name: string } | { reason: string }
  memory: { total: number; available?: number }
  driver: { version: string } | { reason: string }
  gpu: { available: true; devices: string[] } | { available: false; reason: string; devices: string[] }
}

/** Looks at everything; never throws. */
export async function examine(): Promise<Findings> {
  const flags = existsSync('/proc/cpuinfo')
    ? (/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '')
    : ''
  const features = wantedFeatures.filter((f) => flags.split(' ').includes(f))
  const cpu = {
    name: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    usable: availableParallelism(),
    features,
  }
  const node = {
    version: process.version,
    napi: process.versions.napi ?? '',
    platform: `${process.platform}-${process.arch}`,
    kernel: release(),
  }
  const smi = askGpus()
  try {
    const { native } = await import('../native.ts')
    const { devices, driverVersion } = await import('../devices.ts')
    const found = devices()
    const version = driverVersion()
    return {
      node,
      addon: { available: true, ops: native.signatures.length, cuda: native.builtWithCuda },
      cpu: { ...cpu, instructionSet: found.cpu.instructionSet, threads: found.cpu.threads },
      blas: { name: found.cpu.blas },
      memory: { total: totalmem(), available: found.cpu.memory },
      driver: version ? { version } : { reason: 'no NVIDIA driver is loaded' },
      gpu: found.cuda.available
        ? { available: true, devices: found.cuda.devices.map((d) => d.name) }
        : { available: false, reason: found.cuda.reason, devices: smi },
    }
  } catch (error) {
    const reason = oneLine(error)
    return {
      node,
      addon: { available: false, reason },
      cpu,
      blas: { reason: 'it is part of the addon' },
      memory: { total: totalmem() },
      driver: { reason: 'not looked for: the addon did not load' },
      gpu: { available: false, reason: 'the addon did not load', devices: smi },
    }
  }
}

// The GPUs that the driver lists, whether or not this build can use them.
function askGpus(): string[] {
  try {
    const listed = execFileSync('nvidia-smi', ['--query-gpu=name,memory.total,compute_cap', '--format=csv,noheader'], {
      encoding: 'utf8',
      timeout: 10_000,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    return listed.split('\n').filter((line) => line.trim() !== '')
  } catch {
    return []
  }
}

const gigabytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

function lines(f: Findings): string[] {
  const cpu = f.cpu
  return [
    `Node      ${f.node.version}, Node-API ${f.node.napi}, ${f.node.platform}, kernel ${f.node.kernel}`,
    f.addon.available
      ? `addon     loaded: ${f.addon.ops} operations, ${f.addon.cuda ? 'with' : 'without'} CUDA`
      : `addon     NOT LOADED: ${f.addon.reason}`,
    `CPU       ${cpu.name}, ${cpu.cores} cores${cpu.usable < cpu.cores ? `, ${cpu.usable} usable` : ''}`,
    `          has ${cpu.features.join(' ') || 'neither AVX2 nor AVX-512'}${cpu.instructionSet ? `; kernels for ${cpu.instructionSet} on ${cpu.threads} threads` : ''}`,
    `BLAS      ${'name' in f.blas ? f.blas.name : `none: ${f.blas.reason}`}`,
    `memory    ${gigabytes(f.memory.total)}${f.memory.available === undefined ? '' : `, ${gigabytes(f.memory.available)} available`}`,
    `driver    ${'version' in f.driver ? `NVIDIA ${f.driver.version}` : f.driver.reason}`,
    f.gpu.available
      ? `GPU       ${f.gpu.devices.join('; ')}`
      : `GPU       ${f.gpu.devices.length ? `${f.gpu.devices.join('; ')}; not used` : 'none'}: ${f.gpu.reason}`,
  ]
}

/** @returns 0 if the addon works here, else 1 */
export async function doctorCommand({ options }: Arguments<typeof commands.doctor>): Promise<number> {
  const findings = await examine()
  if (options.json) console.log(JSON.stringify(findings, null, 2))
  else console.log(lines(findings).join('\n'))
  if (!findings.addon.available) return 1
  await requireDevice(options.device)
  return 0
}
