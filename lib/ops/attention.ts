// Scaled dot-product attention.
import { native } from '../native.ts'
import { record, recorded, Tensor } from '../tensor.ts'

export interface AttentionOptions {
  /** Query t of T sees the keys up to S - T + t only: the queries are the last T of S positions. Default false. */
  causal?: boolean
  /** What the products of queries and keys are multiplied by. Default 1 / sqrt(D). */
  scale?: number
}

/**
 * softmax(q k^T scale) v for each head, without the matrix of scores (Vaswani et al., arXiv 1706.03762; computed as in
 * FlashAttention-2, arXiv 2307.08691). Views with other strides, as (B, T, H, D) transposed, are read where they are;
 * the result lies in memory as (B, T, H, D), so that merging its heads copies nothing.
 * @param q (B, H, T, D)
 * @param k keys, and v, values: (B, K, S, D), where K divides H: head h of q looks at head h K / H of k and v
 * @returns (B, H, T, D)
 * @throws Error if shapes or dtypes do not fit together, or causal queries outnumber the keys
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { causal = false, scale = 1 / Math.sqrt(q.shape.at(-1) || 1) } = options
  const [y, lse] = native.attention(q.handle, k.handle, v.handle, scale, causal)
  const inputs = [q, k, v]
  // A second handle to the result, because the caller may dispose of it before the gradient is asked for.
  const saved = [new Tensor(lse), ...(recorded(inputs) ? [new Tensor(native.alias(y))] : [])]
  const back = (dy: Tensor) => {
    const [l, out] = saved.map((t) => t.handle)
    return native
      .attentionGrad(q.handle, k.handle, v.handle, out!, l!, dy.handle, scale, causal)
      .map((handle) => new Tensor(handle))
  }
  return record('attention', y, inputs, back, saved)
}
