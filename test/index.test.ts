// The public surface: every name that interchange.md promises to outside programs.
import { describe, expect, test } from 'vitest'
import { ops, Tensor } from '../lib/index.ts'

// The interchange list: what outside programs call. Those whose first argument is no tensor are functions alone.
const functionsAlone = ['concat', 'stack']
const list = `
  add sub mul div neg pow exp log sqrt abs tanh sigmoid maximum minimum where
  sum mean max min argmax softmax logSoftmax logsumexp reshape transpose permute slice split gather indexSelect broadcastTo
  contiguous cast matmul clamp sin cos sign cumsum topk sort oneHot var eq ne lt le gt ge
  relu relu2 gelu silu swiglu polyRelu polyNorm polyNormGlu rmsNorm layerNorm rope attention embedding crossEntropy
  linearCrossEntropy dropout route groupByExpert groupedMatmul combine`

describe('every op of the list', () => {
  const names = list.trim().split(/\s+/)
  test.each([...names, ...functionsAlone])('%s is a function of ops', (name) => {
    expect((ops as Record<string, unknown>)[name]).toBeTypeOf('function')
  })
  test.each(names)('%s is a method of Tensor', (name) => {
    expect((Tensor.prototype as unknown as Record<string, unknown>)[name]).toBeTypeOf('function')
  })
})
