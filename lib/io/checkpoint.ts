// Checkpoint folders that are whole or not there, whatever moment the process or the disk stops at.
import { basename, dirname, join, resolve } from 'node:path'
import { diskError } from '../errors.ts'
import {
  checksum,
  type Disk,
  type DiskWriter,
  readText,
  realDisk,
  rename,
  syncFolder,
  type Written,
  writeFile,
} from './disk.ts'
import { type TensorEntry, writeModel, writeSafetensorsTo } from './safetensors.ts'

/** Written last: a checkpoint without it was never finished. */
const manifestName = 'checkpoint.json'
/** What every checkpoint holds, besides the weights (one file or shards) and the tokenizer's file, if there is one. */
const requiredFiles = ['config.json', 'optimizer.safetensors', 'trainer.json']
const weightFiles = ['model.safetensors', 'model.safetensors.index.json']
const finished = /^step-(\d{8,})$/
const leftover = /^(step-\d{8,})\.(tmp|old)-(\d+)$/

/** The name of a step's folder: `step-00000100`. */
export const checkpointName = (step: number): string => `step-${String(step).padStart(8, '0')}`

/** Takes the files of one checkpoint. */
export interface CheckpointFiles {
  /** The checkpoint's folder while it is written; it gets its name when it is whole. */
  readonly folder: string
  /** Writes a file such as `trainer.json`. */
  file(name: string, data: string | Uint8Array): Promise<void>
  /** Writes a safetensors file such as `optimizer.safetensors`. */
  tensors(name: string, entries: readonly TensorEntry[], metadata?: Record<string, string>): Promise<void>
  /** Writes the weights: `model.safetensors`, or shards with an index above 5 GB. */
  model(entries: readonly TensorEntry[]): Promise<void>
}

// What this process is writing: anything else with its number is a dead process's whose number came round again.
const ongoing = new Set<string>()

/**
 * Writes a checkpoint folder `folder/step-00000100`. Every file goes to the disk under a temporary folder name, then a list of
 * their sizes and checksums, then the folder gets its name; a process killed at any moment leaves the older ones as they were.
 * @param body writes the files
 * @param options.keep how many checkpoints to keep, the new one included; older ones go only after the new one was read
 * back and found whole. Default: all.
 * @returns the folder's path, and the paths of older checkpoints that were removed
 * @throws DiskError in one line for a full or failing disk; nothing that was good is lost
 */
export async function writeCheckpoint(
  folder: string,
  step: number,
  body: (files: CheckpointFiles) => Promise<void>,
  options: { keep?: number; disk?: Disk } = {},
): Promise<{ path: string; removed: string[] }> {
  const disk = options.disk ?? realDisk
  const path = join(folder, checkpointName(step))
  const temporary = `${path}.tmp-${process.pid}`
  if (ongoing.has(resolve(path))) throw new Error(`checkpoint: ${path} is being written already`)
  ongoing.add(resolve(path))
  try {
    await makeFolder(disk, folder)
    await clearLeftovers(disk, folder)
    await remove(disk, temporary)
    await makeFolder(disk, temporary)
    await writeFiles(disk, temporary, step, body)
    await install(disk, temporary, path)
  } catch (e) {
    await remove(disk, temporary).catch(() => {})
    throw e
  } finally {
    ongoing.delete(resolve(path))
  }
  return { path, removed: options.keep === undefined ? [] : await retain(disk, folder, step, options.keep) }
}

async function writeFiles(
  disk: Disk,
  temporary: string,
  step: number,
  body: (files: CheckpointFiles) => Promise<void>,
): Promise<void> {
  const list: Record<string, { bytes: number; crc32: string }> = {}
  const put = async (name: string, write: (writer: DiskWriter) => Promise<void>) => {
    if (basename(name) !== name || name === manifestName || Object.hasOwn(list, name))
      throw new Error(`checkpoint: ${JSON.stringify(name)} cannot be the name of a file in it, or stands twice`)
    list[name] = describe(await writeFile(disk, join(temporary, name), write))
  }
  await body({
    folder: temporary,
    file: (name, data) => put(name, (writer) => writer.write(data)),
    tensors: (name, entries, metadata) => put(name, (writer) => writeSafetensorsTo(writer, entries, metadata)),
    model: (entries) => writeModel(put, entries),
  })
  const missing = firstMissing(Object.keys(list))
  if (missing) throw new Error(`checkpoint: ${missing} was not written`)
  const manifest = { version: 1, step, files: list }
  await writeFile(disk, join(temporary, manifestName), (w) => w.write(`${JSON.stringify(manifest, null, 1)}\n`))
  await syncFolder(disk, temporary)
}

const describe = ({ bytes, crc32 }: Written) => ({ bytes, crc32: crc32.toString(16).padStart(8, '0') })

function firstMissing(names: readonly string[]): string | undefined {
  if (!weightFiles.some((name) => names.includes(name))) return weightFiles[0]
  return requiredFiles.find((name) => !names.includes(name))
}

/** Gives the finished folder its name. One of the same step, if there is, goes when the new one was read back whole. */
async function install(disk: Disk, temporary: string, path: string): Promise<void> {
  const folder = dirname(path)
  if (!(await list(disk, folder)).includes(basename(path))) return rename(disk, temporary, path)
  const problem = await findProblem(disk, temporary)
  if (problem) throw new Error(`checkpoint: ${temporary} does not read back: ${problem}`)
  const old = `${path}.old-${process.pid}`
  await remove(disk, old)
  try {
    await rename(disk, path, old)
    await rename(disk, temporary, path)
  } catch (e) {
    await disk.rename(old, path).catch(() => {})
    throw e
  }
  await remove(disk, old).catch(() => {})
}

/** Removes all but the newest `keep` of the checkpoints up to `step`, if the one of `step` is whole. */
async function retain(disk: Disk, folder: string, step: number, keep: number): Promise<string[]> {
  const older = (await steps(disk, folder)).filter((s) => s < step).slice(Math.max(keep, 1) - 1)
  const problem = older.length > 0 && (await findProblem(disk, join(folder, checkpointName(step))))
  if (problem) throw new Error(`checkpoint: ${join(folder, checkpointName(step))} does not read back: ${problem}`)
  const removed: string[] = []
  for (const s of older) {
    const path = join(folder, checkpointName(s))
    // Under a temporary name first: a folder half removed is then not taken for a broken checkpoint.
    const going = `${path}.tmp-${process.pid}`
    try {
      await disk.rename(path, going)
      removed.push(path)
      await remove(disk, going)
    } catch {
      // An old checkpoint that stays does no harm; the new one is safe.
    }
  }
  return removed
}

/** The newest whole checkpoint, and what was passed over. */
export interface LatestCheckpoint {
  /** undefined: there is none. */
  path: string | undefined
  step: number
  /** Newer ones that are not whole, newest first, and why. */
  skipped: { path: string; reason: string }[]
}

/**
 * Finds the newest checkpoint that is whole: every file of its list is there with its size and checksum. Removes what dead
 * processes left unfinished.
 * @param folder the run's `checkpoints` folder; it need not exist
 * @throws DiskError when the folder cannot be read
 */
export async function latestCheckpoint(folder: string, disk: Disk = realDisk): Promise<LatestCheckpoint> {
  const found: LatestCheckpoint = { path: undefined, step: 0, skipped: [] }
  await clearLeftovers(disk, folder)
  for (const step of await steps(disk, folder)) {
    const path = join(folder, checkpointName(step))
    const reason = await findProblem(disk, path)
    if (reason === undefined) return { ...found, path, step }
    found.skipped.push({ path, reason })
  }
  return found
}

/**
 * Checks a checkpoint folder against its list of sizes and checksums.
 * @returns what is wrong with it, or undefined when it is whole
 */
export const checkpointProblem = (path: string, disk: Disk = realDisk): Promise<string | undefined> =>
  findProblem(disk, path)

async function findProblem(disk: Disk, path: string): Promise<string | undefined> {
  try {
    if (!(await list(disk, path)).includes(manifestName)) return `it has no ${manifestName}: it was not finished`
    const files = await readManifest(disk, join(path, manifestName))
    if (typeof files === 'string') return files
    const missing = firstMissing([...files.keys()])
    if (missing) return `${missing} is missing in ${manifestName}`
    for (const [name, want] of files) {
      const is = describe(await checksum(disk, join(path, name)))
      if (is.bytes !== want.bytes) return `${name} has ${is.bytes} bytes but should have ${want.bytes}`
      if (is.crc32 !== want.crc32) return `${name} has the checksum ${is.crc32} but should have ${want.crc32}`
    }
    return undefined
  } catch (e) {
    return (e as Error).message
  }
}

async function readManifest(disk: Disk, path: string): Promise<Map<string, { bytes: number; crc32: string }> | string> {
  const bad = `${manifestName} is not a list of files`
  try {
    const { files } = JSON.parse(await readText(disk, path)) as { files?: unknown }
    if (typeof files !== 'object' || files === null) return bad
    for (const [name, value] of Object.entries(files))
      if (basename(name) !== name || typeof value?.bytes !== 'number' || typeof value?.crc32 !== 'string') return bad
    return new Map(Object.entries(files))
  } catch (e) {
    if (e instanceof SyntaxError || e instanceof TypeError) return bad
    throw e
  }
}

/** The steps of a folder's finished checkpoints, newest first. */
async function steps(disk: Disk, folder: string): Promise<number[]> {
  const found = (await list(disk, folder)).map((name) => finished.exec(name)?.[1])
  return found
    .filter((digits) => digits !== undefined)
    .map(Number)
    .sort((a, b) => b - a)
}

/** Removes unfinished folders of dead processes; puts back an old one whose successor never got its name. */
async function clearLeftovers(disk: Disk, folder: string): Promise<void> {
  const names = await list(disk, folder)
  for (const name of names) {
    const [, step, kind, pid] = leftover.exec(name) ?? []
    const path = join(folder, name)
    if (!step || isBusy(resolve(folder, step), Number(pid))) continue
    try {
      if (kind === 'old' && !names.includes(step)) await rename(disk, path, join(folder, step))
      else await remove(disk, path)
    } catch {
      // It is only passed over then.
    }
  }
}

/** Whether the process that left this is still at work on it. */
function isBusy(path: string, pid: number): boolean {
  if (pid === process.pid) return ongoing.has(path)
  try {
    process.kill(pid, 0)
    return true
  } catch (e) {
    return (e as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function list(disk: Disk, folder: string): Promise<string[]> {
  try {
    return await disk.readdir(folder)
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw diskError('read', folder, e)
  }
}

async function makeFolder(disk: Disk, path: string): Promise<void> {
  let created: string | undefined
  try {
    created = await disk.mkdir(path, { recursive: true })
  } catch (e) {
    throw diskError('create', path, e)
  }
  if (created === undefined) return
  for (let at = resolve(path); at.length >= created.length; at = dirname(at)) await syncFolder(disk, dirname(at))
}

async function remove(disk: Disk, path: string): Promise<void> {
  try {
    await disk.rm(path, { recursive: true, force: true })
  } catch (e) {
    throw diskError('remove', path, e)
  }
}
