// What commands there are: their arguments and help texts, readable without loading the addon.
import { integer, number, oneOf, type Rule, text } from '../nn/fields.ts'
import type { Command, Option } from './arguments.ts'

const device = {
  rule: oneOf(['cpu', 'cuda', 'auto'] as const),
  value: 'cpu|cuda|auto',
  help: 'Where to compute. auto: the GPU if there is one that can be used, else the CPU. Default auto.',
} as const satisfies Option
const threads = {
  rule: integer(1, 1024),
  value: 'N',
  help: 'CPU threads. Default: POLYGRAD_THREADS, or all cores.',
} as const satisfies Option

const model = {
  usage: 'FOLDER',
  min: 1,
  max: 1,
  help: 'FOLDER: a checkpoint, a run (its newest checkpoint) or a Hugging Face folder.',
} as const

const setting: Rule<string> = {
  what: 'a setting such as train.lr=1e-3',
  read: (v) => (typeof v === 'string' && v.indexOf('=') > 0 ? v : undefined),
}

export const commands = {
  train: {
    summary: 'Trains a model as RUN.json says.',
    positionals: { usage: 'RUN.json', min: 1, max: 1, help: 'Paths in RUN.json are relative to it.' },
    options: {
      set: { rule: setting, value: 'FIELD=VALUE ...', list: true, help: 'Override fields: --set train.lr=1e-3' },
      out: { rule: text, value: 'DIR', help: "Where to write. Default runs/<RUN's name>." },
      resume: { help: 'Go on from the newest whole checkpoint in DIR.' },
      prompt: { rule: text, value: 'TEXT', help: 'What the samples of sample_every continue. Default: a new line.' },
      'dry-run': { help: 'Only print parameters, FLOPs a token and memory, and whether it fits.' },
      device,
      threads,
    },
    notes: [
      'Writes DIR/metrics.jsonl (a line a step), DIR/samples.jsonl, DIR/checkpoints/step-00000100/ and DIR/report.html.',
      'Ctrl-C finishes the step, saves and stops; --resume then goes on with the same numbers, bit for bit.',
      'Exit status: 0 done, 1 the run failed, 2 bad arguments or a bad file.',
    ].join('\n'),
  },
  eval: {
    summary: 'Prints the loss of a model on data.',
    positionals: model,
    options: {
      data: { rule: text, value: 'FILE', help: 'A .bin of tokens, or text. Required.' },
      batches: { rule: integer(1), value: 'N', help: 'Stop after so many batches. Default: all of the data.' },
      'batch-size': { rule: integer(1), value: 'N', help: "Rows of a batch. Default the run's, or 8." },
      'seq-len': { rule: integer(1), value: 'N', help: "Tokens of a row. Default the run's, or 1024." },
      json: { help: 'Print one JSON object.' },
      device,
      threads,
    },
  },
  generate: {
    summary: 'Writes text with a model.',
    positionals: model,
    options: {
      prompt: { rule: text, value: 'TEXT', help: 'What to go on from. Default: a line break.' },
      'max-tokens': { rule: integer(1), value: 'N', help: 'How many tokens to write. Default 256.' },
      temperature: { rule: number({ min: 0 }), value: 'F', help: '0: always the likeliest token. Default 0.8.' },
      'top-k': { rule: integer(0), value: 'N', help: 'Choose among the N likeliest tokens; 0 (default): all.' },
      'top-p': {
        rule: number({ above: 0, max: 1 }),
        value: 'F',
        help: 'Choose among the likeliest tokens that together have this probability. Default 1.',
      },
      seed: { rule: integer(0), value: 'N', help: 'The same seed writes the same text. Default 1.' },
      device,
      threads,
    },
  },
  prepare: {
    summary: 'Turns text into a file of tokens.',
    positionals: {
      usage: 'TEXT...',
      min: 1,
      max: Number.POSITIVE_INFINITY,
      help: 'TEXT: files, folders or globs such as "lib/*.d.ts".',
    },
    options: {
      tokenizer: { rule: text, value: 'T', help: 'bytes, gpt2, or the path of a tokenizer.json. Default bytes.' },
      out: { rule: text, value: 'FILE.bin', help: 'The file to write. Required.' },
      'val-fraction': {
        rule: number({ min: 0, below: 1 }),
        value: 'F',
        help: 'Hold out this last part of the tokens, in FILE.val.bin. Default 0.',
      },
      device,
    },
    notes: 'Tokens are uint16, or uint32 for vocabularies above 65536; FILE.meta.json says which.',
  },
  bench: {
    summary: "Measures the kernels beside the machine's own ceilings, and beside others.",
    positionals: {
      usage: '[CASE...]',
      min: 0,
      max: Number.POSITIVE_INFINITY,
      help: 'CASE: copy gemm poly norm loss adamw attention ffn moe overhead. Default: all but overhead.',
    },
    options: {
      shape: {
        rule: text,
        value: 'LENGTHS',
        help: 'One shape of one case: poly --shape 8192x8256, gemm --shape 1024x1024x512.',
      },
      dtype: {
        rule: oneOf(['float32', 'bfloat16', 'float16'] as const),
        value: 'float32|bfloat16|float16',
        help: 'Default bfloat16 on the GPU, float32 on the CPU.',
      },
      peers: { help: 'Also PyTorch and what runs on it, in turns with ours (needs a python3 with torch).' },
      rounds: { rule: integer(3, 1000), value: 'N', help: 'Rounds that count. Default 15.' },
      json: { rule: text, value: 'FILE', help: 'Write all figures.' },
      svg: { rule: text, value: 'FILE', help: 'Draw the roofline.' },
      device,
      threads,
    },
    notes: [
      'Every result is compared with a float64 oracle before its time is taken. Times are medians, with the middle half of the',
      'runs; data is random and rotated past the caches. Bytes and operations are the fewest that the work needs.',
    ].join('\n'),
  },
  doctor: {
    summary: 'Says what is on this machine: Node, addon, processor, BLAS, memory, driver, GPU, or the reason why not.',
    options: { json: { help: 'Print one JSON object.' }, device },
  },
} as const satisfies Record<string, Command>

export type CommandName = keyof typeof commands
