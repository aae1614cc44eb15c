// Runs each kernel of some families once or twice on small odd shapes, for compute-sanitizer:
//   node test/gpu/once.mjs FAMILY...    default all of them
// test/cuda-on-cpu/once.test.ts holds that no row of the contract and no kernel is left out.
import {
  arange,
  full,
  generate,
  grad,
  nn,
  ops,
  optim,
  rand,
  randint,
  randn,
  scope,
  setDefaultDevice,
  synchronize,
  tensor,
  truncatedNormal,
} from '../../dist/index.js'
import { TrainStep } from '../../dist/train/step.js'

const leaf = (t) => Object.assign(t, { requiresGrad: true })
const floats = ['float32', 'bfloat16']
/** Forward and backward of every output. */
const both = (y, inputs) => grad(y, inputs, randn(y.shape, { dtype: y.dtype }), { retainGraph: true })
// Rows of a few elements, of one warp, of one block, and longer than a block holds.
const rowLengths = [
  [3, 7],
  [9, 768],
  [2, 8256],
  [2, 20001],
]

export const families = {
  poly(dtype) {
    for (const [rows, cols] of [
      [3, 7],
      [5, 101],
      [5, 1536],
      [2, 8256],
      [1, 40001],
      [1, 150000],
    ])
      for (const order of [2, 3, 4, 8]) {
        const x = leaf(randn([rows, cols], { dtype }))
        const up = leaf(randn([rows, cols], { dtype }))
        const weight = leaf(rand([order]))
        const bias = leaf(rand([1]))
        both(ops.polyRelu(x, weight, bias), [x, weight, bias])
        both(ops.polyNorm(x, weight, bias), [x, weight, bias])
        both(ops.polyNormGlu(x, up, weight, bias), [x, up, weight, bias])
      }
    const [gate, up] = [leaf(randn([5, 333], { dtype })), leaf(randn([5, 333], { dtype }))]
    both(ops.swiglu(gate, up), [gate, up])
  },
  norm(dtype) {
    for (const [rows, cols] of rowLengths) {
      const x = leaf(randn([rows, cols], { dtype }))
      const more = leaf(randn([rows, cols], { dtype }))
      const weight = leaf(rand([cols]))
      const bias = leaf(rand([cols]))
      both(ops.rmsNorm(x, weight), [x, weight])
      both(ops.layerNorm(x, weight, bias), [x, weight, bias])
      const { sum, y } = ops.addRmsNorm(x, more, weight)
      both(ops.add(sum, y), [x, more, weight])
      const centred = ops.addLayerNorm(x, more, weight, bias)
      both(ops.add(centred.sum, centred.y), [x, more, weight, bias])
    }
  },
  softmax(dtype) {
    for (const [rows, cols] of rowLengths) {
      const x = leaf(randn([rows, cols], { dtype }))
      both(ops.softmax(x), [x])
      both(ops.logSoftmax(x), [x])
      both(ops.logsumexp(x), [x])
    }
  },
  loss(dtype) {
    for (const [rows, classes] of [
      [3, 7],
      [9, 5003],
    ]) {
      const x = leaf(randn([rows, classes], { dtype }))
      const targets = randint(0, classes, [rows])
      both(ops.crossEntropy(x, targets), [x])
      const weight = leaf(randn([classes, 24], { dtype }))
      const hidden = leaf(randn([rows, 24], { dtype }))
      both(ops.linearCrossEntropy(hidden, weight, targets), [hidden, weight])
    }
  },
  matmul(dtype) {
    for (const [m, n, k] of [
      [1, 1, 1],
      [65, 130, 33],
      [200, 136, 264],
      [40, 48, 4104], // in parts of its depth
    ]) {
      const a = leaf(randn([m, k], { dtype }))
      const w = leaf(randn([n, k], { dtype }))
      both(ops.linear(a, w), [a, w])
      const b = leaf(randn([2, k, n], { dtype }))
      both(ops.matmul(a, b), [a, b])
      const bias = leaf(rand([n]))
      const residual = leaf(randn([m, n], { dtype }))
      both(ops.linear(a, w, bias, { activation: 'gelu', residual }), [a, w, bias, residual])
    }
  },
  mlp(dtype) {
    for (const [rows, width, hidden] of [
      [3, 7, 9],
      [150, 40, 264],
    ])
      for (const order of [1, 2, 3, 4])
        for (const experts of [0, 3]) {
          const lead = experts ? [experts] : []
          const up = leaf(randn([...lead, hidden, width], { dtype }))
          const down = leaf(randn([...lead, width, hidden], { dtype }))
          const [weight, bias] = [leaf(rand([...lead, order])), leaf(rand([experts || 1]))]
          const offsets = experts ? tensor([0, 1, 1, rows], { dtype: 'int32' }) : null
          const x = leaf(randn([rows, width], { dtype }))
          const all = { up, down, weight, bias }
          both(ops.polyReluMlp(x, all, { offsets }), [x, ...Object.values(all)])
          both(ops.polyNormMlp(x, all, { offsets }), [x, ...Object.values(all)])
        }
  },
  attention(dtype) {
    for (const [t, d] of [
      [5, 32],
      [70, 64],
      [97, 96],
      [130, 128],
      [33, 40],
      [40, 256],
    ])
      for (const causal of [true, false]) {
        const [q, k, v] = [4, 2, 2].map((heads) => leaf(randn([1, heads, t, d], { dtype })))
        both(ops.attention(q, k, v, { causal }), [q, k, v])
      }
    // One query against many keys: the keys in parts.
    const [q, k, v] = [1, 700, 700].map((t) => randn([1, 2, t, 64], { dtype }))
    ops.attention(q, k, v, { causal: true })
  },
  moe(dtype) {
    for (const [act, actPerExpert, normTopkProb] of [
      ['polynorm', false, false],
      ['polyrelu', true, true],
      ['swiglu', false, true],
    ]) {
      const layer = new nn.Moe(
        { kind: 'moe', hidden: 40, intermediate: 72, act, actPerExpert, experts: 5, topK: 2, normTopkProb },
        { dtype },
      )
      const x = leaf(randn([37, 40], { dtype }))
      const { y, routing } = layer.forward(x)
      const all = [x, ...layer.namedParameters().values()]
      both(y, all)
      both(ops.add(routing.aux, routing.z), [x, layer.gate.weight])
    }
  },
  embedding(dtype) {
    const weight = leaf(randn([11, 24], { dtype }))
    both(ops.embedding(randint(0, 11, [7, 3]), weight), [weight])
    for (const size of [16, 10]) {
      const x = leaf(randn([1, 2, 6, size], { dtype }))
      both(ops.rope(x), [x])
    }
  },
  reduce(dtype) {
    for (const shape of [
      [3, 5, 7],
      [2, 4097],
      [517, 3],
    ]) {
      const x = leaf(randn(shape, { dtype }))
      both(ops.sum(x, { axis: 0 }), [x])
      both(ops.mean(x), [x])
      both(ops.max(x, { axis: -1 }), [x])
      ops.argmax(x)
      ops.argmax(x, { axis: -1 })
    }
  },
  gather(dtype) {
    for (const [rows, cols] of [
      [4, 9],
      [3, 700],
      [2, 5003],
    ]) {
      const x = leaf(randn([rows, cols], { dtype }))
      both(ops.gather(x, 1, randint(0, cols, [rows, 6])), [x])
      both(ops.indexSelect(x, 1, randint(0, cols, [5])), [x])
      both(ops.indexSelect(x, 0, randint(0, rows, [5])), [x])
      both(ops.cumsum(x), [x])
      both(ops.cumsum(x, 0), [x])
      both(ops.sort(x).values, [x])
      both(ops.topk(x, 3).values, [x])
    }
    ops.oneHot(randint(0, 7, [5, 3]), 7, { dtype })
  },
  random(dtype) {
    for (const n of [5, 4099]) {
      for (const draw of [rand, randn, truncatedNormal]) draw([n], { dtype })
      const x = leaf(randn([n], { dtype }))
      both(ops.dropout(x, { p: 0.3 }), [x])
    }
  },
  elementwise(dtype) {
    const x = leaf(randn([37, 41], { dtype }))
    const y = leaf(randn([41], { dtype }))
    for (const op of [ops.add, ops.mul, ops.div, ops.maximum]) both(op(x, y), [x, y])
    for (const op of [ops.gelu, ops.silu, ops.exp]) both(op(ops.transpose(x, 0, 1)), [x])
    both(ops.mul(x, 3), [x])
    both(ops.mul(x, x), [x]) // two gradients that are added
    both(ops.clamp(x, -1, 1), [x])
    both(ops.where(ops.gt(x, 0), x, y), [x, y])
    ops.le(x, y)
    ops.contiguous(ops.transpose(x, 0, 1))
    ops.concat([x, x], 1)
    for (const to of ['float16', 'float64', 'int32', 'bool']) ops.cast(ops.cast(x, to), dtype)
    ops.add(arange(0, 5, { dtype }), full([5], 2, { dtype }))
    for (let i = 0; i < 2; i++) ops.mul(x, 2).backward(randn(x.shape, { dtype })) // then added to what is there
  },
  optim(dtype) {
    const p = leaf(randn([1001], { dtype }))
    const optimizer = new optim.AdamW([p])
    optimizer.clip(1)
    optimizer.step()
  },
  /** Whole steps, the last ones from a graph, and text written with a cache of keys and values. */
  async step(dtype) {
    for (const more of [
      {},
      { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 24, hidden_dropout: 0.1 },
    ]) {
      const model = new nn.Transformer({
        vocab_size: 50,
        hidden_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 48,
        hidden_act: 'polynorm',
        ...more,
      })
      model.to({ dtype })
      const step = new TrainStep(model, new optim.AdamW(model.namedParameters()))
      const ids = Int32Array.from({ length: 16 }, (_, i) => (i * i) % 50)
      const batch = { inputs: ids, targets: ids, rows: 2, seqLen: 8 }
      for (let i = 0; i < 4; i++) await step.run([batch, batch], { lr: 1e-3, maxNorm: 1 })
      step.dispose()
      await generate(model, ids.subarray(0, 4), { maxTokens: 4 })
    }
  },
}

/** Runs families, and throws what the device reported. */
export async function runOnce(names) {
  for (const name of names) {
    if (!families[name]) throw new Error(`once.mjs: ${name} is not one of ${Object.keys(families).join(', ')}`)
    for (const dtype of floats) await scope(async () => families[name](dtype))
    await synchronize()
    await tensor([1]).data() // throws what the device has reported
    console.log(`${name}: done`)
  }
}

if (process.argv[1]?.endsWith('once.mjs')) {
  setDefaultDevice(process.env.POLYGRAD_TEST_DEVICE ?? 'cuda')
  await runOnce(process.argv.length > 2 ? process.argv.slice(2) : Object.keys(families))
}
