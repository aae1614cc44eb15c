// Runs a program in a process of its own, on the stand-in that the environment's settings describe.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { native } from '../../lib/native.ts'

/** Whether the GPU is the stand-in, which can be told what to be, and not a real one. */
export const standIn = 'provoke' in native

const library = new URL('../../dist/index.js', import.meta.url).href

/**
 * @param program statements; `polygrad` is the library, `outcome(fn)` gives the error that fn ends with, and what they
 * pass to `tell` is the result
 */
export async function inProcess(env: Record<string, string>, program: string): Promise<unknown> {
  const source = `
    const library = ${JSON.stringify(library)}
    const polygrad = await import(library)
    const { native } = await import(new URL('native.js', library).href)
    const outcome = async (fn) => {
      try { return { value: await fn() } } catch (e) { return { ...e, name: e.name, message: e.message } }
    }
    const tell = (value) => console.log('told ' + JSON.stringify(value))
    ${program}`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', source], {
    env: { ...process.env, ...env },
  })
  return JSON.parse(/^told (.*)$/m.exec(stdout)![1]!)
}
