// Mixture of experts: route -> groupByExpert -> gatherRows -> groupedMatmul -> activation -> groupedMatmul -> combine.
// Dropless: N tokens with k experts each are exactly N * k rows, whatever the router chose.
import { native } from '../native.ts'
import { record, recordAll, Tensor } from '../tensor.ts'
import { groupedWeightGradient } from './gradients.ts'

export interface Routing {
  /** The chosen experts' probabilities (N, k), the largest first. */
  weights: Tensor
  /** Which experts (N, k), int32; the lower index first among equals. */
  experts: Tensor
  /** Load balancing: E * sum over e of (share of the N * k assignments) * (mean probability of e), a scalar. */
  aux: Tensor
  /** The mean of logsumexp(logits)^2, a scalar. */
  z: Tensor
  /** Each expert's share of the N * k assignments (E); carries no gradient. */
  shares: Tensor
}

/**
 * Chooses `topK` experts for each row of `logits` (N, E) by the softmax over all experts. With `normTopkProb` the
 * weights of a row are scaled to sum to 1. Gradients flow from weights, aux and z; the shares in aux carry none.
 * @throws if topK is not between 1 and E
 */
export function route(logits: Tensor, options: { topK: number; normTopkProb?: boolean }): Routing {
  const normalise = options.normTopkProb ?? false
  const [weights, chosen, aux, z, share, logsumexp] = native.route(logits.handle, options.topK, normalise)
  const experts = new Tensor(chosen)
  const shares = new Tensor(share)
  const lse = new Tensor(logsumexp)
  const backward = (...[dweights, daux, dz]: (Tensor | null)[]): Tensor[] => [
    new Tensor(
      native.routeGrad(
        logits.handle,
        experts.handle,
        lse.handle,
        shares.handle,
        dweights?.handle ?? null,
        daux?.handle ?? null,
        dz?.handle ?? null,
        normalise,
      ),
    ),
  ]
  const made = recordAll('route', [weights, aux, z] as const, [logits], backward, [experts, shares, lse])
  return { weights: made[0], aux: made[1], z: made[2], experts, shares }
}

/**
 * Sorts the assignments of `experts` (N, k) by expert, stably. `order` (N * k) holds the assignments n * k + j in that
 * order, `offsets` (E + 1) where each expert's begin; both int32.
 * @throws at the next wait if an expert is not from 0 to `count` - 1
 */
export function groupByExpert(experts: Tensor, count: number): { order: Tensor; offsets: Tensor } {
  const [order, offsets] = native.groupByExpert(experts.handle, count)
  return { order: new Tensor(order), offsets: new Tensor(offsets) }
}

/** The tokens x (N, d) in the order of their assignments (N * k, d): row i is the row order[i] / k of x. */
export const gatherRows = (x: Tensor, order: Tensor): Tensor =>
  record(
    'gatherRows',
    native.gatherRows(x.handle, order.handle),
    [x],
    (dy) => [new Tensor(native.gatherRowsGrad(dy.handle, order.handle, x.shape[0]!))],
    [order],
  )

/**
 * Each group of rows with its own matrix: x (N * k, in), w (E, out, in) and offsets (E + 1) give (N * k, out), where
 * row i is w[e] x[i] for the expert e with offsets[e] <= i < offsets[e + 1]. An expert without rows gets a zero gradient.
 * @throws if the shapes or dtypes do not fit; at the next wait if offsets do not rise from 0 to N * k
 */
export const groupedMatmul = (x: Tensor, w: Tensor, offsets: Tensor): Tensor =>
  record(
    'groupedMatmul',
    native.groupedMatmul(x.handle, w.handle, offsets.handle),
    [x, w],
    (dy) => [
      x.tracked ? new Tensor(native.groupedMatmulGradX(dy.handle, w.handle, offsets.handle)) : null,
      w.tracked ? groupedWeightGradient(x, dy, w, offsets) : null,
    ],
    [offsets],
  )

/**
 * Brings the experts' rows y (N * k, d) back to their tokens: (N, d), token n's being the sum over j of weights[n, j]
 * times the row of assignment n * k + j. Summed in that order, in the compute type.
 * @throws if the shapes do not fit
 */
export const combine = (y: Tensor, order: Tensor, weights: Tensor): Tensor =>
  record(
    'combine',
    native.combine(y.handle, order.handle, weights.handle),
    [y, weights],
    (dy) => native.combineGrad(y.handle, order.handle, weights.handle, dy.handle).map((d) => new Tensor(d)),
    [order],
  )
