// The addon in worker_threads: several at once, and one that ends in the middle of a step.
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import { memory } from '../lib/tensor.ts'

const device = process.env.POLYGRAD_TEST_DEVICE ?? 'cpu'
const long = process.env.POLYGRAD_NATIVE_PATH ? 30 : 200 // what stands in for a GPU is slow
const library = new URL('../dist/index.js', import.meta.url).href

// A worker trains `steps` steps and posts each loss; with Infinity it goes on until it is ended.
const program = `
import { parentPort, workerData } from 'node:worker_threads'
const { nn, optim, scope, seed, setDefaultDevice, tensor } = await import(workerData.library)
setDefaultDevice(workerData.device)
seed(1)
const model = new nn.Transformer({
  vocab_size: 32, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64,
})
const optimizer = new optim.AdamW(model.namedParameters(), { lr: 1e-2 })
const ids = Int32Array.from({ length: 65 }, (_, i) => (i * i) % 32)
for (let step = 0; step < workerData.steps; step++) {
  const loss = await scope(async () => {
    const [x, y] = [ids.slice(0, 64), ids.slice(1)].map((row) => tensor(row, { shape: [4, 16] }))
    optimizer.zeroGrad()
    const { loss } = model.loss(x, y)
    loss.backward()
    optimizer.step()
    return loss.item()
  })
  parentPort.postMessage(loss)
}
`
function startWorker(steps: number) {
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(program)}`), {
    workerData: { library, steps, device },
  })
  const losses: number[] = []
  worker.on('message', (loss: number) => losses.push(loss))
  const ended = new Promise<number[]>((resolve, reject) => {
    worker.on('error', reject)
    worker.on('exit', () => resolve(losses))
  })
  return { worker, losses, ended }
}

test('several at once train, each as if it were alone', async () => {
  const [alone] = await Promise.all([startWorker(5).ended])
  expect(alone).toHaveLength(5)
  expect(alone!.at(-1)).toBeLessThan(alone![0]!)
  const together = await Promise.all([1, 2, 3, 4].map(() => startWorker(5).ended))
  for (const losses of together) expect(losses).toEqual(alone)
})

test('ending one in the middle of a step leaves the others and the process whole', async () => {
  const before = memory().inUse
  const steady = startWorker(long)
  for (let i = 0; i < 10; i++) {
    const doomed = startWorker(Number.POSITIVE_INFINITY)
    // Some are ended while they load, others in a step.
    while (i > 1 && doomed.losses.length === 0) await sleep(5)
    await sleep(Math.random() * 10)
    await doomed.worker.terminate()
    await doomed.ended
  }
  const losses = await steady.ended
  expect(losses).toHaveLength(long)
  expect(losses.slice(0, 5)).toEqual(await startWorker(5).ended)
  // What the ended ones held is free again.
  expect(memory().inUse).toBeLessThanOrEqual(before)
})
