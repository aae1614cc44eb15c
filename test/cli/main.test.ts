import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { commands } from '../../lib/cli/commands.ts'
import { onlyLine, polygrad, start, temporaryFolder } from './program.ts'

const main = import.meta.filename

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
    [
      ['prepare', main, '--out', `${main}/x.bin`],
      `--out: cannot create ${main}: there is a file of that name (EEXIST)`,
    ],
    [['eval', main, '--data', main], `${main} is a file but must be a folder`],
    [['generate', '.', '--top-p', '2'], '--top-p is 2 but must be a number above 0 and at most 1'],
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

describe('a disk that takes nothing more', () => {
  const folder = temporaryFolder()

  test('a log on a full disk: status 1 and one line', async () => {
    const { status, stderr } = await start(['doctor'], { stdout: '/dev/full' }).ended
    expect(onlyLine(stderr)).toBe('polygrad: cannot write standard output: no space left on the disk (ENOSPC)')
    expect(status).toBe(1)
  })

  test('prepare leaves the old files as they were', async () => {
    const [text, out] = [join(folder, 'text.txt'), join(folder, 'x.bin')]
    writeFileSync(text, 'short')
    expect(await polygrad('prepare', text, '--out', out)).toMatchObject({ status: 0 })
    const before = readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')])
    const long = join(folder, 'long.txt')
    writeFileSync(long, 'x'.repeat(5000))
    const { status, stderr } = await start(['prepare', long, '--out', out], { largestFile: 4096 }).ended
    expect(onlyLine(stderr)).toBe(
      `polygrad: cannot write ${out}: the file would be larger than the system allows (EFBIG)`,
    )
    expect(status).toBe(1)
    rmSync(long)
    expect(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')])).toEqual(before)
  })
})
