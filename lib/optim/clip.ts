// Clipping of gradients by their global norm, for optimisers that do not do it themselves.
import { native } from '../native.ts'
import { full, tensor, zeros } from '../ops/create.ts'
import { scope, Tensor } from '../tensor.ts'

/**
 * Scales the gradients of `params` so that their global norm is at most `maxNorm`:
 * each times `min(1, maxNorm / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_`. Parameters without a gradient count as 0.
 * @returns the norm before, float64, one element
 */
export function clipGradNorm(params: Iterable<Tensor>, maxNorm: number): Tensor {
  if (!(maxNorm > 0)) throw new RangeError(`clipGradNorm: maxNorm is ${maxNorm}, but should be above 0`)
  return scope(() => {
    const grads = [...new Set(params)].flatMap(({ grad }) => (grad ? [grad] : []))
    if (!grads.length) return full([], 0, { dtype: 'float64' })
    const { device } = grads[0]!
    const sums = zeros([grads.length], { dtype: 'float64', device })
    grads.forEach((grad, i) => {
      const flat = new Tensor(native.contiguous(grad.handle))
      native.sumSquares(flat.handle, new Tensor(native.windowOf(sums.handle, [1], i)).handle)
    })
    const state = tensor([0, 1, 1, 0], { dtype: 'float64', device })
    native.clipCoefficient(sums.handle, null, Number.isFinite(maxNorm) ? maxNorm : 0, state.handle)
    const coefficient = new Tensor(native.windowOf(state.handle, [], 1))
    for (const grad of grads) {
      const share = new Tensor(native.cast(coefficient.handle, native.dtypeOf(grad.handle)))
      native.assign(new Tensor(native.mul(grad.handle, share.handle)).handle, grad.handle)
    }
    return new Tensor(native.windowOf(state.handle, [], 3))
  })
}
