import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { commands } from '../../lib/cli/commands.ts'
import { onlyLine, polygrad } from './program.ts'

test('--help of the program and of every command', async () => {
  const all = await polygrad('--help')
  expect(all.status).toBe(0)
  for (const name of Object.keys(commands)) {
    expect(all.stdout).toContain(`\n  ${name}`)
    for (const args of [
      [name, '--help'],
      ['help', name],
    ]) {
      const help = await polygrad(...args)
      expect(help.status).toBe(0)
      expect(help.stdout).toContain(`polygrad ${name}`)
      expect(help.stdout).toContain('--device cpu|cuda|auto')
    }
  }
})

test('--version is the one of package.json', async () => {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  expect(await polygrad('--version')).toMatchObject({ status: 0, stdout: `${version}\n` })
})

describe('bad arguments: status 2 and one line that names the nearest', () => {
  const cases: [string[], string][] = [
    [['trian'], '"trian" is not a command; did you mean "train"?'],
    [['--hlep'], 'did you mean "--help"?'],
    [['train', 'run.json', '--devcie', 'cpu'], 'did you mean "--device"?'],
    [['train', 'run.json', '--device', 'gpu'], '--device is "gpu" but must be one of "cpu", "cuda", "auto"'],
    [['train'], 'RUN.json is missing'],
    [['eval', '.'], '--data is missing'],
    [['prepare', 'x.txt'], '--out is missing'],
    [['prepare', 'x.txt', '--out', 'x.txt'], '--out is "x.txt" but must end in .bin'],
    [['doctor', 'well'], '"well" is one argument too many'],
    [['generate', '/nonexistent'], '/nonexistent does not exist'],
    [['train', '/nonexistent.json'], '/nonexistent.json does not exist'],
  ]
  test.each(cases)('%j', async (args, message) => {
    const { status, stderr, stdout } = await polygrad(...args)
    expect(onlyLine(stderr)).toContain(message)
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
  })

  test('no command at all shows the overview', async () => {
    const { status, stderr } = await polygrad()
    expect(status).toBe(2)
    expect(stderr).toContain('prepare')
  })
})
