import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const report = process.env.TEST_REPORT

// What is run on every device: the tests that take the default one.
const onEveryDevice = [
  'test/{ops,nn,optim,io,train,cuda-on-cpu}/*.test.ts',
  'test/{tensor,grad,generate,native,workers}.test.ts',
  'test/bench/bench.test.ts',
]
// What would take the stand-in for a GPU minutes, or has nothing to do with devices.
const notOnStandIn = ['test/train/{golden,resume,trainer}.test.ts', 'test/io/{checkpoint,disk,safetensors}.test.ts']
// What another order of threads, or another GPU, cannot change beyond what the tests of the kernels see.
const inOneOrder = [
  'test/{io,train}/*.test.ts',
  'test/{tensor,grad,generate,native,workers}.test.ts',
  'test/bench/bench.test.ts',
  'test/cuda-on-cpu/{capture,device,memory,once,stages,train}.test.ts',
]
// A GPU: here, or asked for by `--project cuda`, which then shows every test as skipped where there is none.
const gpu = existsSync('/dev/nvidiactl') || process.argv.includes('cuda')

// The kernels of cuda/, run by test/cuda-on-cpu/ on a machine without a GPU: the same tests, on the device cuda.
const cudaOnCpu = (name: string, env: Record<string, string>, include = onEveryDevice, except: string[] = []) => ({
  extends: true as const,
  test: {
    name,
    include,
    exclude: [...notOnStandIn, ...except],
    env: {
      POLYGRAD_TEST_DEVICE: 'cuda',
      POLYGRAD_GUARD: '1',
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
      ...(gpu
        ? [
            {
              extends: true as const,
              // One process at a time: they share the one GPU.
              test: {
                name: 'cuda',
                include: onEveryDevice,
                env: { POLYGRAD_TEST_DEVICE: 'cuda' },
                fileParallelism: false,
              },
            },
          ]
        : []),
      cudaOnCpu('cuda-on-cpu', {}),
      cudaOnCpu('cuda-on-cpu-reversed', { CUDA_ON_CPU_ORDER: 'reversed' }, onEveryDevice, inOneOrder),
      // What has kernels of its own on compute capability 9.0; on two processors, so that blocks make several tiles.
      cudaOnCpu(
        'cuda-on-cpu-90',
        { CUDA_ON_CPU_CAPABILITY: '90', CUDA_ON_CPU_PROCESSORS: '2' },
        ['test/ops/{matmul,mlp,moe}.test.ts', 'test/train/precision.test.ts', 'test/cuda-on-cpu/*.test.ts'],
        ['test/cuda-on-cpu/{capture,device,memory,once,stages,train}.test.ts'],
      ),
    ],
  },
})
