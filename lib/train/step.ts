// One optimiser step: A micro-batches forward and backward, the global norm, clipping, the update. Nothing waits but one
// await at its end, when the numbers are read back; the update has been queued by then, and gates itself on finite numbers.
import type { Batch } from '../data/batches.ts'
import { backward } from '../grad.ts'
import { isPolynomial } from '../nn/config.ts'
import type { Losses, Transformer } from '../nn/transformer.ts'
import { full, tensor } from '../ops/create.ts'
import { add, cast, concat, reshape } from '../ops/index.ts'
import type { AdamW } from '../optim/index.ts'
import { noGrad, scope, type Tensor } from '../tensor.ts'
import type { StepMetrics } from './metrics.ts'

/** What a step found, and whether it updated the parameters. */
export interface StepResult
  extends Pick<StepMetrics, 'loss' | 'grad_norm' | 'aux_loss' | 'z_loss' | 'expert_load' | 'act_coefficients'> {
  /** Whether loss and gradient were finite; if not, parameters and optimiser are untouched. */
  finite: boolean
}

/** Runs the steps of a model: the same work each time, on other data. */
export class TrainStep {
  readonly #model: Transformer
  readonly #optimizer: AdamW
  readonly #coefficients: Tensor[][] // by layer: weight and bias

  constructor(model: Transformer, optimizer: AdamW) {
    this.#model = model
    this.#optimizer = optimizer
    this.#coefficients = isPolynomial(model.config.hidden_act) ? coefficientsOf(model) : []
  }

  /**
   * @param batches the micro-batches; losses and gradients are averaged over them
   * @param options.lr of this step. @param options.maxNorm clips the gradient's global norm; 0: no clipping
   */
  run(batches: readonly Batch[], options: { lr: number; maxNorm: number }): Promise<StepResult> {
    return scope(async () => {
      const optimizer = this.#optimizer
      optimizer.zeroGrad()
      const reads: Promise<Float32Array>[] = []
      let losses: Tensor | undefined
      for (const [a, batch] of batches.entries()) {
        // The queue is bounded: while one micro-batch is computed, the next is queued, and no more.
        if (a >= 2) await reads[a - 2]
        else if (a === 1) await new Promise(setImmediate)
        const { loss, numbers } = scope(() => this.#microBatch(batch, 1 / batches.length))
        losses = losses ? noGrad(() => add(losses!, loss)) : loss
        reads.push(numbers.data() as Promise<Float32Array>)
      }
      optimizer.clip(options.maxNorm)
      optimizer.step({ lr: options.lr, loss: losses! })
      const [finite, norm, coefficients, ...found] = await Promise.all([
        optimizer.finite.item(),
        optimizer.gradNorm.item(),
        Promise.all(this.#coefficients.map((layer) => Promise.all(layer.map((t) => t.data())))),
        ...reads,
      ])
      const config = this.#model.config
      return {
        finite: finite === 1,
        grad_norm: Math.fround(norm),
        ...means(found, config.num_experts),
        ...(coefficients.length > 0 && {
          act_coefficients: coefficients.map(([weight, bias]) => pair(weight as Float32Array, bias as Float32Array)),
        }),
      }
    })
  }

  #microBatch(batch: Batch, share: number): { loss: Tensor; numbers: Tensor } {
    const model = this.#model
    const { device } = model.head
    const shape = [batch.rows, batch.seqLen]
    const ids = tensor(batch.inputs, { shape, device }) // (B, T)
    const targets = tensor(batch.targets, { shape, device }) // (B, T)
    const losses = model.loss(ids, targets)
    backward(losses.total, full(losses.total.shape, share, { dtype: losses.total.dtype, device }))
    return noGrad(() => ({ loss: cast(losses.loss.detach(), 'float32'), numbers: numbersOf(losses) }))
  }
}

// What is reported of a micro-batch, in one row: loss, aux, z, then the experts' shares.
function numbersOf({ loss, aux, z, expertLoad }: Losses): Tensor {
  const parts = [loss, aux, z, expertLoad].filter((t) => t !== null)
  return concat(parts.map((t) => reshape(cast(t.detach(), 'float32'), [-1])))
}

// Means over the micro-batches, taken in double precision.
function means(rows: readonly Float32Array[], experts: number) {
  const mean = Array.from(rows[0]!, (_, i) => Math.fround(rows.reduce((sum, row) => sum + row[i]!, 0) / rows.length))
  const [loss, aux_loss, z_loss, ...shares] = mean as [number, number, number, ...number[]]
  if (experts === 0) return { loss }
  const expert_load: number[][] = []
  for (let at = 0; at < shares.length; at += experts) expert_load.push(shares.slice(at, at + experts))
  return { loss, aux_loss, z_loss, expert_load }
}

// The activation's coefficients of each layer, found by their names.
function coefficientsOf(model: Transformer): Tensor[][] {
  const layers: Tensor[][] = []
  for (const [name, t] of model.namedParameters()) {
    const [, layer, part] = /^model\.layers\.(\d+)\.mlp\.(?:experts\.)?act_fn\.(weight|bias)$/.exec(name) ?? []
    if (layer === undefined) continue
    layers[Number(layer)] ??= []
    layers[Number(layer)]![part === 'weight' ? 0 : 1] = t
  }
  return layers.filter(Boolean)
}

// Weights, highest power first, then the bias; a list of such lists where each expert has its own.
function pair(weight: Float32Array, bias: Float32Array): number[] | number[][] {
  const order = weight.length / bias.length
  const sets = Array.from(bias, (b, e) => [...weight.subarray(e * order, (e + 1) * order), b])
  return sets.length === 1 ? sets[0]! : sets
}
