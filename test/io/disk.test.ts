import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { afterAll, describe, expect, test } from 'vitest'
import { DiskError } from '../../lib/errors.ts'
import { checksum, type Disk, readAt, realDisk, replaceFile, writeFile } from '../../lib/io/disk.ts'

const folder = mkdtempSync(join(tmpdir(), 'polygrad-disk-'))
afterAll(() => rmSync(folder, { recursive: true }))
const path = join(folder, 'file')
const system = (code: string) => Object.assign(new Error(`${code}: said the system`), { code })

/** The real disk, whose files' writes go through `write`. */
function diskWith(
  write: (real: (n: number) => Promise<{ bytesWritten: number }>, length: number) => Promise<{ bytesWritten: number }>,
): Disk {
  return {
    ...realDisk,
    open: async (at, flags) => {
      const file = await realDisk.open(at, flags)
      return {
        write: (bytes, offset, length) => write((n) => file.write(bytes, offset, n), length),
        read: (...a) => file.read(...a),
        stat: () => file.stat(),
        sync: () => file.sync(),
        close: () => file.close(),
      }
    },
  }
}

test('counts and checksums what it writes', async () => {
  const bytes = new Uint8Array(9_000_001).map((_, i) => i * 7)
  const written = await writeFile(realDisk, path, async (w) => {
    await w.write('début\n')
    await w.write(bytes)
    await w.write(new Uint8Array(0))
  })
  const all = readFileSync(path)
  expect(all.equals(Buffer.concat([Buffer.from('début\n'), bytes]))).toBe(true)
  expect(written).toEqual({ bytes: all.length, crc32: crc32(all) })
  expect(await checksum(realDisk, path)).toEqual(written)
})

test('a write that the system cuts short is carried on', async () => {
  const disk = diskWith((real, length) => real(Math.ceil(length / 3)))
  await writeFile(disk, path, (w) => w.write('abcdefghijklmnopqrstuvwxyz'))
  expect(readFileSync(path, 'utf8')).toBe('abcdefghijklmnopqrstuvwxyz')
})

describe('replaceFile', () => {
  test.each([
    ['ENOSPC', 'no space left on the disk (ENOSPC)'],
    ['EIO', 'the disk reports an input/output error (EIO)'],
    ['EXYZ', 'EXYZ: said the system (EXYZ)'],
  ])('%s: one line, and the old file stays', async (code, words) => {
    writeFileSync(path, 'old')
    const disk = diskWith(() => Promise.reject(system(code)))
    const failure = replaceFile(disk, path, (w) => w.write('new'))
    await expect(failure).rejects.toThrow(DiskError)
    await expect(failure).rejects.toThrow(words)
    await expect(failure).rejects.toMatchObject({ code, message: expect.not.stringContaining('\n') })
    expect(readFileSync(path, 'utf8')).toBe('old')
    expect(readdirSync(folder)).toEqual(['file'])
  })
  test('a disk that takes nothing is an error, not an endless loop', async () => {
    const disk = diskWith(async () => ({ bytesWritten: 0 }))
    await expect(replaceFile(disk, path, (w) => w.write('new'))).rejects.toThrow('the disk took 0 of 3 bytes')
  })
  test('an error of the body passes unchanged', async () => {
    const own = new TypeError('mine')
    await expect(replaceFile(realDisk, path, () => Promise.reject(own))).rejects.toBe(own)
    expect(readdirSync(folder)).toEqual(['file'])
  })
  test('no such folder', async () => {
    const at = join(folder, 'none', 'file')
    await expect(replaceFile(realDisk, at, async () => {})).rejects.toThrow('no such file or folder (ENOENT)')
  })
})

test('readAt gives less only at the end', async () => {
  writeFileSync(path, '0123456789')
  const file = await realDisk.open(path, 'r')
  expect(Buffer.from(await readAt(file, path, 2, 3)).toString()).toBe('234')
  expect(Buffer.from(await readAt(file, path, 8, 5)).toString()).toBe('89')
  expect((await readAt(file, path, 99, 5)).length).toBe(0)
  await file.close()
})

test('checksum of a missing file names it', async () => {
  await expect(checksum(realDisk, join(folder, 'none'))).rejects.toThrow(
    `cannot read ${join(folder, 'none')}: no such file`,
  )
})
