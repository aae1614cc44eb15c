// What each backend finds on this machine, or the reason why it cannot be used.
import { existsSync, readFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { native } from './native.ts'
import type { Device } from './tensor.ts'

/** The CPU backend: always there. */
export interface CpuInfo {
  available: true
  name: string
  /** Logical processors of the machine. */
  cores: number
  /** Threads that kernels use. */
  threads: number
  /** What the kernels were chosen for: `avx2` or `avx512`. */
  instructionSet: string
  /** The library of the matrix products. */
  blas: string
  /** Bytes that a process may still use now, limits of a container included. */
  memory: number
}

/** The CUDA backend: there with the GPU that it uses, or not and why. */
export type CudaInfo =
  | { available: true; devices: { device: Device; name: string; memory: number }[] }
  | { available: false; reason: string }

const readText = (path: string): string | undefined => {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return undefined
  }
}

/**
 * Bytes that this process may still use of a device's memory. cpu: what the system has left, or less where a container
 * sets a limit; cuda: what is free on the GPU, or less where POLYGRAD_MEMORY_LIMIT says so.
 * @throws Error when the device is not there
 */
export function availableMemory(device: Device = 'cpu'): number {
  if (device !== 'cpu') return native.cudaAvailableMemory()
  const free = /MemAvailable:\s+(\d+) kB/.exec(readText('/proc/meminfo') ?? '')
  const system = free ? Number(free[1]) * 1024 : totalmem()
  const group = '/sys/fs/cgroup'
  const pairs = [
    [`${group}/memory.max`, `${group}/memory.current`],
    [`${group}/memory/memory.limit_in_bytes`, `${group}/memory/memory.usage_in_bytes`],
  ] as const
  for (const [limit, usage] of pairs) {
    const max = Number(readText(limit) ?? Number.NaN) // "max" where there is none
    if (Number.isFinite(max)) return Math.min(system, Math.max(0, max - Number(readText(usage) ?? 0)))
  }
  return system
}

/** The version of the NVIDIA kernel driver that is loaded, or what it says that it can do. */
export function driverVersion(): string | undefined {
  const loaded = /Kernel Module(?: for \S+)?\s+([\d.]+)/.exec(readText('/proc/driver/nvidia/version') ?? '')?.[1]
  const { driver } = native.cudaReport()
  return loaded ?? (driver > 0 ? `for CUDA ${Math.floor(driver / 1000)}.${(driver % 1000) / 10}` : undefined)
}

function cuda(): CudaInfo {
  if (!native.builtWithCuda) {
    const there = existsSync('/proc/driver/nvidia/version') || existsSync('/dev/nvidiactl')
    const build = 'this build of polygrad has no CUDA backend; ./setup.sh --cuda makes one that has'
    return { available: false, reason: there ? build : 'no NVIDIA driver is loaded on this machine' }
  }
  const { gpus, reason } = native.cudaReport()
  const [gpu] = gpus
  if (!gpu || reason) return { available: false, reason }
  return { available: true, devices: [{ device: 'cuda', name: gpu.name, memory: gpu.memory }] }
}

/** For each backend what is there, or the reason why it cannot be used. */
export function devices(): { cpu: CpuInfo; cuda: CudaInfo } {
  const processors = cpus()
  return {
    cpu: {
      available: true,
      name: processors[0]?.model.trim() ?? 'unknown',
      cores: processors.length,
      threads: native.threads(),
      instructionSet: native.instructionSet(),
      blas: native.blas(),
      memory: availableMemory(),
    },
    cuda: cuda(),
  }
}

/**
 * The device that `--device` means. `auto` is CUDA where it can be used, else the CPU.
 * @throws Error with the reason when CUDA is asked for and cannot be used
 */
export function chooseDevice(wanted: 'cpu' | 'cuda' | 'auto'): Device {
  if (wanted === 'cpu') return 'cpu'
  const found = cuda()
  if (found.available) return 'cuda'
  if (wanted === 'auto') return 'cpu'
  throw new Error(`there is no CUDA device: ${found.reason}`)
}
