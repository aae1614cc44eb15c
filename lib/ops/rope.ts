// Rotary position embedding.
import { native } from '../native.ts'
import { deviceCode, dtypeCode, keep, record, Tensor } from '../tensor.ts'

export interface RopeOptions {
  /** The base of the wavelengths. Default 10000. */
  theta?: number
  /** The position of row 0. Default 0. */
  offset?: number
}

// Cosines and sines of all positions so far, for each base, size, type and device.
const tables = new Map<string, Tensor>()

function tableFor(x: Tensor, theta: number, positions: number): Tensor {
  const size = x.shape[x.rank - 1]!
  const dtype = x.dtype === 'float64' ? 'float64' : 'float32'
  const key = `${theta} ${size} ${dtype} ${x.device}`
  let table = tables.get(key)
  if (!table || table.disposed || table.shape[0]! < positions) {
    const rows = 2 ** Math.ceil(Math.log2(Math.max(positions, 256)))
    table = keep(new Tensor(native.ropeTable(theta, rows, size, dtypeCode(dtype), deviceCode(x.device))))
    tables.set(key, table)
  }
  return table
}

/**
 * Turns each pair (element i, element i + D/2) of a row by the angle `position * theta^(-2i/D)` (Su et al., arXiv
 * 2104.09864, in the order of Hugging Face's Llama). Rows may lie anywhere in memory; no copy is made of a transposed view.
 * @param x (.., T, D); row t stands at position `offset + t`
 * @throws Error if D is odd, or `offset` negative
 */
export function rope(x: Tensor, options: RopeOptions = {}): Tensor {
  const { theta = 10000, offset = 0 } = options
  if (x.rank < 2) throw new RangeError(`rope: x is [${x.shape.join(', ')}], but should be [.., T, D]`)
  if (!Number.isInteger(offset) || offset < 0)
    throw new RangeError(`rope: offset is ${offset}, but should be a position, 0 or above`)
  const table = tableFor(x, theta, offset + x.shape[x.rank - 2]!)
  return record('rope', native.rope(x.handle, table.handle, offset), [x], (dy) => [
    new Tensor(native.ropeGrad(dy.handle, table.handle, offset, x.handle)),
  ])
}
