import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  ConfigError,
  editDistance,
  flag,
  integer,
  nearest,
  number,
  oneOf,
  orNull,
  readFields,
  text,
} from '../../lib/nn/fields.ts'

// The textbook recursion, without a table.
function slowDistance(a: string, b: string): number {
  if (!a || !b) return a.length + b.length
  const cost = a.at(-1) === b.at(-1) ? 0 : 1
  let best = Math.min(
    slowDistance(a.slice(0, -1), b) + 1,
    slowDistance(a, b.slice(0, -1)) + 1,
    slowDistance(a.slice(0, -1), b.slice(0, -1)) + cost,
  )
  if (a.length > 1 && b.length > 1 && a.at(-1) === b.at(-2) && a.at(-2) === b.at(-1))
    best = Math.min(best, slowDistance(a.slice(0, -2), b.slice(0, -2)) + 1)
  return best
}

describe('editDistance', () => {
  test('is what its definition says', () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 6 })
    fc.assert(fc.property(word, word, (a, b) => editDistance(a, b) === slowDistance(a, b)))
  })
  test('known values', () => {
    expect(editDistance('kitten', 'sitting')).toBe(3)
    expect(editDistance('hidden_sizze', 'hidden_size')).toBe(1)
    expect(editDistance('hidden_szie', 'hidden_size')).toBe(1)
    expect(editDistance('', 'abc')).toBe(3)
  })
})

test('nearest passes over case and underscores', () => {
  const names = ['hidden_size', 'head_dim', 'hidden_act', 'intermediate_size']
  expect(nearest('hiddenSize', names)).toBe('hidden_size')
  expect(nearest('hidden_act_', names)).toBe('hidden_act')
  expect(nearest('dim_head', ['lr', 'head_dim'])).toBe('head_dim')
  expect(nearest('x', [])).toBeUndefined()
})

describe('rules', () => {
  test('integer', () => {
    expect(integer(1, 8).read(8)).toBe(8)
    for (const bad of [0, 9, 1.5, '3', null, Number.NaN, 2 ** 60]) expect(integer(1, 8).read(bad)).toBeUndefined()
    expect(integer(0).read(-0)).toBe(-0)
    expect(integer(1).what).toBe('an integer of at least 1')
    expect(integer(1, 8).what).toBe('an integer from 1 to 8')
  })
  test('number', () => {
    expect(number({ above: 0 }).read(0)).toBeUndefined()
    expect(number({ min: 0 }).read(0)).toBe(0)
    expect(number({ below: 1 }).read(1)).toBeUndefined()
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, '1', true]) expect(number().read(bad)).toBeUndefined()
    expect(number({ min: 0, below: 1 }).what).toBe('a number of at least 0 and below 1')
  })
  test('flag, text, oneOf, orNull', () => {
    expect(flag.read(false)).toBe(false)
    expect(flag.read('true')).toBeUndefined()
    expect(text.read('')).toBeUndefined()
    expect(oneOf(['a', 'b'], { c: 'b' }).read('c')).toBe('b')
    expect(oneOf(['a', 'b'], { c: 'b' }).read('constructor')).toBeUndefined()
    expect(orNull(integer(1)).read(null)).toBeNull()
    expect(orNull(integer(1)).read(0)).toBeUndefined()
  })
})

describe('readFields', () => {
  const rules = { width: integer(1), act: oneOf(['relu', 'gelu']) }
  test('reads what is allowed', () => expect(readFields({ width: 3 }, rules, 'm')).toEqual({ width: 3 }))
  test.each([
    [{ widht: 3 }, 'm.widht', 'm.widht is not a field; did you mean "width"?'],
    [{ lr: 3 }, 'm.lr', 'm.lr is not a field; did you mean "train.lr"?'],
    [{ width: '3' }, 'm.width', 'm.width is "3" but must be an integer of at least 1'],
    [{ act: 'rleu' }, 'm.act', 'm.act is "rleu" but must be one of "relu", "gelu"; did you mean "relu"?'],
    [[], 'm', 'm is [] but must be an object of fields'],
  ])('%j', (value, field, message) => {
    expect(() => readFields(value, rules, 'm', ['train.lr'])).toThrow(expect.objectContaining({ field, message }))
    expect(() => readFields(value, rules, 'm', ['train.lr'])).toThrow(ConfigError)
  })
})
