// Sampling from a language model, one token after another, over a cache of keys and values.
import type { Tokenizer } from './data/tokenizer.ts'
import type { Transformer } from './nn/transformer.ts'
import { tensor } from './ops/create.ts'
import { cast } from './ops/index.ts'
import { noGrad, scope, type Tensor } from './tensor.ts'

/** How the next token is chosen from the model's logits. */
export interface SamplingOptions {
  /** Divides the logits. 0: always the likeliest token. Default 1. */
  temperature?: number
  /** Only the likeliest `topK`; 0 (default): all. */
  topK?: number
  /** Only the likeliest tokens that together have this probability, after `topK`. Default 1: all. */
  topP?: number
  /** The same seed gives the same tokens. Default 0. */
  seed?: number
}

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to make, at most. Default 256. The end of the model's positions also ends it. */
  maxTokens?: number
  /** Ids that end it; they are not part of what comes. */
  stop?: readonly number[]
  /** Needed for a prompt of text; without it the pieces have no text. */
  tokenizer?: Tokenizer
  /** Ends it early. */
  signal?: AbortSignal
}

/** A token that was generated. */
export interface Piece {
  /** Undefined in a last piece that is only the text left over: an unfinished character. */
  id: number | undefined
  /** The text that it completes, often empty in the middle of a character; always empty without a tokenizer. */
  text: string
}

/**
 * Generates tokens that continue a prompt, and yields them as they come. The model is used in evaluation mode.
 * @param prompt text, or token ids
 * @throws RangeError if the prompt has no tokens or more than the model has positions, or an option is out of range
 */
export async function* generate(
  model: Transformer,
  prompt: string | ArrayLike<number>,
  options: GenerateOptions = {},
): AsyncGenerator<Piece, void, undefined> {
  const { maxTokens = 256, stop = [], tokenizer, signal } = options
  if (!(Number.isInteger(maxTokens) && maxTokens >= 0))
    throw new RangeError(`generate: maxTokens is ${maxTokens} but should be an integer of at least 0`)
  if (typeof prompt === 'string' && !tokenizer) throw new TypeError('generate: a prompt of text needs a tokenizer')
  const start = Array.from<number>(typeof prompt === 'string' ? tokenizer!.encode(prompt) : prompt)
  const positions = model.config.max_position_embeddings
  if (start.length === 0) throw new RangeError('generate: the prompt should have at least one token')
  if (start.length > positions)
    throw new RangeError(`generate: the prompt has ${start.length} tokens but the model only ${positions} positions`)
  const sampler = new Sampler(options)
  const decoder = tokenizer?.decoder()
  for (const id of start) decoder?.push(id) // a tokenizer may treat a text's first token differently
  const count = Math.min(maxTokens, positions - start.length)
  const cache = model.cache(1, start.length + count)
  try {
    let fresh = start
    for (let made = 0; made < count && !signal?.aborted; made++) {
      const logits = nextLogits(model, fresh, cache)
      let id: number
      try {
        id = sampler.next((await logits.data()) as Float32Array)
      } finally {
        logits.dispose()
      }
      if (stop.includes(id)) break
      yield { id, text: decoder?.push(id) ?? '' }
      fresh = [id]
    }
    const rest = decoder?.end()
    if (rest) yield { id: undefined, text: rest }
  } finally {
    cache.dispose()
  }
}

/** As {@link generate}, but all at once: the text that continues the prompt. */
export async function generateText(
  model: Transformer,
  prompt: string,
  options: GenerateOptions & { tokenizer: Tokenizer },
): Promise<string> {
  let text = ''
  for await (const piece of generate(model, prompt, options)) text += piece.text
  return text
}

// The logits behind the last of the fresh ids, [V], float32. Dropout is off.
function nextLogits(model: Transformer, fresh: number[], cache: ReturnType<Transformer['cache']>): Tensor {
  const modes = [...model.modules()].map(([, module]) => [module, module.training] as const)
  model.eval()
  try {
    return noGrad(() =>
      scope(() => {
        const ids = tensor(Int32Array.from(fresh), { shape: [1, fresh.length], device: model.head.device })
        return cast(model.forward(ids, { cache, last: true }).logits, 'float32')
      }),
    )
  } finally {
    for (const [module, mode] of modes) module.training = mode
  }
}

/** Chooses ids from logits, on the host. The choices are a function of the logits and the seed. */
export class Sampler {
  readonly #temperature: number
  readonly #topK: number
  readonly #topP: number
  readonly #random: () => number

  /** @throws RangeError if an option is out of range */
  constructor(options: SamplingOptions = {}) {
    const { temperature = 1, topK = 0, topP = 1, seed = 0 } = options
    if (!(temperature >= 0 && temperature < Number.POSITIVE_INFINITY))
      throw new RangeError(`temperature is ${temperature} but should be a number of at least 0`)
    if (!(Number.isInteger(topK) && topK >= 0))
      throw new RangeError(`topK is ${topK} but should be an integer of at least 0`)
    if (!(topP > 0 && topP <= 1)) throw new RangeError(`topP is ${topP} but should be above 0 and at most 1`)
    if (!Number.isSafeInteger(seed)) throw new RangeError(`seed is ${seed} but should be an integer`)
    this.#temperature = temperature
    this.#topK = topK
    this.#topP = topP
    this.#random = generator(seed)
  }

  /**
   * The next id.
   * @param logits one for each id
   * @throws Error if a logit is NaN, or none is above minus infinity
   */
  next(logits: ArrayLike<number>): number {
    let best = -1
    for (let i = 0; i < logits.length; i++) {
      const x = logits[i]!
      if (Number.isNaN(x) || x === Number.POSITIVE_INFINITY) throw new Error(`sample: the logit of id ${i} is ${x}`)
      if (x > (best < 0 ? Number.NEGATIVE_INFINITY : logits[best]!)) best = i
    }
    if (best < 0) throw new Error('sample: no logit is above minus infinity')
    if (this.#temperature === 0) return best

    const { ids, weights } = this.#candidates(logits, logits[best]!)
    const sum = weights.reduce((a, b) => a + b, 0)
    let left = this.#random() * sum
    for (let i = 0; i < ids.length; i++) {
      left -= weights[i]!
      if (left < 0) return ids[i]!
    }
    return best // only where the rounding of the sum leaves a rest
  }

  // The ids to choose from with their unnormalised probabilities.
  #candidates(logits: ArrayLike<number>, most: number): { ids: Uint32Array; weights: Float64Array } {
    let ids = new Uint32Array(logits.length).map((_, i) => i)
    if (this.#topK > 0 && this.#topK < logits.length) {
      const least = kthLargest(logits, this.#topK)
      // Of equal ones at the border, the first are taken.
      let room = this.#topK - ids.filter((id) => logits[id]! > least).length
      ids = ids.filter((id) => logits[id]! > least || (logits[id]! === least && room-- > 0))
    }
    const weigh = (id: number) => Math.exp((logits[id]! - most) / this.#temperature)
    const weights = new Float64Array(ids.length).map((_, i) => weigh(ids[i]!))
    if (this.#topP === 1) return { ids, weights }

    const sum = weights.reduce((a, b) => a + b, 0)
    // What is below this can never be needed to reach topP: together it is less than 1 - topP.
    const floor = ((1 - this.#topP) / ids.length) * sum * (1 - 1e-9)
    ids = ids.filter((_, i) => weights[i]! >= floor).sort((a, b) => logits[b]! - logits[a]! || a - b)
    let taken = 0
    let reached = 0
    while (taken < ids.length && reached < this.#topP * sum) reached += weigh(ids[taken++]!)
    ids = ids.subarray(0, taken)
    return { ids, weights: new Float64Array(taken).map((_, i) => weigh(ids[i]!)) }
  }
}

const kthLargest = (values: ArrayLike<number>, k: number): number =>
  Float64Array.from(values).sort()[values.length - k]!

// Uniform numbers in [0, 1): sfc32 (Chris Doty-Humphrey), whose period is 2^128 / 2 on average.
function generator(seed: number): () => number {
  let [a, b, c, d] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0, 0x9e3779b9, 1]
  const next = () => {
    const t = (a + b + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + t
    return (t >>> 0) / 2 ** 32
  }
  for (let i = 0; i < 15; i++) next()
  return next
}
