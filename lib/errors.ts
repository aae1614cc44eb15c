// The errors that callers may want to tell apart. Each has a stable `code`.

/** A tensor was used after `dispose()` or after the scope that made it ended. */
export class DisposedError extends Error {
  override readonly name = 'DisposedError'
  readonly code = 'ERR_DISPOSED'
}

/** No memory was left, after everything that was dead had been freed. Sizes in bytes. The process can go on. */
export class OutOfMemoryError extends Error {
  override readonly name = 'OutOfMemoryError'
  readonly code = 'ERR_OUT_OF_MEMORY'
  constructor(
    message: string,
    readonly requested: number,
    readonly free: number,
    readonly peak: number,
  ) {
    super(message)
  }
}

/** A kernel met a value that only the device can see, such as a token id out of range. Thrown at the next wait. */
export class DeviceDataError extends Error {
  override readonly name = 'DeviceDataError'
  readonly code = 'ERR_DEVICE_DATA'
}

/** A disk that refused: full, broken, or not allowed. `code` is the system's, such as `ENOSPC`. */
export class DiskError extends Error {
  override readonly name = 'DiskError'
  constructor(
    /** What could not be done: `read`, `write`, `create` .. */
    readonly doing: string,
    readonly path: string,
    readonly code: string,
    why: string,
    cause?: unknown,
  ) {
    super(`cannot ${doing} ${path}: ${why} (${code})`, { cause })
  }
}

const plainWords: Record<string, string> = {
  ENOSPC: 'no space left on the disk',
  EDQUOT: 'the disk quota is used up',
  EIO: 'the disk reports an input/output error',
  EROFS: 'the disk is read-only',
  EACCES: 'permission denied',
  EPERM: 'not permitted',
  EEXIST: 'there is a file of that name',
  ENOENT: 'no such file or folder',
  ENOTDIR: 'a part of the path is not a folder',
  EISDIR: 'it is a folder',
  EFBIG: 'the file would be larger than the system allows',
  EMFILE: 'too many open files',
}

/** One clear line from a system error: what could not be done, to which path, why. Errors of other kinds pass unchanged. */
export function diskError(doing: string, path: string, e: unknown): unknown {
  const code = (e as NodeJS.ErrnoException | undefined)?.code
  if (e instanceof DiskError || typeof code !== 'string' || !/^E[A-Z0-9]+$/.test(code)) return e
  return new DiskError(doing, path, code, plainWords[code] ?? (e as Error).message, e)
}
