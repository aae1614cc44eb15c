// What there is of a GPU, and each way in which there is none, on a stand-in that pretends to be it.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { chooseDevice, devices } from '../../lib/devices.ts'
import { ops, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import { start, temporaryFolder } from '../cli/program.ts'
import { inProcess, standIn } from './process.ts'

const onStandIn = test.skipIf(!standIn)

const provoke = (what: string, x = tensor([1])): void =>
  (native as unknown as { provoke(what: string, x: unknown): void }).provoke(what, x.handle)

onStandIn('the GPU is found by the runtime, whatever /proc knows', () => {
  const { cuda } = devices()
  expect(cuda.available && cuda.devices).toEqual([
    { device: 'cuda', name: expect.stringMatching(/^stand-in for sm_\d+ on the CPU$/), memory: 2 ** 32 },
  ])
  expect(chooseDevice('auto')).toBe('cuda')
  expect(chooseDevice('cuda')).toBe('cuda')
})

const lacking: [what: string, env: Record<string, string>, reason: RegExp][] = [
  ['an old driver', { CUDA_ON_CPU_DRIVER: '12080' }, /driver is too old: it knows CUDA 12\.8, but 13\.0 .* driver 580/],
  ['no driver', { CUDA_ON_CPU_DRIVER: '0' }, /^no NVIDIA driver is loaded on this machine$/],
  ['no device', { CUDA_ON_CPU_DEVICES: '0' }, /driver but no GPU that it offers/],
  ['an old GPU', { CUDA_ON_CPU_CAPABILITY: '75' }, /too old: stand-in for sm_75 .* capability 7\.5, but 8\.0/],
  [
    'a GPU that the build is not for',
    { CUDA_ON_CPU_CAPABILITY: '80', CUDA_ON_CPU_BUILT_FOR: '90a,100-real,120-virtual' },
    /no kernels for the GPU: .* capability 8\.0, but it was built for sm_90a, PTX of 90a, sm_100, PTX of 120; .*--cuda/,
  ],
]
onStandIn.each(lacking)('%s: the reason is said, auto takes the CPU, a tensor is refused', async (_, env, reason) => {
  const told = (await inProcess(
    env,
    `const { chooseDevice, devices } = await import(new URL('devices.js', library).href)
     tell([devices().cuda, chooseDevice('auto'), await outcome(() => chooseDevice('cuda')),
       await outcome(() => polygrad.zeros([2], { device: 'cuda' })), (await polygrad.tensor([7], { device: 'cpu' }).data())[0]])`,
  )) as [{ available: boolean; reason: string }, string, Error, Error & { code: string }, number]
  expect(told[0].available).toBe(false)
  expect(told[0].reason).toMatch(reason)
  expect(told[1]).toBe('cpu')
  expect(told[2].message).toBe(`there is no CUDA device: ${told[0].reason}`)
  expect(told[3]).toMatchObject({ code: 'ERR_DEVICE', message: told[2].message })
  expect(told[4]).toBe(7) // the process goes on
})

// Machine code runs on later GPUs of its generation, PTX on all later ones, either with an `a` on its own GPU alone.
const runs: [capability: string, builtFor: string, runs: boolean][] = [
  ['89', '80-real', true],
  ['80', '89-real', false],
  ['90', '80-real,89-real', false],
  ['90', '80-virtual', true],
  ['90', '80', true],
  ['90', '90a-real', true],
  ['100', '90a', false],
  ['100', '90-real', false],
  ['100', '90', true],
  ['103', '80-real,100-real', true],
  ['103', '80-real,100a-real', false],
  ['103', '100f-real', true],
  ['120', '100f', false],
  ['121', '80-real,120', true],
  ['90', 'native', true],
]
onStandIn('a build runs on the GPUs that CUDA says it does', async () => {
  const told = await Promise.all(
    runs.map(([capability, builtFor]) =>
      inProcess(
        { CUDA_ON_CPU_CAPABILITY: capability, CUDA_ON_CPU_BUILT_FOR: builtFor },
        `const { devices } = await import(new URL('devices.js', library).href)
         tell(devices().cuda.available)`,
      ),
    ),
  )
  expect(told).toEqual(runs.map(([, , expected]) => expected))
})

onStandIn.each(['80', '90-real', '80,90a'])(
  'a GPU of 9.0 runs products that were compiled for %s',
  async (builtFor) => {
    // wgmma is in code for sm_90a alone: elsewhere the emulator refuses it, and a GPU would leave the result as it was.
    const told = await inProcess(
      { CUDA_ON_CPU_CAPABILITY: '90', CUDA_ON_CPU_PROCESSORS: '1', CUDA_ON_CPU_BUILT_FOR: builtFor },
      `const a = polygrad.ones([256, 128], { device: 'cuda', dtype: 'bfloat16' })
     tell(await outcome(async () => (await polygrad.ops.sum(polygrad.ops.matmul(a, polygrad.ops.transpose(a))).data())[0]))`,
    )
    const sum = new Uint16Array([new Uint32Array(new Float32Array([256 * 256 * 128]).buffer)[0]! >>> 16])[0]
    expect(told).toEqual({ value: sum })
  },
)

const folder = temporaryFolder()
onStandIn('train --dry-run asks whether it fits on the GPU, not into the memory of the machine', async () => {
  const path = join(folder, 'run.json')
  const model = {
    vocab_size: 256,
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    intermediate_size: 128,
  }
  writeFileSync(path, JSON.stringify({ model, train: { steps: 10 }, data: { train: path } }))
  const said = async (device: string, env: Record<string, string>) => {
    const { stdout } = await start(['train', path, '--dry-run', '--device', device], { env }).ended
    return stdout.trim().split('\n').at(-1)
  }
  const [ample, tight, limited, cpu] = await Promise.all([
    said('cuda', { CUDA_ON_CPU_MEMORY: String(2 ** 30) }),
    said('cuda', { CUDA_ON_CPU_MEMORY: String(2 ** 20) }),
    said('cuda', { POLYGRAD_MEMORY_LIMIT: String(3 * 2 ** 20) }),
    said('cpu', { CUDA_ON_CPU_MEMORY: String(2 ** 20) }),
  ])
  expect(ample).toMatch(
    /^It fits: 10\d\d(\.\d+)? MiB of memory are available on cuda\.$|^It fits: 1\.000 GiB of memory are available on cuda\.$/,
  )
  expect(tight).toMatch(/^It does NOT fit: .* KiB of memory are available on cuda\.$/)
  expect(limited).toBe('It does NOT fit: 3.000 MiB of memory are available on cuda.')
  expect(cpu).toMatch(/^It fits: .* GiB of memory are available on cpu\.$/)
})

test('there is one GPU a process: cuda:0 is it, cuda:1 is refused', () => {
  expect(tensor([1], { device: 'cuda:0' }).device).toBe('cuda')
  expect(() => tensor([1], { device: 'cuda:1' })).toThrow(
    'there is no device cuda:1: a process uses one GPU, which is called cuda; CUDA_VISIBLE_DEVICES=1 makes it that one',
  )
})

test('tensors go from one device to the other and back, with their gradients', async () => {
  const x = tensor([[1, 2, 3]], { device: 'cpu', requiresGrad: true })
  const there = x.to({ device: 'cuda' })
  expect(there.device).toBe('cuda')
  const back = ops.mul(there, 2).to({ device: 'cpu' })
  expect(back.device).toBe('cpu')
  expect([...(await back.data())]).toEqual([2, 4, 6])
  back.backward(tensor([[1, 10, 100]], { device: 'cpu' }))
  expect(x.grad!.device).toBe('cpu')
  expect([...(await x.grad!.data())]).toEqual([2, 20, 200])
  expect(tensor([], { shape: [0, 3], device: 'cpu' }).to({ device: 'cuda' }).shape).toEqual([0, 3])
})

test('an op on tensors of two devices names itself and both', () => {
  const [here, there] = [tensor([[1, 2]], { device: 'cpu' }), tensor([[1, 2]], { device: 'cuda' })]
  const ids = tensor([0], { dtype: 'int32', device: 'cpu' })
  expect(() => ops.add(here, there)).toThrow('add: its tensors are on cpu and on cuda, but should be on one device')
  expect(() => ops.matmul(there, ops.transpose(here))).toThrow('matmul: its tensors are on cpu and on cuda')
  expect(() => ops.concat([here, there])).toThrow('its tensors are on cpu and on cuda')
  expect(() => ops.embedding(ids, there)).toThrow('embedding: its tensors are on cpu and on cuda')
})

onStandIn(
  'what only a kernel sees: the first launch and its smallest position, at the next wait, and all goes on',
  async () => {
    provoke('report')
    provoke('report later')
    const x = tensor([1, 2])
    const error = await x.data().then(
      () => null,
      (e) => e,
    )
    expect(error).toMatchObject({
      name: 'DeviceDataError',
      code: 'ERR_DEVICE_DATA',
      message: 'provoke: ids[3] is 300, but the vocabulary has 200',
    })
    expect([...(await x.data())]).toEqual([1, 2])
    provoke('report later')
    expect(() => x.dataSync()).toThrow('later: experts[3] is 300, but there are 10 experts')
    expect([...x.dataSync()]).toEqual([1, 2])
  },
)

onStandIn('a write beside a tensor is found when its memory is released, and the kernel is named', async () => {
  const around = tensor([5])
  const x = tensor([1, 2, 3])
  provoke('behind', x)
  x.dispose()
  await expect(around.data()).rejects.toThrow('provoke: byte 0 behind a block of 12 bytes was overwritten with 0')
  const y = tensor([1, 2, 3])
  provoke('before', y)
  y.dispose()
  await expect(around.data()).rejects.toThrow('provoke: byte 1 before a block of 12 bytes was overwritten with 0')
  expect([...(await around.data())]).toEqual([5])
})

onStandIn('a kernel that fails ends the work on the device; POLYGRAD_SYNC=1 names it', async () => {
  const program = `
    const x = polygrad.tensor([1], { device: 'cuda' })
    const launch = await outcome(() => native.provoke('breach', x.handle))
    tell([launch, await outcome(() => x.data()), await outcome(() => x.data()), (await polygrad.tensor([7], { device: 'cpu' }).data())[0]])`
  const [launch, first, second, cpu] = (await inProcess({}, program)) as [object, object, object, number]
  expect(launch).toEqual({})
  const said = { code: 'ERR_CUDA', message: expect.stringMatching(/^cuda: .*__syncthreads.*$/) }
  expect(first).toMatchObject({ ...said, message: expect.stringMatching(/POLYGRAD_SYNC=1 tells which/) })
  expect(second).toMatchObject(said)
  expect(cpu).toBe(7)
  const [named] = (await inProcess({ POLYGRAD_SYNC: '1' }, program)) as [object]
  expect(named).toMatchObject({ code: 'ERR_CUDA', message: expect.stringMatching(/^cuda: breachKernel: /) })
})
