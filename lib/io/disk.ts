// Files that are either whole or not there: every write goes through here, and tests put a failing disk in its place.
import { mkdirSync, promises } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { DiskError, diskError } from '../errors.ts'
import { ConfigError } from '../nn/fields.ts'

/** An open file, as far as this library uses it. */
export interface DiskFile {
  write(bytes: Uint8Array, offset: number, length: number): Promise<{ bytesWritten: number }>
  read(bytes: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>
  stat(): Promise<{ size: number }>
  sync(): Promise<void>
  close(): Promise<void>
}

/** The file system's calls that this library uses; Node's `fs.promises` is one. */
export interface Disk {
  open(path: string, flags: 'r' | 'w'): Promise<DiskFile>
  /** Gives the first folder that it had to make, if any. */
  mkdir(path: string, options: { recursive: true }): Promise<string | undefined>
  readdir(path: string): Promise<string[]>
  rename(from: string, to: string): Promise<void>
  rm(path: string, options: { recursive: true; force: true }): Promise<void>
}

export const realDisk: Disk = promises

/** What was written: for a manifest. */
export interface Written {
  bytes: number
  crc32: number
}

/** Writes a file in order, counting and checksumming; `finish` returns only when the disk has it. */
export class DiskWriter {
  #bytes = 0
  #crc = 0
  private constructor(
    readonly path: string,
    private readonly file: DiskFile,
  ) {}

  static async create(disk: Disk, path: string): Promise<DiskWriter> {
    try {
      return new DiskWriter(path, await disk.open(path, 'w'))
    } catch (e) {
      throw diskError('create', path, e)
    }
  }

  /** Appends all of `data`. A write that the system cuts short is carried on; one that makes no progress is an error. */
  async write(data: Uint8Array | string): Promise<void> {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data
    // In pieces, so that the event loop is never held for long by the checksum.
    for (let at = 0; at < bytes.length; at += piece) {
      const end = Math.min(at + piece, bytes.length)
      this.#crc = crc32(bytes.subarray(at, end), this.#crc)
      for (let from = at; from < end; ) from += await this.#writeSome(bytes, from, end - from)
    }
    this.#bytes += bytes.length
  }

  async #writeSome(bytes: Uint8Array, offset: number, length: number): Promise<number> {
    try {
      const { bytesWritten } = await this.file.write(bytes, offset, length)
      if (bytesWritten > 0) return bytesWritten
    } catch (e) {
      throw diskError('write', this.path, e)
    }
    throw new DiskError('write', this.path, 'ESHORT', `the disk took 0 of ${length} bytes`)
  }

  /** Waits until the disk has everything, and closes. */
  async finish(): Promise<Written> {
    try {
      await this.file.sync()
    } catch (e) {
      await this.abort()
      throw diskError('write', this.path, e)
    }
    try {
      await this.file.close()
    } catch (e) {
      throw diskError('write', this.path, e)
    }
    return { bytes: this.#bytes, crc32: this.#crc }
  }

  /** Closes after a failure; the file's contents do not matter any more. */
  async abort(): Promise<void> {
    await this.file.close().catch(() => {})
  }
}
const piece = 1 << 20

/** Writes a file by `body`, to the disk. */
export async function writeFile(
  disk: Disk,
  path: string,
  body: (writer: DiskWriter) => Promise<void>,
): Promise<Written> {
  const writer = await DiskWriter.create(disk, path)
  try {
    await body(writer)
  } catch (e) {
    await writer.abort()
    throw e
  }
  return writer.finish()
}

/** Writes a file under a temporary name and renames it: at every moment `path` is the old file or the whole new one. */
export async function replaceFile(
  disk: Disk,
  path: string,
  body: (writer: DiskWriter) => Promise<void>,
): Promise<Written> {
  const temporary = join(dirname(path), `.${basename(path)}.tmp-${process.pid}`)
  try {
    const written = await writeFile(disk, temporary, body)
    await rename(disk, temporary, path)
    return written
  } catch (e) {
    await disk.rm(temporary, { recursive: true, force: true }).catch(() => {})
    throw e
  }
}

/** Renames, and waits until the disk knows. */
export async function rename(disk: Disk, from: string, to: string): Promise<void> {
  try {
    await disk.rename(from, to)
  } catch (e) {
    throw diskError('rename to', to, e)
  }
  await syncFolder(disk, dirname(to))
}

/** Waits until the disk has a folder's names. */
export async function syncFolder(disk: Disk, path: string): Promise<void> {
  try {
    const folder = await disk.open(path, 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  } catch (e) {
    throw diskError('write', path, e)
  }
}

/**
 * Makes a folder that the user named, where there is none.
 * @param field what the user named it by, such as `--out`
 * @throws ConfigError when the path cannot be a folder; DiskError when the disk is full or fails
 */
export function makeFolderOf(field: string, path: string): void {
  try {
    mkdirSync(path, { recursive: true })
  } catch (e) {
    const error = diskError('create', path, e)
    if (error instanceof DiskError && ['EEXIST', 'ENOTDIR', 'EACCES', 'EROFS'].includes(error.code))
      throw new ConfigError(field, `: ${error.message}`)
    throw error
  }
}

/** Reads `length` bytes at `position`, into `bytes` if given; fewer only at the end of the file. */
export async function readAt(
  file: DiskFile,
  path: string,
  position: number,
  length: number,
  bytes: Uint8Array = new Uint8Array(length),
): Promise<Uint8Array> {
  let got = 0
  try {
    while (got < length) {
      const { bytesRead } = await file.read(bytes, got, Math.min(length - got, 1 << 30), position + got)
      if (bytesRead === 0) break
      got += bytesRead
    }
  } catch (e) {
    throw diskError('read', path, e)
  }
  return got === length ? bytes : bytes.subarray(0, got)
}

/** Reads a whole small file as text. */
export async function readText(disk: Disk, path: string): Promise<string> {
  try {
    const file = await disk.open(path, 'r')
    try {
      return new TextDecoder().decode(await readAt(file, path, 0, (await file.stat()).size))
    } finally {
      await file.close()
    }
  } catch (e) {
    throw diskError('read', path, e)
  }
}

/** Size and checksum of a file as the disk has it now. */
export async function checksum(disk: Disk, path: string): Promise<Written> {
  let file: DiskFile
  try {
    file = await disk.open(path, 'r')
  } catch (e) {
    throw diskError('read', path, e)
  }
  try {
    const buffer = new Uint8Array(piece)
    let crc = 0
    let at = 0
    for (;;) {
      const bytes = await readAt(file, path, at, piece, buffer)
      crc = crc32(bytes, crc)
      at += bytes.length
      if (bytes.length < piece) return { bytes: at, crc32: crc }
    }
  } finally {
    await file.close().catch(() => {})
  }
}
