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
