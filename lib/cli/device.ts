// --device and --threads, the same in every command.

import { ConfigError } from '../nn/fields.ts'
import type { Device } from '../tensor.ts'

/**
 * The device that --device asks for; `auto` when it is left out.
 * @throws ConfigError with the reason when it is not there
 */
export async function requireDevice(wanted: 'cpu' | 'cuda' | 'auto' = 'auto', threads?: number): Promise<Device> {
  if (threads !== undefined) {
    const { native } = await import('../native.ts')
    native.setThreads(threads)
  }
  const { chooseDevice } = await import('../devices.ts')
  try {
    return chooseDevice(wanted)
  } catch (e) {
    throw new ConfigError(`--device ${wanted}`, ` cannot be used: ${(e as Error).message}`)
  }
}
