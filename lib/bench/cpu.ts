#!/usr/bin/env node
// `npm run bench:cpu`: the CPU backend beside eager PyTorch, OpenBLAS's own threads and a streaming copy, in turns, in one
// run, two threads each. Prints ratios; --json FILE writes all timings.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { grad } from '../grad.ts'
import '../methods.ts'
import { native } from '../native.ts'
import { type ModelConfigInput, modelConfig } from '../nn/config.ts'
import { Transformer } from '../nn/index.ts'
import { tensor } from '../ops/create.ts'
import { matmul, polyNorm, polyRelu, reshape, slice, transpose } from '../ops/index.ts'
import { randn } from '../ops/random.ts'
import { AdamW } from '../optim/index.ts'
import { scope, type Tensor } from '../tensor.ts'
import { Peer } from './peer.ts'
import { attentionProducts, linearProducts, operations, type Product } from './products.ts'
import { type Contender, interleave, ratio, summary, timed } from './timer.ts'

const { values: flags } = parseArgs({
  options: {
    json: { type: 'string' },
    threads: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '9' },
    only: { type: 'string' },
  },
})
const threads = Number(flags.threads)
const rounds = Number(flags.rounds)
native.setThreads(threads)

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const peers = join(root, 'test/peers')
const wanted = (name: string) => flags.only === undefined || name.includes(flags.only)
const figures: Record<string, unknown> = {}

/** Waits for everything that was queued. */
const finished = async (t: Tensor) => {
  await native.read(t.handle, new Float32Array(t.size))
}
const ms = (seconds: readonly number[]) => (summary(seconds).median * 1e3).toFixed(1)
const percent = (x: number) => `${(100 * x).toFixed(1)} %`
const times = (x: number) => `${x.toFixed(2)}x`

function print(title: string, rows: [what: string, figure: string, target: string][]): void {
  console.log(`\n${title}`)
  for (const [what, figure, target] of rows) console.log(`  ${what.padEnd(58)} ${figure.padStart(10)}   ${target}`)
}

function note(name: string, seconds: Record<string, number[]>, ratios: Record<string, number>): void {
  figures[name] = {
    ratios,
    milliseconds: Object.fromEntries(
      Object.entries(seconds).map(([who, s]) => {
        const t = summary(s)
        return [who, { median: t.median * 1e3, min: t.min * 1e3, max: t.max * 1e3, runs: t.runs }]
      }),
    ),
  }
}

async function activation(kind: 'polyNorm' | 'polyRelu', torch: Peer | undefined, copy: Peer): Promise<void> {
  if (!wanted(kind)) return
  const [rows, cols] = [4096, 4096]
  const x = randn([rows, cols])
  const dy = randn([rows, cols])
  const weight = tensor([1 / 3, 1 / 3, 1 / 3], { requiresGrad: true })
  const bias = tensor([0], { requiresGrad: true })
  x.requiresGrad = true
  const ours = timed(() =>
    scope(async () => {
      const [dx, dw] = grad({ polyNorm, polyRelu }[kind](x, weight, bias), [x, weight, bias], dy)
      void dx
      await finished(dw!)
    }),
  )
  const contenders: Record<string, Contender> = { ours, copy: () => copy.run({}) }
  if (torch) contenders.torch = () => torch.run({ case_: { kind, rows, cols } })
  const s = await interleave(contenders, { rounds })
  for (const t of [x, dy, weight, bias]) t.dispose()
  // 20 bytes an element (8 forward, 12 backward) at the rate at which the copy moves its 8.
  const ofCopy = ratio(s.copy!, s.ours!) * (20 / 8)
  const overTorch = torch ? ratio(s.torch!, s.ours!) : undefined
  note(kind, s, { ofCopy, ...(overTorch && { overTorch }) })
  print(`${kind}, forward + backward, float32, ${rows} x ${cols}: ${ms(s.ours!)} ms`, [
    ['of the bandwidth of a copy with streaming stores', percent(ofCopy), 'target 75 %'],
    ...(overTorch ? [['over eager PyTorch', times(overTorch), 'target 30x'] as [string, string, string]] : []),
  ])
}

const base: ModelConfigInput = {
  vocab_size: 8192,
  hidden_size: 384,
  num_hidden_layers: 6,
  num_attention_heads: 6,
  intermediate_size: 1536,
  hidden_act: 'polynorm',
  max_position_embeddings: 256,
}
const models = {
  dense: { config: base, target: 1.6 },
  moe: { config: { ...base, num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 768 }, target: 2.3 },
} as const
const [batch, seq] = [8, 256]

async function step(name: keyof typeof models, torch: Peer | undefined): Promise<void> {
  if (!wanted(name)) return
  const config = modelConfig(models[name].config)
  const model = new Transformer(config)
  const optimizer = new AdamW(model.namedParameters(), { lr: 1e-3, betas: [0.9, 0.95], weightDecay: 0.1 })
  const draw = () => Int32Array.from({ length: batch * seq }, () => Math.floor(Math.random() * config.vocab_size))
  const ids = tensor(draw(), { shape: [batch, seq] })
  const targets = tensor(draw(), { shape: [batch, seq] })
  const ours = timed(() =>
    scope(async () => {
      optimizer.zeroGrad()
      const { total, loss } = model.loss(ids, targets)
      total.backward()
      optimizer.clip(1)
      optimizer.step({ loss })
      await loss.item()
    }),
  )
  const moe = config.num_experts > 0
  const peerCase = {
    kind: 'step',
    vocab: config.vocab_size,
    width: config.hidden_size,
    heads: config.num_attention_heads,
    seq,
    layers: config.num_hidden_layers,
    hidden: moe ? config.moe_intermediate_size : config.intermediate_size,
    experts: config.num_experts,
    topK: config.num_experts_per_tok,
    batch,
  }
  const linears = linearProducts(config, batch, seq)
  const inAttention = attentionProducts(config, batch, seq)
  const contenders: Record<string, Contender> = { ours }
  const products = (list: Product[]) => () => torch!.run({ case_: { kind: 'products', products: list } })
  if (torch) {
    contenders.torch = () => torch.run({ case_: peerCase })
    contenders.linears = products(linears)
    contenders.attention = products(inAttention)
  }
  const s = await interleave(contenders, { rounds })
  const rows: [string, string, string][] = []
  const ratios: Record<string, number> = {}
  if (torch) {
    // A causal kernel needs half of the products in attention.
    const bound = s.linears!.map((t, i) => t + s.attention![i]! / 2)
    ratios.ofProducts = ratio(bound, s.ours!)
    ratios.ofLinearProducts = ratio(s.linears!, s.ours!)
    ratios.overTorch = ratio(s.torch!, s.ours!)
    rows.push(
      ['of what its matrix products allow at OpenBLAS rate', percent(ratios.ofProducts), 'target 60 %, aim 75 %'],
      ['   the same without those inside attention', percent(ratios.ofLinearProducts), ''],
      ['over PyTorch on OpenBLAS', times(ratios.overTorch), `target ${models[name].target}x`],
    )
  }
  note(`step ${name}`, s, ratios)
  const tokens = (batch * seq) / summary(s.ours!).median
  print(`training step, ${name}: ${ms(s.ours!)} ms, ${Math.round(tokens)} tokens a second`, rows)
}

async function products(torch: Peer): Promise<void> {
  if (!wanted('products')) return
  const rows: [string, string, string][] = []
  const all: number[] = []
  const list = [
    ...new Map(linearProducts(modelConfig(base), batch, seq).map((p) => [p.slice(0, 5).join(), p])).values(),
  ]
  for (const [ta, tb, m, n, k] of list) {
    const a = randn(ta ? [k, m] : [m, k])
    const b = randn(tb ? [n, k] : [k, n])
    const repeat = Math.max(1, Math.round(4e9 / (2 * m * n * k)))
    const product: Product = [ta, tb, m, n, k, 1]
    const s = await interleave(
      {
        ours: async () => {
          const whole = timed(() =>
            scope(async () => {
              let y: Tensor | undefined
              for (let i = 0; i < repeat; i++) {
                y?.dispose()
                y = matmul(ta ? transpose(a, 0, 1) : a, tb ? transpose(b, 0, 1) : b)
              }
              await slice(reshape(y!, [-1]), [[0, 1]]).item()
            }),
          )
          return (await whole()) / repeat
        },
        openblas: () => torch.run({ case_: { kind: 'products', products: [product] }, repeat }),
      },
      { rounds },
    )
    a.dispose()
    b.dispose()
    const r = ratio(s.openblas, s.ours)
    all.push(r)
    const rate = operations([product]) / summary(s.ours).median / 1e9
    const name = `${ta ? 'T' : 'N'}${tb ? 'T' : 'N'} ${m} x ${n} x ${k}`
    note(`product ${name}`, s, { overOpenblas: r })
    rows.push([`${name}, ${rate.toFixed(0)} GFLOP/s`, times(r), ''])
  }
  const mean = Math.exp(all.reduce((sum, r) => sum + Math.log(r), 0) / all.length)
  rows.push(['geometric mean', times(mean), 'target 0.97x'])
  figures.products = { geometricMean: mean }
  print("float32 products over OpenBLAS's own threads", rows)
}

async function startTorch(): Promise<Peer | undefined> {
  const python = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3'
  try {
    const [peer, hello] = await Peer.start<{ torch: string; blas: string }>(python, [join(peers, 'cpu.py')], {
      OPENBLAS_NUM_THREADS: String(threads),
      OMP_NUM_THREADS: String(threads),
    })
    console.log(`peer: PyTorch ${hello.torch} on ${hello.blas}`)
    figures.peer = hello
    return peer
  } catch (error) {
    console.log(`PyTorch is not measured (apt-get install python3-torch libopenblas-dev): ${(error as Error).message}`)
    return undefined
  }
}

const folder = mkdtempSync(join(tmpdir(), 'polygrad-bench-'))
execFileSync('g++', ['-O3', '-march=x86-64-v3', '-pthread', join(peers, 'copy.cpp'), '-o', join(folder, 'copy')])
console.log(
  `polygrad on ${cpus()[0]?.model}, ${threads} of ${cpus().length} threads, ${native.instructionSet()}, ${native.blas()}`,
)
figures.machine = { processor: cpus()[0]?.model, threads, instructionSet: native.instructionSet(), blas: native.blas() }
const [copy] = await Peer.start(join(folder, 'copy'), [String(threads), String(4096 * 4096 * 4)])
const torch = await startTorch()
try {
  await activation('polyNorm', torch, copy)
  await activation('polyRelu', torch, copy)
  copy.stop()
  if (torch) await products(torch)
  await step('dense', torch)
  await step('moe', torch)
  if (flags.json) writeFileSync(flags.json, `${JSON.stringify(figures, null, 1)}\n`)
} finally {
  copy.stop()
  torch?.stop()
  rmSync(folder, { recursive: true })
}
