// polygrad train: a run from its RUN.json, with its progress, samples, checkpoints and report.
import { cpus } from 'node:os'
import { join } from 'node:path'
import { availableMemory } from '../devices.ts'
import { generateText } from '../generate.ts'
import { writeReport } from '../report/report.ts'
import type { Device } from '../tensor.ts'
import { type RunConfig, readRunConfig } from '../train/config.ts'
import { type Estimate, estimate } from '../train/estimate.ts'
import type { TrainEvent } from '../train/events.ts'
import { readMetrics, readSamples } from '../train/metrics.ts'
import { Trainer, type TrainerOptions } from '../train/trainer.ts'
import type { Arguments } from './arguments.ts'
import { twoColumns } from './arguments.ts'
import type { commands } from './commands.ts'
import { requireDevice } from './device.ts'
import { count, duration, Progress } from './progress.ts'

export async function trainCommand({ positionals, options }: Arguments<typeof commands.train>): Promise<number> {
  const device = await requireDevice(options.device, options.threads)
  const run = readRunConfig(positionals[0]!, options.set)
  if (options['dry-run']) return dryRun(run, device)
  const prompt = options.prompt ?? '\n'
  const sample = sampler(prompt)
  const trainer = await Trainer.create(run, { out: options.out, device, resume: options.resume, sample })
  const progress = new Progress({ steps: run.train.steps, stream: process.stdout })
  const forget = stopOnSignals(trainer, progress)
  try {
    for await (const event of trainer) {
      show(event, progress, trainer, device)
      if (event.kind === 'start' && options.resume && !event.resumed)
        progress.note(`nothing was saved in ${trainer.checkpoints} yet: begins anew`)
      if (event.kind === 'done') await report(trainer, event, device)
    }
  } finally {
    progress.end()
    forget()
  }
  return 0
}

async function report(
  { run, out, model }: Trainer,
  done: Extract<TrainEvent, { kind: 'done' }>,
  device: string,
): Promise<void> {
  const path = join(out, 'report.html')
  await writeReport(path, {
    title: run.name,
    subtitle: `${cpus()[0]?.model.trim() ?? 'unknown processor'}, ${device}, ${new Date().toISOString().slice(0, 10)}`,
    metrics: readMetrics(join(out, 'metrics.jsonl')),
    samples: readSamples(join(out, 'samples.jsonl')).map(({ step, text }) => ({ step, text: text.trim() })),
    config: run,
    facts: [
      { name: 'parameters', value: count(model.parameterCount()) },
      { name: 'time', value: duration(done.seconds) },
    ],
    ...(run.data.tokenizer === 'bytes' && { bytesPerToken: 1 }),
  })
  console.log(`report ${path}`)
}

// The same seed each time, so that samples of one run differ by what was learnt.
const sampler =
  (prompt: string): NonNullable<TrainerOptions['sample']> =>
  async (model, tokenizer) => {
    const { vocab_size, max_position_embeddings } = model.config
    const ids = Array.from(tokenizer.encode(prompt))
    if (ids.some((id) => id >= vocab_size)) return ''
    const maxTokens = Math.min(256, max_position_embeddings - ids.length)
    return prompt + (await generateText(model, prompt, { tokenizer, maxTokens, temperature: 0.8, topP: 0.95, seed: 1 }))
  }

function show(event: TrainEvent, progress: Progress, trainer: Trainer, device: string): void {
  const { run, out } = trainer
  switch (event.kind) {
    case 'start': {
      const { micro_batch_size, seq_len, grad_accum, dtype } = run.train
      const size = `${count(event.parameters)} parameters, ${event.steps} steps of ${count(micro_batch_size * seq_len * grad_accum)} tokens`
      progress.note(`${run.name}: ${size}, ${dtype} on ${device}; writes ${out}`)
      if (event.movedTo) progress.note(`moved the files of an earlier run to ${event.movedTo}`)
      for (const { path, reason } of event.resumed?.skipped ?? []) progress.note(`passed over ${path}: ${reason}`)
      if (event.resumed) progress.note(`resumed from ${event.resumed.path}, at step ${event.step}`)
      break
    }
    case 'step':
      progress.step(event)
      break
    case 'eval':
      break // it stands on the step's line
    case 'sample':
      // Bytes that a terminal would obey are shown as what they are: not text.
      progress.note(
        `--- sample after ${event.step} steps\n${event.text.trim().replace(/[^\P{Cc}\n\t]/gu, '\uFFFD')}\n---`,
      )
      break
    case 'checkpoint':
      progress.note(`saved ${event.path}`)
      break
    case 'done': {
      progress.end()
      const per = run.data.tokenizer === 'bytes' ? 'nats a byte' : 'nats a token'
      if (!event.complete) progress.note(`stopped after ${event.step} of ${run.train.steps} steps; --resume goes on`)
      const found = [
        event.loss === undefined ? '' : `loss ${event.loss.toFixed(4)}`,
        event.val_loss === undefined ? '' : `held-out loss ${event.val_loss.toFixed(4)} ${per}`,
      ].filter(Boolean)
      progress.note(
        `${event.step} steps done, in ${duration(event.seconds)}${found.length ? `: ${found.join(', ')}` : ''}`,
      )
      progress.note(`metrics ${join(out, 'metrics.jsonl')}, checkpoint ${event.checkpoint}`)
    }
  }
}

// The first Ctrl-C (or SIGTERM) ends the run after its step, the second at once.
function stopOnSignals(trainer: Trainer, progress: Progress): () => void {
  let asked = false
  const stop = (signal: NodeJS.Signals) => {
    if (asked) process.exit(signal === 'SIGINT' ? 130 : 143)
    asked = true
    trainer.stop()
    progress.note(`${signal}: finishing this step and saving; once more quits at once`)
  }
  process.on('SIGINT', stop)
  process.on('SIGTERM', stop)
  return () => {
    process.off('SIGINT', stop)
    process.off('SIGTERM', stop)
  }
}

const bytes = (n: number): string => {
  for (const [unit, name] of [
    [2 ** 40, 'TiB'],
    [2 ** 30, 'GiB'],
    [2 ** 20, 'MiB'],
  ] as const)
    if (n >= unit) return `${(n / unit).toPrecision(4)} ${name}`
  return `${(n / 1024).toPrecision(4)} KiB`
}

function dryRun(run: RunConfig, device: Device): number {
  const found = estimate(run)
  const available = availableMemory(device)
  console.log(describe(run, found).join('\n'))
  const fits = found.memory.total <= available
  console.log(`${fits ? 'It fits' : 'It does NOT fit'}: ${bytes(available)} of memory are available on ${device}.`)
  return 0
}

function describe(run: RunConfig, { parameters: p, memory, ...found }: Estimate): string[] {
  const exact = (n: number) => n.toLocaleString('en-US')
  return [
    `${run.name}: ${exact(p.total)} parameters, ${exact(p.active)} of matrices active for a token`,
    twoColumns([
      ['embedding', exact(p.embedding)],
      ['attention', exact(p.attention)],
      ['feed-forward', exact(p.feedForward)],
      ['norms, coefficients', exact(p.vectors)],
      ['output matrix', p.output ? exact(p.output) : 'the embedding'],
    ]),
    `${exact(found.flopsPerToken)} FLOPs a token, forward and backward; ${count(found.flops)} for ${count(found.tokens)} tokens`,
    `memory: about ${bytes(memory.total)}`,
    twoColumns([
      ['parameters', bytes(memory.parameters)],
      ['gradients', bytes(memory.gradients)],
      ['AdamW moments', bytes(memory.moments)],
      ...(memory.masters ? [['float32 masters', bytes(memory.masters)] as const] : []),
      ['activations', bytes(memory.activations)],
    ]),
  ]
}
