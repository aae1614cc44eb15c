import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import {
  type CheckpointFiles,
  checkpointName,
  checkpointProblem,
  latestCheckpoint,
  writeCheckpoint,
} from '../../lib/io/checkpoint.ts'
import { type Disk, realDisk } from '../../lib/io/disk.ts'
import { SafetensorsReader } from '../../lib/io/safetensors.ts'
import { MemoryDisk, systemError, watched } from './disk-model.ts'

const root = mkdtempSync(join(tmpdir(), 'polygrad-checkpoint-'))
afterAll(() => rmSync(root, { recursive: true }))
let folder = ''
let count = 0
beforeEach(() => {
  folder = join(root, String(count++), 'checkpoints')
})
const at = (step: number) => join(folder, checkpointName(step))
// A process number above Linux's limit: never alive.
const dead = 2 ** 22 + 1

/** A small checkpoint whose every file tells its step. */
const body =
  (step: number, length = 8) =>
  async (files: CheckpointFiles) => {
    const data = new Float32Array(length).fill(step)
    await files.model([{ name: 'w', dtype: 'float32', shape: [length], data }])
    await files.file('config.json', `{"step":${step}}`)
    await files.tensors('optimizer.safetensors', [{ name: 'w.exp_avg', dtype: 'float32', shape: [length], data }])
    await files.file('trainer.json', JSON.stringify({ step }))
  }
const save = (step: number, options?: { keep?: number; disk?: Disk }) =>
  writeCheckpoint(folder, step, body(step), options)
const names = () => readdirSync(folder).sort()

test('a checkpoint is a folder of the files that interchange.md names, and reads back', async () => {
  expect(await latestCheckpoint(folder)).toEqual({ path: undefined, step: 0, skipped: [] })
  expect(await save(100)).toEqual({ path: at(100), removed: [] })
  await save(20)
  expect(names()).toEqual(['step-00000020', 'step-00000100'])
  expect(readdirSync(at(100)).sort()).toEqual([
    'checkpoint.json',
    'config.json',
    'model.safetensors',
    'optimizer.safetensors',
    'trainer.json',
  ])
  expect(await latestCheckpoint(folder)).toEqual({ path: at(100), step: 100, skipped: [] })
  const reader = await SafetensorsReader.open(at(100))
  expect(new Float32Array((await reader.read('w')).data.buffer)[7]).toBe(100)
  await reader.close()
})

describe('a checkpoint that is not whole is passed over, with the reason', () => {
  const flip = (path: string) => {
    const bytes = readFileSync(path)
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(path, bytes)
  }
  test.each<[string, () => void, string]>([
    ['one bit', () => flip(join(at(2), 'model.safetensors')), 'model.safetensors has the checksum '],
    [
      'cut short',
      () => truncateSync(join(at(2), 'optimizer.safetensors'), 99),
      'optimizer.safetensors has 99 bytes but should have ',
    ],
    ['empty', () => truncateSync(join(at(2), 'trainer.json'), 0), 'trainer.json has 0 bytes but should have 10'],
    ['a file gone', () => rmSync(join(at(2), 'config.json')), 'config.json: no such file or folder (ENOENT)'],
    ['no list', () => rmSync(join(at(2), 'checkpoint.json')), 'it has no checkpoint.json: it was not finished'],
    ['an empty list', () => truncateSync(join(at(2), 'checkpoint.json'), 0), 'checkpoint.json is not a list of files'],
    ['half a list', () => truncateSync(join(at(2), 'checkpoint.json'), 40), 'checkpoint.json is not a list of files'],
    ['null', () => writeFileSync(join(at(2), 'checkpoint.json'), 'null'), 'checkpoint.json is not a list of files'],
    [
      'another shape',
      () => writeFileSync(join(at(2), 'checkpoint.json'), '{"files":{"a":1}}'),
      'is not a list of files',
    ],
    [
      'a path outside',
      () => writeFileSync(join(at(2), 'checkpoint.json'), '{"files":{"../a":{"bytes":1,"crc32":"0"}}}'),
      'is not a list of files',
    ],
    [
      'an incomplete list',
      () => writeFileSync(join(at(2), 'checkpoint.json'), '{"files":{}}'),
      'model.safetensors is missing in checkpoint.json',
    ],
    [
      'a file of the name',
      () => {
        rmSync(at(2), { recursive: true })
        writeFileSync(at(2), '')
      },
      'a part of the path is not a folder',
    ],
  ])('%s', async (_, harm, reason) => {
    await save(1)
    await save(2)
    harm()
    const found = await latestCheckpoint(folder)
    expect(found).toEqual({ path: at(1), step: 1, skipped: [{ path: at(2), reason: expect.stringContaining(reason) }] })
    expect(found.skipped[0]!.reason).not.toContain('\n')
    expect(await checkpointProblem(at(1))).toBeUndefined()
    expect(await checkpointProblem(at(2))).toContain(reason)
  })
  test('none is whole', async () => {
    await save(1)
    flip(join(at(1), 'config.json'))
    expect(await latestCheckpoint(folder)).toMatchObject({ path: undefined, skipped: [{ path: at(1) }] })
  })
})

describe('retention', () => {
  test('keeps the newest', async () => {
    for (const step of [1, 2, 3]) await save(step)
    expect((await save(4, { keep: 2 })).removed).toEqual([at(2), at(1)])
    expect(names()).toEqual(['step-00000003', 'step-00000004'])
    await save(5, { keep: 0 })
    expect(names()).toEqual(['step-00000005'])
  })
  test('removes nothing when the new one does not read back', async () => {
    await save(1)
    // The list says what was written; the disk then has something else.
    const lying = watched(realDisk, (call, path) => {
      if (call === 'rename' && path === at(2)) writeFileSync(join(`${at(2)}.tmp-${process.pid}`, 'trainer.json'), '')
    })
    await expect(save(2, { keep: 1, disk: lying })).rejects.toThrow('does not read back: trainer.json has 0 bytes')
    expect(await latestCheckpoint(folder)).toMatchObject({ path: at(1), skipped: [{ path: at(2) }] })
  })
})

describe('leftovers', () => {
  test('of dead processes go; of living ones stay and are not taken for checkpoints', async () => {
    await save(1)
    const alive = process.ppid
    for (const pid of [dead, alive, process.pid]) cpSync(at(1), `${at(2)}.tmp-${pid}`, { recursive: true })
    mkdirSync(join(folder, 'mine'))
    expect(await latestCheckpoint(folder)).toEqual({ path: at(1), step: 1, skipped: [] })
    expect(names()).toEqual(['mine', 'step-00000001', `step-00000002.tmp-${alive}`])
  })
  test('an old one whose successor never got its name comes back', async () => {
    await save(1)
    await save(2)
    cpSync(at(1), `${at(1)}.old-${dead}`, { recursive: true })
    cpSync(at(2), `${at(2)}.old-${dead}`, { recursive: true })
    rmSync(at(2), { recursive: true })
    expect(await latestCheckpoint(folder)).toEqual({ path: at(2), step: 2, skipped: [] })
    expect(names()).toEqual(['step-00000001', 'step-00000002'])
  })
  test('a checkpoint being written is not a leftover', async () => {
    await writeCheckpoint(folder, 1, async (files) => {
      await files.file('config.json', '{}')
      expect((await latestCheckpoint(folder)).path).toBeUndefined()
      await expect(save(1)).rejects.toThrow('is being written already')
      await body(1)({ ...files, file: async (n, d) => (n === 'config.json' ? undefined : files.file(n, d)) })
    })
    expect(await checkpointProblem(at(1))).toBeUndefined()
  })
})

test('a step written again replaces the old one', async () => {
  await save(1)
  await writeCheckpoint(folder, 1, body(7))
  expect(readFileSync(join(at(1), 'trainer.json'), 'utf8')).toBe('{"step":7}')
  expect(names()).toEqual(['step-00000001'])
})

test('what the caller forgets or names wrongly', async () => {
  const write = (b: (files: CheckpointFiles) => Promise<void>) => writeCheckpoint(folder, 1, b)
  await expect(write(async (f) => f.file('config.json', ''))).rejects.toThrow(
    'checkpoint: model.safetensors was not written',
  )
  await expect(write(async (f) => f.file('../x', ''))).rejects.toThrow('"../x" cannot be the name')
  await expect(write(async (f) => f.file('checkpoint.json', ''))).rejects.toThrow('cannot be the name')
  await expect(write((f) => f.file('a', '').then(() => f.file('a', '')))).rejects.toThrow('stands twice')
  await expect(write(() => Promise.reject(new TypeError('mine')))).rejects.toThrow(TypeError)
  expect(names()).toEqual([])
})

/** How many calls of the disk a save of step 2 over a good step 1 takes. */
async function countCalls(keep: number | undefined, again: boolean): Promise<number> {
  let calls = 0
  const disk = new MemoryDisk()
  await writeCheckpoint('/c', 1, body(1), { disk })
  if (again) await writeCheckpoint('/c', 2, body(2), { disk })
  await writeCheckpoint('/c', 2, body(2), { keep, disk: watched(disk, () => calls++) })
  return calls
}

describe.each([
  ['a new step', undefined, false],
  ['with retention', 1, false],
  ['over the same step', undefined, true],
] as const)('a fault at every call: %s', (_, keep, again) => {
  test.each(['ENOSPC', 'EIO'])('%s: one clear line, and nothing good is lost', async (code) => {
    const calls = await countCalls(keep, again)
    expect(calls).toBeGreaterThan(30)
    let failed = 0
    for (let n = 0; n < calls; n++) {
      const disk = new MemoryDisk()
      await writeCheckpoint('/c', 1, body(1), { disk })
      if (again) await writeCheckpoint('/c', 2, body(2), { disk })
      let call = 0
      const failing = watched(disk, () => {
        if (call++ === n) throw systemError(code)
      })
      try {
        await writeCheckpoint('/c', 2, body(2), { disk: failing, keep })
        expect(await latestCheckpoint('/c', disk)).toMatchObject({ step: 2, skipped: [] })
      } catch (e) {
        failed++
        expect((e as Error).message, `call ${n}`).toMatch(
          /(cannot|does not).* \/.*(no space left|input\/output).*\((ENOSPC|EIO)\)$/,
        )
        expect((e as Error).message).not.toContain('\n')
      }
      const found = await latestCheckpoint('/c', disk)
      expect(found.skipped, `call ${n}`).toEqual([])
      expect(found.step, `call ${n}`).toBeGreaterThanOrEqual(again ? 2 : 1)
      expect(
        (await disk.readdir('/c')).filter((name) => name.includes('.')),
        `call ${n}`,
      ).toEqual([])
      // And the next one, on a disk that works again, goes well.
      await writeCheckpoint('/c', 3, body(3), { disk })
      expect(await latestCheckpoint('/c', disk)).toMatchObject({ step: 3, skipped: [] })
    }
    expect(failed).toBeGreaterThan(calls / 2)
  })

  test.each([true, false])('the power fails before every call (unsynced names stay: %s)', async (namesStay) => {
    const calls = await countCalls(keep, again)
    const stop = new Error('power')
    for (let n = 0; n <= calls; n++) {
      const disk = new MemoryDisk()
      await writeCheckpoint('/c', 1, body(1), { disk })
      if (again) await writeCheckpoint('/c', 2, body(2), { disk })
      let call = 0
      // Once the power is off every call fails, also those that clean up.
      const failing = watched(disk, () => {
        if (call++ >= n) throw stop
      })
      const done = await writeCheckpoint('/c', 2, body(2), { disk: failing, keep }).then(
        () => true,
        () => false,
      )
      const after = disk.afterCrash(namesStay)
      const found = await latestCheckpoint('/c', after)
      expect(found.path, `call ${n}`).toBeDefined()
      expect(found.step, `call ${n}`).toBeGreaterThanOrEqual(done || again ? 2 : 1)
      const path = join(found.path!, 'trainer.json')
      const bytes = new Uint8Array(99)
      const { bytesRead } = await (await after.open(path, 'r')).read(bytes, 0, 99, 0)
      expect(JSON.parse(Buffer.from(bytes.subarray(0, bytesRead)).toString()).step).toBe(found.step)
    }
  })
})

test('the crash model is not blind: without the syncs it loses a checkpoint', async () => {
  const disk = new MemoryDisk()
  await writeCheckpoint('/c', 1, body(1), { disk })
  const forgetful: Disk = {
    ...watched(disk, () => {}),
    open: async (path, flags) => ({ ...(await disk.open(path, flags)), sync: async () => {} }),
  }
  await writeCheckpoint('/c', 2, body(2), { disk: forgetful, keep: 1 })
  expect((await latestCheckpoint('/c', disk)).step).toBe(2)
  expect((await latestCheckpoint('/c', disk.afterCrash(true))).path).toBeUndefined()
})

describe('SIGKILL', () => {
  function program(): string {
    const path = join(root, 'save.mjs')
    const checkpoint = new URL('../../dist/io/checkpoint.js', import.meta.url).href
    writeFileSync(
      path,
      `import { writeSync } from 'node:fs'
      import { writeCheckpoint } from '${checkpoint}'
      const [folder, first] = process.argv.slice(2)
      for (let step = Number(first); ; step++) {
        const data = new Float32Array(200_000).fill(step)
        const entry = (name) => [{ name, dtype: 'float32', shape: [data.length], data }]
        await writeCheckpoint(folder, step, async (files) => {
          await files.model(entry('w'))
          await files.file('config.json', '{}')
          await files.tensors('optimizer.safetensors', entry('w.exp_avg'))
          await files.file('trainer.json', JSON.stringify({ step }))
        }, { keep: 2 })
        writeSync(1, step + '\\n')
      }`,
    )
    return path
  }
  /** Lets a child save checkpoints and kills it some time after its first; returns the last step that it said it had saved. */
  async function killAfter(main: string, first: number, wait: number): Promise<number> {
    const child: ChildProcess = spawn(process.execPath, [main, folder, String(first)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let said = ''
    let timer: NodeJS.Timeout | undefined
    child.stdout!.on('data', (chunk) => {
      said += chunk
      timer ??= setTimeout(() => child.kill('SIGKILL'), wait)
    })
    const [code, signal] = await new Promise<[number | null, string | null]>((done) =>
      child.on('close', (...a) => done(a)),
    )
    clearTimeout(timer)
    expect([code, signal]).toEqual([null, 'SIGKILL'])
    return Number(said.trim().split('\n').at(-1))
  }
  test('at random moments: the last checkpoint that was announced, or a newer, is found whole', async () => {
    const main = program()
    let step = 0
    let unfinished = 0
    for (let round = 0; round < 12; round++) {
      const said = await killAfter(main, step + 1, Math.random() * 60)
      unfinished += names().filter((name) => name.includes('.')).length > 0 ? 1 : 0
      const found = await latestCheckpoint(folder)
      expect(found.skipped).toEqual([])
      expect(found.step).toBeGreaterThanOrEqual(said)
      expect(JSON.parse(readFileSync(join(found.path!, 'trainer.json'), 'utf8'))).toEqual({ step: found.step })
      const reader = await SafetensorsReader.open(found.path!)
      const w = new Float32Array((await reader.read('w')).data.buffer)
      expect(w.every((x) => x === found.step)).toBe(true)
      await reader.close()
      expect(names().filter((name) => name.includes('.'))).toEqual([])
      step = found.step
    }
    // It is only a test when the kills hit the middle of a save.
    expect(unfinished).toBeGreaterThan(0)
  })
})
