// One optimiser step: A micro-batches forward and backward, the global norm, clipping, the update. Nothing waits but one
// await at its end, when the numbers are read back; the update has been queued by then, and gates itself on finite numbers.
// On a GPU the whole of it is recorded once and replayed; what differs from step to step lies in the device's memory.
import type { Batch } from '../data/batches.ts'
import { OutOfMemoryError } from '../errors.ts'
import { backward } from '../grad.ts'
import { type Graph, native } from '../native.ts'
import { isPolynomial } from '../nn/config.ts'
import type { Losses, Transformer } from '../nn/transformer.ts'
import { full, tensor } from '../ops/create.ts'
import { add, cast, concat, reshape } from '../ops/index.ts'
import { StepGenerator } from '../ops/random.ts'
import type { AdamW } from '../optim/index.ts'
import { type Device, deviceCode, dtypeCode, keep, noGrad, scope, Tensor } from '../tensor.ts'
import type { StepMetrics } from './metrics.ts'

/** What a step found, and whether it updated the parameters. */
export interface StepResult
  extends Pick<StepMetrics, 'loss' | 'grad_norm' | 'aux_loss' | 'z_loss' | 'expert_load' | 'act_coefficients'> {
  /** Whether loss and gradient were finite; if not, parameters and optimiser are untouched. */
  finite: boolean
}

export interface TrainStepOptions {
  /**
   * Whether steps are recorded as one graph of the GPU, from the third of a shape on, and replayed: the same numbers with
   * next to no work of the host. Default: where the model is on CUDA, unless POLYGRAD_CAPTURE=0 or POLYGRAD_SYNC=1.
   */
  capture?: boolean
}

interface Options {
  lr: number
  maxNorm: number
}

// A recorded step: where it reads its batches from, and what it leaves behind.
interface Recorded {
  readonly key: string
  readonly graph: Graph
  readonly inputs: readonly [ids: Tensor, targets: Tensor][]
  /** All numbers, float64, one part after another. */
  readonly found: Tensor
  readonly lengths: readonly number[]
}

const warmUps = 2

/** Runs the steps of a model: the same work each time, on other data. */
export class TrainStep {
  readonly #model: Transformer
  readonly #optimizer: AdamW
  readonly #coefficients: Tensor[][] // by layer: weight and bias
  readonly #device: Device
  #capture: boolean
  #generator: StepGenerator | undefined
  #recorded: Recorded | undefined
  #last = { key: '', steps: 0 } // how often steps of this key came in a row

  constructor(model: Transformer, optimizer: AdamW, options: TrainStepOptions = {}) {
    const { POLYGRAD_CAPTURE, POLYGRAD_SYNC } = process.env
    this.#model = model
    this.#optimizer = optimizer
    this.#coefficients = isPolynomial(model.config.hidden_act) ? coefficientsOf(model) : []
    this.#device = model.head.device
    const fits = this.#device !== 'cpu' && POLYGRAD_SYNC !== '1'
    this.#capture = fits && (options.capture ?? POLYGRAD_CAPTURE !== '0')
  }

  /** Whether the last step was a replay. */
  get replayed(): boolean {
    return this.#recorded?.key === this.#last.key
  }

  /**
   * @param batches the micro-batches; losses and gradients are averaged over them
   * @param options.lr of this step. @param options.maxNorm clips the gradient's global norm; 0: no clipping
   */
  async run(batches: readonly Batch[], options: { lr: number; maxNorm: number }): Promise<StepResult> {
    const key = JSON.stringify([
      ...batches.map(({ rows, seqLen }) => [rows, seqLen]),
      options.maxNorm,
      this.#model.training,
    ])
    this.#last = { key, steps: this.#last.key === key ? this.#last.steps + 1 : 1 }
    if (this.#capture && this.#last.steps > warmUps) {
      this.#recorded = this.#recorded?.key === key ? this.#recorded : this.#record(key, batches, options)
      if (this.#recorded) return this.#replay(this.#recorded, batches, options)
    }
    return this.#direct(batches, options)
  }

  /** Gives back what the recorded step holds. Another `run` starts anew. */
  dispose(): void {
    this.#forget()
    this.#generator?.dispose()
    this.#generator = undefined
    this.#last = { key: '', steps: 0 }
  }

  #direct(batches: readonly Batch[], options: Options): Promise<StepResult> {
    return scope(async () => {
      const optimizer = this.#optimizer
      optimizer.zeroGrad()
      const reads: Promise<Float32Array>[] = []
      let losses: Tensor | undefined
      for (const [a, batch] of batches.entries()) {
        // The queue is bounded: while one micro-batch is computed, the next is queued, and no more.
        if (a >= 2) await reads[a - 2]
        else if (a === 1) await new Promise(setImmediate)
        const { loss, numbers } = scope(() => {
          const shape = [batch.rows, batch.seqLen]
          const ids = tensor(batch.inputs, { shape, device: this.#device }) // (B, T)
          const targets = tensor(batch.targets, { shape, device: this.#device }) // (B, T)
          return this.#microBatch(ids, targets, 1 / batches.length)
        })
        losses = losses ? noGrad(() => add(losses!, loss)) : loss
        reads.push(numbers.data() as Promise<Float32Array>)
      }
      optimizer.clip(options.maxNorm)
      optimizer.step({ lr: options.lr, loss: losses! })
      const [finite, norm, coefficients, ...found] = await Promise.all([
        optimizer.finite.item(),
        optimizer.gradNorm.item(),
        Promise.all(this.#coefficients.flat().map((t) => t.data())),
        ...reads,
      ])
      return this.#result(finite, norm, coefficients as Float32Array[], found)
    })
  }

  // Records the step without doing it. Undefined if there is no memory for it: the steps then go on as they did.
  #record(key: string, batches: readonly Batch[], options: Options): Recorded | undefined {
    this.#forget()
    const optimizer = this.#optimizer
    const code = deviceCode(this.#device)
    this.#generator ??= new StepGenerator(this.#device)
    const inputs = batches.map(({ rows, seqLen }) => {
      const place = () => keep(new Tensor(native.empty([rows, seqLen], dtypeCode('int32'), code)))
      return [place(), place()] as [Tensor, Tensor]
    })
    const work = () => {
      optimizer.zeroGrad()
      let losses: Tensor | undefined
      const rows: Tensor[] = []
      for (const [ids, targets] of inputs) {
        const { loss, numbers } = scope(() => this.#microBatch(ids, targets, 1 / batches.length))
        losses = losses ? noGrad(() => add(losses!, loss)) : loss
        rows.push(numbers)
      }
      optimizer.clip(options.maxNorm)
      optimizer.step({ loss: losses! })
      const parts = [optimizer.finite, optimizer.gradNorm, ...this.#coefficients.flat(), ...rows]
      const found = noGrad(() => concat(parts.map((t) => reshape(cast(t.detach(), 'float64'), [-1]))))
      return { found, lengths: parts.map((t) => t.size) }
    }
    let made: ReturnType<typeof work> | undefined
    let graph: Graph | null = null
    try {
      native.beginCapture(code)
      try {
        made = this.#generator.record(() => scope(work))
        keep(made.found)
      } finally {
        graph = native.endCapture(code, made !== undefined)
      }
    } catch (error) {
      made?.found.dispose()
      for (const t of inputs.flat()) t.dispose()
      if (!(error instanceof OutOfMemoryError)) throw error
      this.#capture = false
      return undefined
    }
    return { key, graph: graph!, inputs, ...made }
  }

  async #replay(recorded: Recorded, batches: readonly Batch[], options: Options): Promise<StepResult> {
    for (const [i, { inputs, targets }] of batches.entries()) {
      const [ids, wanted] = recorded.inputs[i]!
      native.write(ids.handle, inputs)
      native.write(wanted.handle, targets)
    }
    this.#optimizer.lr = options.lr
    this.#generator!.advance()
    native.replay(recorded.graph)
    const all = (await recorded.found.data()) as Float64Array
    let end = 0
    const parts = recorded.lengths.map((n) => {
      end += n
      return Float32Array.from(all.subarray(end - n, end))
    })
    const count = this.#coefficients.flat().length
    return this.#result(all[0]!, all[1]!, parts.slice(2, 2 + count), parts.slice(2 + count))
  }

  #forget(): void {
    if (!this.#recorded) return
    const { graph, inputs, found } = this.#recorded
    this.#recorded = undefined
    found.dispose()
    native.destroyGraph(graph)
    for (const t of inputs.flat()) t.dispose()
  }

  #microBatch(ids: Tensor, targets: Tensor, share: number): { loss: Tensor; numbers: Tensor } {
    const losses = this.#model.loss(ids, targets)
    const { dtype } = losses.total
    backward(losses.total, full(losses.total.shape, share, { dtype, device: this.#device }))
    return noGrad(() => ({ loss: cast(losses.loss.detach(), 'float32'), numbers: numbersOf(losses) }))
  }

  #result(finite: number, norm: number, coefficients: Float32Array[], rows: Float32Array[]): StepResult {
    return {
      finite: finite === 1,
      grad_norm: Math.fround(norm),
      ...means(rows, this.#model.config.num_experts),
      ...(coefficients.length > 0 && {
        act_coefficients: this.#coefficients.map((_, i) => pair(coefficients[2 * i]!, coefficients[2 * i + 1]!)),
      }),
    }
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
