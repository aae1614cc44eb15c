// Trains the model of configs/gpt2-124m.json and writes what the steps found: losses, tokens a second, peak memory.
//   node test/gpu/train.mjs OUT.json STEPS capture|direct [FIELD=VALUE...]    POLYGRAD_TEST_DEVICE: default cuda
// Fewer steps than the run has: its first ones, with the learning rates that they have in it.
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { generateText, memory, train } from '../../dist/index.js'

const [out, steps, how, ...settings] = process.argv.slice(2)
const device = process.env.POLYGRAD_TEST_DEVICE ?? 'cuda'
const config = fileURLToPath(new URL('../../configs/gpt2-124m.json', import.meta.url))
const run = train.readRunConfig(config, settings)
const median = (xs) => [...xs].sort((a, b) => a - b)[xs.length >> 1]

const began = performance.now()
const trainer = await train.Trainer.create(run, {
  device,
  capture: how === 'capture',
  out: join(tmpdir(), `polygrad-gpu-${how}`),
})
const prepared = memory(device)
const found = { loss: [], gradNorm: [], valLoss: {} }
const rates = []
for await (const event of trainer) {
  if (event.kind !== 'step') continue
  found.loss.push(event.loss)
  found.gradNorm.push(event.grad_norm)
  rates.push(event.tokens_per_second)
  if (event.val_loss !== undefined) found.valLoss[event.step] = event.val_loss
  if (event.step % 20 === 0)
    console.log(`${how} ${event.step}: loss ${event.loss.toFixed(4)}, ${Math.round(event.tokens_per_second)} tokens/s`)
  if (found.loss.length === Number(steps)) break // nothing is saved then
}
const { peak } = memory(device)
const written = await generateText(trainer.model, 'The', { tokenizer: trainer.tokenizer, maxTokens: 24, seed: 1 })
writeFileSync(
  out,
  JSON.stringify({
    how,
    device,
    parameters: trainer.model.parameterCount(),
    run: { model: run.model, train: run.train },
    steps: found.loss.length,
    tokensPerSecond: median(rates.slice(Math.min(5, rates.length - 1))),
    secondsWhole: (performance.now() - began) / 1000,
    bytes: { beforeTheFirstStep: prepared.inUse, peak },
    ...found,
    written,
  }),
)
console.log(`${how}: ${found.loss.length} steps, peak ${(peak / 2 ** 20).toFixed(0)} MiB`)
