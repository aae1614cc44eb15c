// Runs the command line as users do: a process of its own.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll } from 'vitest'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Ended {
  status: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

interface Circumstances {
  cwd?: string
  env?: Record<string, string>
  /** No file may grow beyond so many bytes (a multiple of 512): a full disk without a disk to fill. */
  largestFile?: number
  /** A file that standard output goes to. */
  stdout?: string
}

/** Starts `polygrad ...`; `ended` resolves when it has ended. */
export function start(args: readonly string[], options: Circumstances = {}) {
  const { cwd, env, largestFile, stdout } = options
  const limit = largestFile === undefined ? '' : `ulimit -f ${largestFile / 512} && `
  const shell = ['-c', `${limit}exec "$@"${stdout ? ` > ${stdout}` : ''}`, 'sh', process.execPath]
  const [program, first] = limit || stdout ? ['sh', shell] : [process.execPath, []]
  const child = spawn(program!, [...(first as string[]), main, ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const out = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (s: string) => {
    out.stdout += s
  })
  child.stderr.setEncoding('utf8').on('data', (s: string) => {
    out.stderr += s
  })
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (status, signal) => resolve({ status, signal, ...out })),
  )
  return { child, ended, out }
}

/** Runs `polygrad ...` to its end. */
export const polygrad = (...args: string[]): Promise<Ended> => start(args).ended

/** A folder that goes when the file's tests are done. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'polygrad-test-'))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** The one line that a failed command says. */
export function onlyLine(text: string): string {
  const lines = text.trimEnd().split('\n')
  if (lines.length !== 1) throw new Error(`one line was expected, not ${lines.length}:\n${text}`)
  return lines[0]!
}
