// What the program says and returns when something goes wrong: one clear line, and 1 for a failed run, 2 for bad input.

// Errors about what the user gave (arguments, files), by name: importing their classes would load everything for --help.
const badInput = new Set(['ConfigError', 'SafetensorsError', 'DataError', 'TokenizerError', 'CheckpointError'])
// A file that cannot be read is bad input; a disk that cannot be written is a failed run.
const notThere = new Set(['ENOENT', 'EISDIR', 'ENOTDIR', 'EACCES'])

/** The exit status for an error: 2 for bad arguments or a bad file, else 1. */
export function statusOf(error: unknown): 1 | 2 {
  if (!(error instanceof Error)) return 1
  if (badInput.has(error.name)) return 2
  const { code, doing = 'read' } = error as NodeJS.ErrnoException & { doing?: string }
  if (doing !== 'read') return 1
  return code !== undefined && notThere.has(code) ? 2 : 1
}

/** An error as one line. */
export function oneLine(error: unknown): string {
  const message = error instanceof Error ? error.message || error.name : String(error)
  return message.replaceAll(/\s*\n\s*/g, ' ').trim()
}
