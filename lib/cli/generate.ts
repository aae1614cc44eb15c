// polygrad generate: text from a model, as it comes.
import { generate } from '../generate.ts'
import { ConfigError } from '../nn/fields.ts'
import type { Arguments } from './arguments.ts'
import type { commands } from './commands.ts'
import { requireDevice } from './device.ts'
import { loadModel } from './model.ts'

export async function generateCommand({ positionals, options }: Arguments<typeof commands.generate>): Promise<number> {
  const device = await requireDevice(options.device, options.threads)
  const { folder, model, tokenizer } = await loadModel(positionals[0]!, device)
  if (!tokenizer)
    throw new ConfigError(folder, ' has no tokenizer.json, and its vocabulary is smaller than the 256 bytes')
  const prompt = options.prompt ?? '\n'
  try {
    const pieces = generate(model, prompt, {
      tokenizer,
      maxTokens: options['max-tokens'] ?? 256,
      temperature: options.temperature ?? 0.8,
      topK: options['top-k'] ?? 0,
      topP: options['top-p'] ?? 1,
      seed: options.seed ?? 1,
    })
    process.stdout.write(prompt)
    for await (const { text } of pieces) process.stdout.write(text)
    process.stdout.write('\n')
  } catch (e) {
    if (e instanceof RangeError) throw new ConfigError('--prompt', `: ${e.message}`)
    throw e
  }
  return 0
}
