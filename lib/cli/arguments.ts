// Reads a command's arguments by its table of options, writes its --help, and names the nearest valid spelling.
import { parseArgs } from 'node:util'
import { ConfigError, nearest, type Rule, readField } from '../nn/fields.ts'

/** One option of a command. Without a `rule` it is a switch. */
export interface Option<T = unknown> {
  readonly rule?: Rule<T>
  /** What --help calls the value: `N`. */
  readonly value?: string
  readonly help: string
  /** May be given several times, and takes several values at once. */
  readonly list?: true
}

/** A command as --help shows it and as its arguments are read. */
export interface Command {
  readonly summary: string
  /** The positional arguments as --help shows them, and how many there may be. */
  readonly positionals?: { readonly usage: string; readonly min: number; readonly max: number; readonly help: string }
  readonly options: Readonly<Record<string, Option>>
  /** Paragraphs under the options in --help. */
  readonly notes?: string
}

type ValueOf<O> = O extends { rule: Rule<infer T> } ? (O extends { list: true } ? T[] : T) : true

/** What a command is called with. */
export interface Arguments<C extends Command = Command> {
  readonly positionals: string[]
  readonly options: { readonly [K in keyof C['options']]?: ValueOf<C['options'][K]> }
}

/**
 * Reads the arguments that follow a command's name.
 * @returns undefined when --help is among them
 * @throws ConfigError naming the argument: unknown (with the nearest valid one), without a value, of the wrong kind, too many or too few
 */
export function readArguments<C extends Command>(
  name: string,
  command: C,
  argv: readonly string[],
): Arguments<C> | undefined {
  const types = Object.fromEntries(
    Object.entries(command.options).map(([option, { rule }]) => [
      option,
      { type: rule ? ('string' as const) : ('boolean' as const) },
    ]),
  )
  const { tokens } = parseArgs({
    args: [...argv],
    options: { ...types, help: { type: 'boolean', short: 'h' } },
    strict: false,
    tokens: true,
    allowPositionals: true,
  })
  if (tokens.some((t) => t.kind === 'option' && t.name === 'help')) return undefined

  const positionals: string[] = []
  const options: Record<string, unknown> = {}
  let open: string | undefined // the list option that the next values may belong to
  for (const token of tokens) {
    if (token.kind === 'option-terminator') continue
    if (token.kind === 'positional') {
      if (open !== undefined && token.value.includes('=')) addValue(options, command, open, token.value)
      else {
        positionals.push(token.value)
        open = undefined
      }
      continue
    }
    const option = Object.hasOwn(command.options, token.name) ? command.options[token.name] : undefined
    if (!option) {
      const near = nearest(token.name, [...Object.keys(command.options), 'help'])
      throw new ConfigError(token.rawName, ` is not an option of \`polygrad ${name}\`; did you mean "--${near}"?`)
    }
    open = option.list && token.name
    if (!option.rule) {
      if (token.value !== undefined)
        throw new ConfigError(token.rawName, ` takes no value, but "${token.value}" is given`)
      options[token.name] = true
    } else {
      const missing = token.value === undefined || (!token.inlineValue && /^--[a-z]/.test(token.value))
      if (missing) throw new ConfigError(token.rawName, ` needs a value: ${option.rule.what}`)
      addValue(options, command, token.name, token.value!)
    }
  }

  const { min, max, usage } = command.positionals ?? { min: 0, max: 0, usage: '' }
  if (positionals.length < min) throw new ConfigError(usage, ` is missing: polygrad ${name} ${usage}`)
  if (positionals.length > max)
    throw new ConfigError(`"${positionals[max]}"`, ` is one argument too many: polygrad ${name} ${usage}`.trimEnd())
  return { positionals, options: options as Arguments<C>['options'] }
}

function addValue(options: Record<string, unknown>, command: Command, name: string, given: string): void {
  const { rule, list } = command.options[name]!
  // Numbers arrive as text; a rule for text takes the text itself.
  const number = given.trim() === '' ? Number.NaN : Number(given)
  const read = rule!.read(given) === undefined && !Number.isNaN(number) ? number : given
  const value = readField(read, rule as Rule<unknown>, `--${name}`)
  if (list) options[name] = [...((options[name] as unknown[]) ?? []), value]
  else options[name] = value
}

/** The text of `polygrad NAME --help`. */
export function helpOf(name: string, command: Command): string {
  const rows = Object.entries({ ...command.options, help: { help: 'Print this.' } as Option }).map(
    ([option, { rule, value, help }]) => [`--${option}${rule ? ` ${value ?? 'TEXT'}` : ''}`, help] as const,
  )
  return [
    `polygrad ${name}${command.positionals ? ` ${command.positionals.usage}` : ''} [options]`,
    `${command.summary}${command.positionals ? `\n${command.positionals.help}` : ''}`,
    twoColumns(rows),
    command.notes,
  ]
    .filter(Boolean)
    .join('\n\n')
}

/** Lines of two columns, the second one aligned. */
export function twoColumns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([left]) => left.length))
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`).join('\n')
}
