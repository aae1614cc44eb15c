// The cases of `polygrad bench`, with the shapes that each is measured at where none is asked for.
import { ConfigError } from '../nn/fields.ts'
import { attention, ffn, gemm, linear, moe } from './matrices.ts'
import { adamw, copy, loss, norm, poly } from './rows.ts'
import type { Place, Work } from './work.ts'

type Case = ((lengths: readonly number[], place: Place) => Work[]) & { shape: string }

interface Entry {
  make: Case
  /** Fewest and most lengths of a shape. */
  lengths: readonly [number, number]
  /** On a GPU: the paper's sizes and those where peers fall off. */
  cuda: readonly (readonly number[])[]
  /** On a CPU: what two cores do in seconds. */
  cpu: readonly (readonly number[])[]
}

export const cases: Readonly<Record<CaseName, Entry>> = {
  copy: { make: copy, lengths: [1, 1], cuda: [[2 ** 28]], cpu: [[2 ** 25]] },
  gemm: {
    make: gemm,
    lengths: [3, 3],
    cuda: [
      [8192, 8192, 8192],
      [8192, 8256, 3072],
      [32768, 1536, 2048],
    ],
    cpu: [
      [1024, 1024, 1024],
      [2048, 1536, 384],
    ],
  },
  linear: {
    make: linear,
    lengths: [3, 3],
    // The first feed-forward matrix of GPT-2 124M, the paper's dense model and an expert of its MoE, and a 7B model.
    cuda: [8192, 32768].flatMap((tokens) => [
      [tokens, 768, 3072],
      [tokens, 2048, 8256],
      [tokens, 2048, 1536],
      [tokens, 4096, 11008],
    ]),
    cpu: [[2048, 384, 1536]],
  },
  poly: {
    make: poly,
    lengths: [2, 2],
    cuda: [
      [8192, 8256],
      [65536, 1536],
      [16384, 13824],
      [4096, 32768],
    ],
    cpu: [
      [4096, 4096],
      [8192, 1536],
    ],
  },
  norm: {
    make: norm,
    lengths: [2, 2],
    cuda: [
      [32768, 2048],
      [16384, 8192],
    ],
    cpu: [[8192, 1024]],
  },
  loss: { make: loss, lengths: [2, 2], cuda: [[8192, 50304]], cpu: [[1024, 8192]] },
  adamw: { make: adamw, lengths: [1, 1], cuda: [[2 ** 27]], cpu: [[2 ** 23]] },
  attention: {
    make: attention,
    lengths: [4, 4],
    cuda: [
      [16, 16, 1024, 128],
      [4, 16, 4096, 128],
      [16, 12, 1024, 64],
    ],
    cpu: [[2, 6, 256, 64]],
  },
  ffn: {
    make: ffn,
    lengths: [3, 3],
    cuda: [
      [8192, 2048, 8256],
      [32768, 2048, 8256],
    ],
    cpu: [[2048, 384, 1536]],
  },
  moe: { make: moe, lengths: [3, 5], cuda: [[16384, 2048, 1024, 64, 8]], cpu: [[2048, 384, 768, 8, 2]] },
}

/** What can be measured by name. */
export type CaseName = 'copy' | 'gemm' | 'linear' | 'poly' | 'norm' | 'loss' | 'adamw' | 'attention' | 'ffn' | 'moe'

/**
 * The lengths that a shape such as `8192x8256` asks for.
 * @throws ConfigError naming what the case takes
 */
export function readShape(name: CaseName, text: string): number[] {
  const entry: Entry = cases[name]
  const lengths = text.split('x').map(Number)
  const [least, most] = entry.lengths
  if (lengths.length < least || lengths.length > most || !lengths.every((n) => Number.isSafeInteger(n) && n > 0))
    throw new ConfigError(
      '--shape',
      ` is "${text}", but ${name} takes ${entry.make.shape}, such as ${entry.cpu[0]!.join('x')}`,
    )
  return lengths
}

/** What there is to measure of a case. Its tensors are made now; call it in a scope. */
export function worksOf(name: CaseName, place: Place, shape?: string): (() => Work[])[] {
  const entry: Entry = cases[name]
  const shapes = shape === undefined ? entry[place.device === 'cpu' ? 'cpu' : 'cuda'] : [readShape(name, shape)]
  return shapes.map((lengths) => () => entry.make(lengths, place))
}
