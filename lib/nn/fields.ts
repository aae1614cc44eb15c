// Checks configuration objects against a table of rules, one row a field, and says what is wrong by the field's name.

/** A bad value in a configuration. `field` is its full name, such as `model.hidden_size`. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  constructor(
    readonly field: string,
    message: string,
  ) {
    super(`${field}${message}`)
  }
}

/** What one field may hold: `read` returns the value to use, or undefined when the value is not allowed. */
export interface Rule<T> {
  /** What is allowed, as the error says it: `an integer of at least 1`. */
  readonly what: string
  readonly read: (value: unknown) => T | undefined
  /** The values when there are few, to name the nearest. */
  readonly names?: readonly string[]
}

export const integer = (min: number, max = Number.MAX_SAFE_INTEGER): Rule<number> => ({
  what: max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`,
  read: (v) => (Number.isSafeInteger(v) && (v as number) >= min && (v as number) <= max ? (v as number) : undefined),
})

/** A finite number; `min` and `max` include their bounds, `above` and `below` do not. */
export const number = (limits: { min?: number; max?: number; above?: number; below?: number } = {}): Rule<number> => {
  const words = [
    limits.min === undefined ? '' : ` of at least ${limits.min}`,
    limits.above === undefined ? '' : ` above ${limits.above}`,
    limits.below === undefined ? '' : ` below ${limits.below}`,
    limits.max === undefined ? '' : ` at most ${limits.max}`,
  ].filter(Boolean)
  return {
    what: `a number${words.join(' and')}`,
    read: (v) =>
      typeof v === 'number' &&
      Number.isFinite(v) &&
      v >= (limits.min ?? Number.NEGATIVE_INFINITY) &&
      v > (limits.above ?? Number.NEGATIVE_INFINITY) &&
      v < (limits.below ?? Number.POSITIVE_INFINITY) &&
      v <= (limits.max ?? Number.POSITIVE_INFINITY)
        ? v
        : undefined,
  }
}

export const flag: Rule<boolean> = {
  what: 'true or false',
  read: (v) => (typeof v === 'boolean' ? v : undefined),
}

export const text: Rule<string> = {
  what: 'a string that is not empty',
  read: (v) => (typeof v === 'string' && v !== '' ? v : undefined),
}

/** One of some names; `aliases` are other spellings that are understood. */
export const oneOf = <T extends string>(names: readonly T[], aliases: Record<string, T> = {}): Rule<T> => ({
  what: `one of ${names.map((n) => `"${n}"`).join(', ')}`,
  names,
  read: (v) =>
    names.includes(v as T) ? (v as T) : typeof v === 'string' && Object.hasOwn(aliases, v) ? aliases[v] : undefined,
})

export const orNull = <T>(rule: Rule<T>): Rule<T | null> => ({
  ...rule,
  what: `${rule.what}, or null`,
  read: (v) => (v === null ? null : rule.read(v)),
})

export type Rules<T> = { readonly [K in keyof T]-?: Rule<NonNullable<T[K]> | (null extends T[K] ? null : never)> }

/** Number of single-character insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`. */
export function editDistance(a: string, b: string): number {
  let before: number[] = []
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const substitute = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      let best = Math.min(previous[j]! + 1, row[j - 1]! + 1, substitute)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, before[j - 2]! + 1)
      row.push(best)
    }
    before = previous
    previous = row
  }
  return previous[b.length]!
}

/** The name nearest to a mistyped one, upper and lower case and `_` `-` counting little. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  const plain = (s: string) => s.toLowerCase().replaceAll(/[_-]/g, '')
  const distance = (s: string) => 4 * editDistance(plain(name), plain(s)) + editDistance(name, s)
  return names.reduce<string | undefined>((a, b) => (a === undefined || distance(b) < distance(a) ? b : a), undefined)
}

/** A value as an error shows it: JSON, cut short. */
export function show(value: unknown): string {
  const s = typeof value === 'number' || value === undefined ? String(value) : JSON.stringify(value)
  return s.length > 60 ? `${s.slice(0, 57)}...` : s
}

/** Whether a value is a JSON object. */
export const isRecord = (v: unknown): v is Record<string, unknown> =>
  typeof v === 'object' && v !== null && !Array.isArray(v)

/** Checks one value. Throws a ConfigError that names the field, what the value is and what it should be. */
export function readField<T>(value: unknown, rule: Rule<T>, field: string): T {
  const read = rule.read(value)
  if (read !== undefined) return read
  const near = typeof value === 'string' && rule.names ? nearest(value, rule.names) : undefined
  throw new ConfigError(field, ` is ${show(value)} but must be ${rule.what}${near ? `; did you mean "${near}"?` : ''}`)
}

/**
 * Checks an object against a table: every given field has an allowed value and no field is unknown.
 * @param where the object's own name in errors, such as `model`
 * @param elsewhere full names of fields outside this object, offered when the unknown name is exactly one of theirs
 * @throws ConfigError naming the field; for an unknown one also the nearest that exists
 */
export function readFields<T extends object>(
  value: unknown,
  rules: Rules<T>,
  where: string,
  elsewhere: readonly string[] = [],
): Partial<T> {
  if (!isRecord(value)) throw new ConfigError(where, ` is ${show(value)} but must be an object of fields`)
  const names = Object.keys(rules)
  const out: Record<string, unknown> = {}
  for (const [name, given] of Object.entries(value)) {
    const field = where ? `${where}.${name}` : name
    if (!Object.hasOwn(rules, name)) {
      const moved = elsewhere.find((f) => f.slice(f.lastIndexOf('.') + 1) === name)
      throw new ConfigError(field, ` is not a field; did you mean "${moved ?? nearest(name, names)}"?`)
    }
    if (given === undefined) continue
    out[name] = readField(given, rules[name as keyof T] as Rule<unknown>, field)
  }
  return out as Partial<T>
}
