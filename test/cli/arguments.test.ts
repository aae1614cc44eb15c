import { describe, expect, test } from 'vitest'
import { helpOf, readArguments } from '../../lib/cli/arguments.ts'
import { commands } from '../../lib/cli/commands.ts'

const train = (...argv: string[]) => readArguments('train', commands.train, argv)
const generate = (...argv: string[]) => readArguments('generate', commands.generate, argv)

test('options and positionals in any order', () => {
  expect(train('run.json', '--device', 'cpu', '--resume', '--out=a b')).toEqual({
    positionals: ['run.json'],
    options: { device: 'cpu', resume: true, out: 'a b' },
  })
  expect(train('--out', 'x', 'run.json')?.positionals).toEqual(['run.json'])
  expect(generate('f', '--max-tokens', '7', '--temperature', '1e-1', '--prompt', '5', '--top-p', '1')?.options).toEqual(
    {
      'max-tokens': 7,
      temperature: 0.1,
      prompt: '5',
      'top-p': 1,
    },
  )
  expect(generate('f', '--prompt', '-x', '--prompt=--y')?.options.prompt).toBe('--y')
})

test('--set takes one setting or several, again and again, and never the run file', () => {
  expect(train('--set', 'train.lr=1', 'train.steps=2', 'run.json', '--set', 'model.a=b=c')).toEqual({
    positionals: ['run.json'],
    options: { set: ['train.lr=1', 'train.steps=2', 'model.a=b=c'] },
  })
  expect(() => train('run.json', '--set', 'train.lr')).toThrow('--set is "train.lr" but must be a setting such as')
})

test('--help is found anywhere, and lists every option', () => {
  expect(train('run.json', '--nonsense', '--help')).toBeUndefined()
  expect(train('-h')).toBeUndefined()
  for (const [name, command] of Object.entries(commands)) {
    const help = helpOf(name, command)
    for (const option of [...Object.keys(command.options), 'help']) expect(help).toContain(`--${option}`)
    expect(Object.keys(command.options)).toContain('device')
  }
})

describe('what is wrong is named, with what would be right', () => {
  const cases: [string[], string][] = [
    [['r', '--devise', 'cpu'], '--devise is not an option of `polygrad train`; did you mean "--device"?'],
    [['r', '--Resume'], '--Resume is not an option of `polygrad train`; did you mean "--resume"?'],
    [['r', '-x'], '-x is not an option'],
    [['r', '--device', 'gpu'], '--device is "gpu" but must be one of "cpu", "cuda", "auto"; did you mean "cpu"?'],
    [['r', '--out'], '--out needs a value'],
    [['r', '--out', '--resume'], '--out needs a value'],
    [['r', '--resume=yes'], '--resume takes no value, but "yes" is given'],
    [['r', '--threads', 'many'], '--threads is "many" but must be an integer'],
    [['r', '--threads', '0'], '--threads is 0 but must be an integer from 1'],
    [[], 'RUN.json is missing'],
    [['r', 's'], '"s" is one argument too many: polygrad train RUN.json'],
  ]
  test.each(cases)('%j', (argv, message) => {
    expect(() => train(...argv)).toThrow(message)
  })
})
