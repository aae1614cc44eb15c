// The GPU's memory: what is handed out, kept and given back, and what crosses between it and the host.
import { Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { memory, ops, scope, synchronize, Tensor, tensor } from '../../lib/index.ts'
import { native } from '../../lib/native.ts'
import { inProcess, standIn } from './process.ts'

const MiB = 2 ** 20
const bytes = (n: number): Tensor => new Tensor(native.empty([n], 6, 1)) // uint8 on cuda
const gone = (all: Tensor[]): void => {
  for (const t of all) t.dispose()
}

test('what is freed is cached, serves the next tensor of its size, and is given back by trim', async () => {
  native.trim()
  const before = memory('cuda')
  const a = bytes(30 * MiB)
  const once = memory('cuda')
  expect(once.inUse - before.inUse).toBeGreaterThanOrEqual(30 * MiB)
  a.dispose()
  expect(memory('cuda').inUse).toBe(before.inUse)
  const cached = memory('cuda').cached
  expect(cached - before.cached).toBeGreaterThanOrEqual(30 * MiB)
  const b = bytes(30 * MiB)
  expect(memory('cuda')).toMatchObject({ inUse: once.inUse, cached: once.cached, peak: once.peak })
  b.dispose()
  native.trim()
  expect(memory('cuda').cached).toBeLessThan(cached - 29 * MiB)
})

test('blocks are split and, when their neighbours are free, merged again', () => {
  native.trim()
  const held = bytes(32 * MiB)
  held.dispose()
  const { cached } = memory('cuda')
  // In any order of release the pieces become one block again, without a new segment.
  for (const order of [
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [0, 2, 1, 3],
    [1, 3, 0, 2],
  ]) {
    const parts = [5, 9, 7, 8].map((n) => bytes(n * MiB))
    const inUse = memory('cuda').inUse
    expect(memory('cuda').cached).toBeLessThan(cached - 28 * MiB)
    for (const i of order) parts[i]!.dispose()
    expect(memory('cuda').cached).toBe(cached)
    const whole = bytes(32 * MiB)
    expect(memory('cuda').inUse).toBeGreaterThan(inUse)
    expect(memory('cuda').cached).toBeLessThanOrEqual(cached - 32 * MiB)
    whole.dispose()
  }
  expect(memory('cuda').cached).toBe(cached)
})

test('small tensors share segments of their own', () => {
  native.trim()
  const { cached, inUse } = memory('cuda')
  const small = Array.from({ length: 100 }, () => bytes(1000))
  const after = memory('cuda')
  expect(after.cached + after.inUse - cached - inUse).toBeLessThanOrEqual(2 * MiB)
  gone(small)
  expect(memory('cuda').inUse).toBe(inUse)
})

test('many sizes, in random order: no two live tensors share memory', async () => {
  let state = 12345
  const random = (n: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 8) % n
  }
  const live: { t: Tensor; value: number; length: number }[] = []
  for (let i = 0; i < 400; i++) {
    if (live.length > 20 || (live.length && random(3) === 0)) {
      const [one] = live.splice(random(live.length), 1)
      expect(one!.t.dataSync().every((v) => v === one!.value)).toBe(true)
      one!.t.dispose()
    } else {
      const length = random(10) === 0 ? random(300_000) : random(3000)
      live.push({ t: tensor(new Float32Array(length).fill(i), { shape: [length] }), value: i, length })
    }
  }
  for (const { t, value, length } of live) {
    expect(t.size).toBe(length)
    expect((await t.data()).every((v) => v === value)).toBe(true)
    t.dispose()
  }
})

test('uploads keep their values though the array changes at once, more of them than the ring holds', async () => {
  const row = new Float32Array(MiB)
  const busy = tensor(new Float32Array(MiB / 4))
  for (let i = 0; i < 10; i++) ops.relu(busy).dispose() // the copies come after this, the calls before
  const all = scope(() =>
    Array.from({ length: 12 }, (_, i) => {
      row.fill(i)
      return tensor(row)
    }),
  )
  row.fill(-1)
  for (const [i, t] of all.entries()) expect((await t.data()).every((v) => v === i)).toBe(true)
  gone(all)
})

test('a large download comes in pieces, in order with what is queued before and after', async () => {
  const n = 3 * MiB + 5 // float32: several pieces, the last one short
  const x = tensor(Float32Array.from({ length: n }, (_, i) => i))
  const first = x.data()
  native.assignValue(7, x.handle)
  const second = x.data()
  const values = await first
  expect(values.length).toBe(n)
  expect(values.every((v, i) => v === i)).toBe(true)
  expect((await second).every((v) => v === 7)).toBe(true)
  x.dispose()
})

test.skipIf(!standIn)(
  'out of memory: a typed error with its numbers, after what is dead or cached was given back; then smaller work fits',
  async () => {
    const told = await inProcess(
      { CUDA_ON_CPU_MEMORY: String(64 * MiB), POLYGRAD_GUARD: '0' },
      `const bytes = (n) => new polygrad.Tensor(native.empty([n], 6, 1))
     bytes(20 << 20).dispose() // freed but cached
     const fits = bytes(48 << 20) // only if the cache is given back
     const error = await outcome(() => bytes(40 << 20))
     fits.dispose()
     for (let i = 0; i < 40; i++) bytes(8 << 20) // dropped, not disposed of: 320 MiB
     const after = polygrad.ones([100, 100], { device: 'cuda' })
     tell([error, (await after.sum().data())[0], polygrad.memory('cuda').peak])`,
    )
    const [error, sum, peak] = told as [Record<string, number>, number, number]
    expect(error).toMatchObject({ name: 'OutOfMemoryError', code: 'ERR_OUT_OF_MEMORY', requested: 40 * MiB })
    expect(error!.free).toBeLessThan(17 * MiB)
    expect(error!.peak).toBeGreaterThanOrEqual(48 * MiB)
    expect(String(error!.message)).toMatch(/^out of memory on cuda: 41943040 bytes asked for, \d+ of 67108864 free/)
    expect(sum).toBe(1e4)
    expect(peak).toBeLessThanOrEqual(64 * MiB)
  },
)

const trains = `
  const { TrainStep } = await import(new URL('train/step.js', library).href)
  polygrad.setDefaultDevice('cuda')
  const model = new polygrad.nn.Transformer({ vocab_size: 16, hidden_size: 8, num_hidden_layers: 1,
    num_attention_heads: 1, intermediate_size: 16, hidden_act: 'polyrelu' })
  const step = new TrainStep(model, new polygrad.optim.AdamW(model.namedParameters()))
  const ids = Int32Array.from({ length: 8 }, (_, i) => i)
  const batch = { inputs: ids, targets: ids, rows: 1, seqLen: 8 }
  const losses = [], replayed = []
  for (let i = 0; i < 5; i++) {
    losses.push((await step.run([batch], { lr: 0.1, maxNorm: 1 })).loss)
    replayed.push(step.replayed)
  }`

test.skipIf(!standIn)(
  'after a model that does not fit, a smaller one trains; without room for a graph, without one',
  async () => {
    const run = (limit: number) =>
      inProcess(
        { POLYGRAD_MEMORY_LIMIT: String(limit), POLYGRAD_GUARD: '0' },
        `const error = await outcome(() => new polygrad.nn.Transformer({ vocab_size: 50000, hidden_size: 64,
         num_hidden_layers: 1, num_attention_heads: 1, intermediate_size: 16 }, { device: 'cuda' }))
       ${trains}
       tell([error.code, losses, replayed])`,
      ) as Promise<[string, number[], boolean[]]>
    const [ample, tight] = await Promise.all([run(6 * MiB), run(3 * MiB)])
    expect(ample[0]).toBe('ERR_OUT_OF_MEMORY')
    expect(tight[0]).toBe('ERR_OUT_OF_MEMORY')
    expect(ample[2]).toEqual([false, false, true, true, true])
    expect(tight[2]).toEqual([false, false, false, false, false])
    expect(tight[1]).toEqual(ample[1])
    expect(ample[1][4]).toBeLessThan(ample[1][0]!)
  },
)

// callOp (src/napi/addon.cpp) frees what is dead and calls an op that met OutOfMemory again from its beginning: what an op
// overwrites must be written after everything it allocates.
test.skipIf(!standIn)('an op that adds in place and runs out of memory anywhere adds once', async () => {
  const told = await inProcess(
    { CUDA_ON_CPU_MEMORY: String(64 * MiB), POLYGRAD_GUARD: '0' },
    `polygrad.setDefaultDevice('cuda')
     const { tensor } = polygrad
     const bytes = (n) => new polygrad.Tensor(native.empty([n], 6, 1))
     const cached = () => polygrad.memory('cuda').cached
     const row = (n, of) => Array.from({ length: n }, (_, i) => of(i))
     const some = (shape, dtype = 'float32') =>
       tensor(row(shape.reduce((a, b) => a * b), (i) => ((i * 37) % 17) - 8), { shape, dtype })
     const numbers = (values) => tensor(values, { dtype: 'float64' })
     // What each changes, and the call.
     const cases = {
       linear: [some([16, 16]), (to, x, dy) => native.linearGradWeight(x, dy, to), some([1024, 16]), some([1024, 16])],
       linear16: [some([16, 16]), (to, x, dy) => native.linearGradWeight(x, dy, to), some([64, 16], 'bfloat16'), some([64, 16])],
       embedding: [some([10, 8]), (to, ids, dy) => native.embeddingGrad(ids, dy, 10, to),
         tensor(row(200, (i) => (i * i) % 10), { dtype: 'int32' }), some([200, 8])],
       grouped: [some([2, 8, 8]), (to, x, dy, w, offsets) => native.groupedMatmulGradWeight(x, dy, w, offsets, to),
         some([40, 8], 'bfloat16'), some([40, 8]), some([2, 8, 8], 'bfloat16'), tensor([0, 15, 40], { dtype: 'int32' })],
       crossEntropyOver: [some([40, 8]), (to, targets, stats, dy) => native.crossEntropyGrad(to, targets, -100, stats, dy, true),
         tensor(row(40, (i) => i % 8), { dtype: 'int32' }), tensor(row(80, (i) => (i % 2 ? 0.01 : 8)), { shape: [40, 2] }), tensor(1)],
       adamw: [some([300]), (to, g, m, v, hyper, state) => native.adamw(to, g, m, v, null, hyper, state),
         some([300]), tensor(row(300, () => 0)), tensor(row(300, () => 1)), numbers([0.1, 0.9, 0.99, 1e-8, 0.1]), numbers([1, 1, 1, 1])],
     }
     const found = []
     for (const [name, [target, call, ...inputs]] of Object.entries(cases)) {
       const start = await target.data()
       const results = []
       for (const free of [undefined, ...[0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 31].map((i) => 512 * i)]) {
         const to = tensor(start, { shape: target.shape })
         const copies = inputs.map((t) => t.to({ device: 'cpu' }).to({ device: 'cuda' })) // adamw changes m and v
         const held = []
         let retried
         if (free !== undefined) {
           const room = free && bytes(free)
           const dead = { tensor: bytes(1 << 20) }
           process.env.CUDA_ON_CPU_MEMORY = String(Number(process.env.CUDA_ON_CPU_MEMORY) - native.cudaAvailableMemory() + cached())
           for (let size = 1 << 20; size >= 512; size /= 2)
             while (cached() >= size) {
               const one = await outcome(() => bytes(size))
               if (!one.value) break
               held.push(one.value)
             }
           if (cached()) throw new Error(cached() + ' bytes are free')
           if (room) room.dispose()
           if (cached() !== free) throw new Error(cached() + ' bytes are free, not ' + free)
           dead.tensor = undefined
           const before = polygrad.memory('cuda').inUse
           call(to.handle, ...copies.map((t) => t.handle))
           retried = polygrad.memory('cuda').inUse < before - (1 << 19)
           process.env.CUDA_ON_CPU_MEMORY = String(${64 * MiB})
         } else {
           call(to.handle, ...copies.map((t) => t.handle))
         }
         results.push([retried, [...await to.data()]])
         for (const t of [...held, ...copies, to]) t.dispose()
       }
       const [[, once], ...others] = results
       found.push([name, others.map(([retried]) => retried), others.filter(([, values]) => values.some((v, i) => v !== once[i])).length,
         once.some((v, i) => v !== start[i])])
     }
     tell(found)`,
  )
  const all = told as [name: string, retried: boolean[], wrong: number, changed: boolean][]
  expect(all.map(([name]) => name)).toEqual(['linear', 'linear16', 'embedding', 'grouped', 'crossEntropyOver', 'adamw'])
  for (const [name, retried, wrong, changed] of all) {
    expect({ name, first: retried[0], last: retried.at(-1), wrong, changed }).toEqual({
      name,
      first: true, // with nothing free it ran out of memory, in the end it did not
      last: false,
      wrong: 0,
      changed: true,
    })
  }
})

test.skipIf(!standIn)('POLYGRAD_MEMORY_LIMIT limits the GPU too', async () => {
  const told = await inProcess(
    { POLYGRAD_MEMORY_LIMIT: String(10 * MiB), POLYGRAD_GUARD: '0' },
    `tell(await outcome(() => polygrad.zeros([3 << 20], { device: 'cuda' })))`,
  )
  expect(told).toMatchObject({ code: 'ERR_OUT_OF_MEMORY', requested: 12 * MiB })
})

test('a worker that ends in the middle of its work gives everything back', async () => {
  await synchronize()
  native.trim()
  const before = memory('cuda')
  const library = new URL('../../dist/index.js', import.meta.url).href
  const program = `
    import { parentPort } from 'node:worker_threads'
    const { tensor, ops } = await import(${JSON.stringify(library)})
    const x = tensor(new Float32Array(1 << 20), { device: 'cuda' })
    parentPort.postMessage('works')
    for (;;) { ops.add(x, x).data().catch(() => {}); await new Promise(setImmediate) }`
  for (let i = 0; i < 4; i++) {
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(program)}`))
    await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
    expect(memory('cuda').inUse).toBeGreaterThan(before.inUse + 4 * MiB - 1)
    await worker.terminate()
    expect(memory('cuda').inUse).toBe(before.inUse)
    expect(memory('cuda').cached).toBe(before.cached)
  }
})

// What follows crosses from one environment to another with the help of test/cuda-on-cpu/provoke.cpp.
const crossing = native as unknown as Record<'hand' | 'receive' | 'hold' | 'proceed', (handle?: unknown) => unknown>

/** A worker that runs `program` (with `native`, `Tensor`, `told(value)`, and `asked(word)`, which waits for a message). */
function worker(program: string) {
  const library = new URL('../../dist/index.js', import.meta.url).href
  const source = `
    import { once } from 'node:events'
    import { parentPort } from 'node:worker_threads'
    const { ops, Tensor, tensor } = await import(${JSON.stringify(library)})
    const { native } = await import(new URL('native.js', ${JSON.stringify(library)}).href)
    const told = (value) => parentPort.postMessage(value)
    const asked = async () => (await once(parentPort, 'message'))[0]
    ${program}
    parentPort.close()`
  const thread = new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`))
  const says = () => new Promise<unknown>((resolve, reject) => thread.once('message', resolve).once('error', reject))
  return { thread, says, ended: new Promise((resolve) => thread.once('exit', resolve)) }
}

test.skipIf(!standIn)(
  "memory released by another thread is nobody else's until that thread's queue is past it",
  async () => {
    const n = 3 * MiB // bytes, and the only free block of this size
    await synchronize()
    native.trim()
    const before = memory('cuda').inUse
    const x = tensor(new Float32Array(n / 4).fill(1))
    await x.data()
    const mine = memory('cuda').inUse
    crossing.hand(x.handle)
    const { says, thread, ended } = worker(`
    const x = new Tensor(native.receive())
    native.hold()
    const y = ops.mul(x, 1)
    x.dispose()
    told('released')
    await asked()
    native.proceed()
    const values = await y.data()
    y.dispose()
    told(values.every((v) => v === 1))`)
    x.dispose() // the worker has it
    expect(memory('cuda').inUse).toBe(mine)
    expect(await says()).toBe('released')
    expect(memory('cuda').inUse).toBeGreaterThanOrEqual(mine) // the worker's y is there too
    // Whatever the main thread takes and fills meanwhile, at once because its own stream waits for nobody.
    const others = Array.from({ length: 8 }, () => tensor(new Float32Array(n / 4).fill(-1)))
    for (const t of others) expect((await t.data())[0]).toBe(-1)
    thread.postMessage('go on')
    expect(await says()).toBe(true)
    await ended
    gone(others)
    // Now it is free, for the thread that took it.
    const again = bytes(n)
    again.dispose()
    expect(memory('cuda').inUse).toBe(before)
  },
)

test.skipIf(!standIn)(
  'memory of a thread that has ended lives as long as somebody holds it, and goes with what he queued',
  async () => {
    await synchronize()
    native.trim()
    const before = memory('cuda')
    const { says, ended } = worker(`
    native.hand(tensor(new Float32Array(1 << 20).fill(5), { device: 'cuda' }).handle)
    told('handed')`)
    expect(await says()).toBe('handed')
    await ended
    const x = new Tensor(crossing.receive() as Tensor['handle'])
    expect(memory('cuda').inUse).toBeGreaterThan(before.inUse + 4 * MiB - 1)
    const busy = tensor(new Float32Array(MiB / 4))
    for (let i = 0; i < 10; i++) ops.relu(busy).dispose()
    const y = scope(() => ops.mul(ops.add(x, 1), 2))
    busy.dispose()
    x.dispose() // with work that reads it in the queue: its pool has no owner, so the release waits
    expect((await y.data()).every((v) => v === 12)).toBe(true)
    y.dispose()
    native.trim()
    expect(memory('cuda').inUse).toBe(before.inUse)
    expect(memory('cuda').cached).toBe(before.cached)
  },
)
