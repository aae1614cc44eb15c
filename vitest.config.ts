import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const report = process.env.TEST_REPORT

// The kernels of cuda/, run by test/cuda-on-cpu/ on a machine without a GPU: the same tests, on the device cuda.
const cudaOnCpu = (name: string, env: Record<string, string>) => ({
  extends: true as const,
  test: {
    name,
    include: ['test/{ops,nn,optim,cuda-on-cpu}/*.test.ts'],
    env: {
      POLYGRAD_TEST_DEVICE: 'cuda',
      POLYGRAD_NATIVE_PATH:
        process.env.POLYGRAD_MUTANT || fileURLToPath(new URL('build/cuda-on-cpu/polygrad.node', import.meta.url)),
      ...env,
    },
  },
})

export default defineConfig({
  test: {
    globalSetup: 'test/compile.ts',
    setupFiles: 'test/device.ts',
    pool: 'forks',
    testTimeout: 120_000,
    hookTimeout: 120_000,
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
    projects: [
      { extends: true, test: { name: 'cpu', include: ['test/**/*.test.ts'], exclude: ['test/cuda-on-cpu/**'] } },
      cudaOnCpu('cuda-on-cpu', {}),
      cudaOnCpu('cuda-on-cpu-reversed', { CUDA_ON_CPU_ORDER: 'reversed' }),
    ],
  },
})
