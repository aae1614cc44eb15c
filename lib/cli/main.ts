#!/usr/bin/env node
// polygrad's command line: finds the command, runs it, and turns what went wrong into one line and an exit status.
import { diskError } from '../errors.ts'
import { ConfigError, nearest } from '../nn/fields.ts'
import { type Arguments, type Command, helpOf, readArguments, twoColumns } from './arguments.ts'
import { type CommandName, commands } from './commands.ts'
import { oneLine, statusOf } from './failure.ts'

// Loaded only when called: --help and its errors need no addon.
const programs: Record<CommandName, () => Promise<(args: Arguments<never>) => Promise<number>>> = {
  train: async () => (await import('./train.ts')).trainCommand,
  eval: async () => (await import('./eval.ts')).evalCommand,
  generate: async () => (await import('./generate.ts')).generateCommand,
  prepare: async () => (await import('./prepare.ts')).prepareCommand,
  bench: async () => (await import('./bench.ts')).benchCommand,
  doctor: async () => (await import('./doctor.ts')).doctorCommand,
}

const overview = (): string =>
  [
    'polygrad COMMAND: trains transformers with polynomial activations',
    twoColumns(
      Object.entries<Command>(commands).map(([name, c]) => [
        `${name}${c.positionals ? ` ${c.positionals.usage}` : ''}`,
        c.summary,
      ]),
    ),
    'polygrad COMMAND --help tells more. polygrad --version.',
  ].join('\n\n')

async function version(): Promise<string> {
  const { readFile } = await import('node:fs/promises')
  return JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')).version
}

/** Runs a command line (without `node` and the script) and returns the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  const [first, ...rest] = argv[0] === 'help' ? [argv[1] ?? '--help', '--help'] : argv
  if (first === undefined) {
    console.error(overview())
    return 2
  }
  if (first === '--help' || first === '-h') {
    console.log(overview())
    return 0
  }
  if (first === '--version' || first === '-v') {
    console.log(await version())
    return 0
  }
  if (!Object.hasOwn(commands, first)) {
    const near = nearest(first, first.startsWith('-') ? ['--help', '--version'] : Object.keys(commands))
    throw new ConfigError(`"${first}"`, ` is not a command; did you mean "${near}"?`)
  }
  const name = first as CommandName
  const args = readArguments(name, commands[name] as Command, rest)
  if (!args) {
    console.log(helpOf(name, commands[name]))
    return 0
  }
  const run = await programs[name]()
  return run(args as Arguments<never>)
}

// A reader that went away (`polygrad generate | head`) is no failure of ours, but a run that it cuts short is not done.
process.stdout.on('error', (e: NodeJS.ErrnoException) => {
  if (e.code === 'EPIPE') process.exit(process.argv[2] === 'train' ? 1 : 0)
  console.error(`polygrad: ${oneLine(diskError('write', 'standard output', e))}`)
  process.exit(1)
})

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  console.error(`polygrad: ${oneLine(error)}`)
  if (process.env.POLYGRAD_DEBUG) console.error(error)
  process.exitCode = statusOf(error)
}
