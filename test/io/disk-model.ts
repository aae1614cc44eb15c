// Disks for tests: one that fails at its n-th call, and one in memory that forgets at a crash what was not synced.
import { basename, dirname, resolve } from 'node:path'
import type { Disk, DiskFile } from '../../lib/io/disk.ts'

export const systemError = (code: string): Error => Object.assign(new Error(`${code}: said the system`), { code })

/** Calls `before` ahead of every call of a disk and its files, with the call's name and path. */
export function watched(disk: Disk, before: (call: string, path: string) => void): Disk {
  const ahead = async <T>(call: string, path: string, go: () => Promise<T>): Promise<T> => {
    before(call, path)
    return go()
  }
  const file = (f: DiskFile, path: string): DiskFile => ({
    write: (...a) => ahead('write', path, () => f.write(...a)),
    read: (...a) => ahead('read', path, () => f.read(...a)),
    stat: () => ahead('stat', path, () => f.stat()),
    sync: () => ahead('sync', path, () => f.sync()),
    // A close that fails has closed all the same, as on Linux.
    close: async () => {
      await f.close()
      before('close', path)
    },
  })
  return {
    open: (path, flags) => ahead('open', path, async () => file(await disk.open(path, flags), path)),
    mkdir: (path, o) => ahead('mkdir', path, () => disk.mkdir(path, o)),
    readdir: (path) => ahead('readdir', path, () => disk.readdir(path)),
    rename: (from, to) => ahead('rename', to, () => disk.rename(from, to)),
    rm: (path, o) => ahead('rm', path, () => disk.rm(path, o)),
  }
}

interface Node {
  /** A folder's names. */
  names?: Map<string, Node>
  syncedNames?: Map<string, Node>
  bytes: Uint8Array
  /** undefined: never synced, so that a crash leaves an empty file. */
  synced?: Uint8Array
}
const newFolder = (): Node => ({ names: new Map(), syncedNames: new Map(), bytes: new Uint8Array(0) })

/** A file system in memory that keeps apart what is written and what a power failure would leave. */
export class MemoryDisk implements Disk {
  root = newFolder()

  #find(path: string): Node | undefined {
    let node: Node | undefined = this.root
    for (const part of resolve(path).split('/').filter(Boolean)) node = node?.names?.get(part)
    return node
  }
  #folder(path: string): Map<string, Node> {
    const names = this.#find(path)?.names
    if (!names) throw systemError('ENOENT')
    return names
  }

  async open(path: string, flags: 'r' | 'w'): Promise<DiskFile> {
    if (flags === 'w') this.#folder(dirname(path)).set(basename(path), { bytes: new Uint8Array(0) })
    const node = this.#find(path)
    if (!node) throw systemError('ENOENT')
    return {
      write: async (bytes, offset, length) => {
        node.bytes = Buffer.concat([node.bytes, bytes.subarray(offset, offset + length)])
        return { bytesWritten: length }
      },
      read: async (into, offset, length, position) => {
        const part = node.bytes.subarray(position, position + length)
        into.set(part, offset)
        return { bytesRead: part.length }
      },
      stat: async () => ({ size: node.bytes.length }),
      sync: async () => {
        if (node.names) node.syncedNames = new Map(node.names)
        else node.synced = node.bytes
      },
      close: async () => {},
    }
  }
  async mkdir(path: string): Promise<string | undefined> {
    let node = this.root
    let at = ''
    let created: string | undefined
    for (const part of resolve(path).split('/').filter(Boolean)) {
      at += `/${part}`
      if (!node.names!.has(part)) {
        node.names!.set(part, newFolder())
        created ??= at
      }
      node = node.names!.get(part)!
    }
    return created
  }
  async readdir(path: string): Promise<string[]> {
    return [...this.#folder(path).keys()]
  }
  async rename(from: string, to: string): Promise<void> {
    const node = this.#find(from)
    if (!node) throw systemError('ENOENT')
    if (this.#find(to)?.names?.size) throw systemError('ENOTEMPTY')
    this.#folder(dirname(from)).delete(basename(from))
    this.#folder(dirname(to)).set(basename(to), node)
  }
  async rm(path: string): Promise<void> {
    this.#find(dirname(path))?.names?.delete(basename(path))
  }

  /**
   * The disk after a power failure. Names that were not synced are lost or, with `namesStay`, all there (a real disk may do
   * either); bytes that were not synced are lost.
   */
  afterCrash(namesStay: boolean): MemoryDisk {
    const copy = (node: Node): Node => {
      if (!node.names) return { bytes: node.synced ?? new Uint8Array(0), synced: node.synced }
      const kept = namesStay ? node.names : node.syncedNames!
      const names = new Map([...kept].map(([name, child]) => [name, copy(child)]))
      return { names, syncedNames: new Map(names), bytes: node.bytes }
    }
    const disk = new MemoryDisk()
    disk.root = copy(this.root)
    return disk
  }
}
