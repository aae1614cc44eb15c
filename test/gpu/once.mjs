// Runs each kernel of a family once or twice on small odd shapes, for compute-sanitizer: node test/gpu/once.mjs FAMILY
import { grad, nn, ops, optim, rand, randint, randn, setDefaultDevice, synchronize, tensor } from '../../dist/index.js'

setDefaultDevice(process.env.POLYGRAD_TEST_DEVICE ?? 'cuda')
const family = process.argv[2]
const leaf = (t) => Object.assign(t, { requiresGrad: true })
const floats = ['float32', 'bfloat16']
/** Forward and backward of every output. */
const both = (y, inputs) => grad(y, inputs, randn(y.shape, { dtype: y.dtype }))

const families = {
  poly(dtype) {
    for (const [rows, cols] of [
      [3, 7],
      [5, 1536],
      [2, 8256],
      [1, 40001],
    ])
      for (const order of [3, 5]) {
        const x = leaf(randn([rows, cols], { dtype }))
        const up = leaf(randn([rows, cols], { dtype }))
        const weight = leaf(rand([order]))
        const bias = leaf(rand([1]))
        both(ops.polyRelu(x, weight, bias), [x, weight, bias])
        both(ops.polyNorm(x, weight, bias), [x, weight, bias])
        both(ops.polyNormGlu(x, up, weight, bias), [x, up, weight, bias])
      }
  },
  norm(dtype) {
    for (const [rows, cols] of [
      [3, 7],
      [9, 768],
      [2, 20001],
    ]) {
      const x = leaf(randn([rows, cols], { dtype }))
      const weight = leaf(rand([cols]))
      both(ops.rmsNorm(x, weight), [x, weight])
      both(ops.layerNorm(x, weight, null), [x, weight])
    }
  },
  softmax(dtype) {
    for (const [rows, cols] of [
      [3, 7],
      [9, 768],
      [2, 20001],
    ]) {
      const x = leaf(randn([rows, cols], { dtype }))
      both(ops.softmax(x), [x])
      both(ops.logSoftmax(x), [x])
    }
  },
  loss(dtype) {
    for (const [rows, classes] of [
      [3, 7],
      [9, 5003],
    ]) {
      const x = leaf(randn([rows, classes], { dtype }))
      both(ops.crossEntropy(x, randint(0, classes, [rows])), [x])
    }
  },
  matmul(dtype) {
    for (const [m, n, k] of [
      [1, 1, 1],
      [65, 130, 33],
      [200, 136, 264],
    ]) {
      const a = leaf(randn([m, k], { dtype }))
      const w = leaf(randn([n, k], { dtype }))
      both(ops.linear(a, w), [a, w])
      const b = leaf(randn([2, k, n], { dtype }))
      both(ops.matmul(a, b), [a, b])
    }
  },
  attention(dtype) {
    for (const [t, d] of [
      [5, 32],
      [70, 64],
      [130, 128],
      [33, 40],
    ])
      for (const causal of [true, false]) {
        const [q, k, v] = [4, 2, 2].map((heads) => leaf(randn([1, heads, t, d], { dtype })))
        both(ops.attention(q, k, v, { causal }), [q, k, v])
      }
  },
  moe(dtype) {
    const layer = new nn.Moe(
      { kind: 'moe', hidden: 40, intermediate: 72, act: 'polynorm', experts: 5, topK: 2 },
      { dtype },
    )
    const x = leaf(randn([37, 40], { dtype }))
    both(layer.forward(x).y, [x, ...layer.namedParameters().values()])
  },
  embedding(dtype) {
    const weight = leaf(randn([11, 24], { dtype }))
    both(ops.embedding(randint(0, 11, [7, 3]), weight), [weight])
    const x = leaf(randn([1, 2, 6, 16], { dtype }))
    both(ops.rope(x), [x])
  },
  reduce(dtype) {
    for (const shape of [
      [3, 5, 7],
      [2, 4097],
      [4097, 3],
    ]) {
      const x = leaf(randn(shape, { dtype }))
      both(ops.sum(x, { axis: 0 }), [x])
      both(ops.mean(x), [x])
      ops.argmax(x)
    }
  },
  elementwise(dtype) {
    const x = leaf(randn([37, 41], { dtype }))
    const y = leaf(randn([41], { dtype }))
    for (const op of [ops.add, ops.mul, ops.div, ops.maximum]) both(op(x, y), [x, y])
    for (const op of [ops.gelu, ops.silu, ops.exp]) both(op(ops.transpose(x, 0, 1)), [x])
  },
  optim(dtype) {
    const p = leaf(randn([1001], { dtype }))
    const optimizer = new optim.AdamW([p])
    optimizer.clip(1)
    optimizer.step()
  },
}

if (!families[family]) throw new Error(`once.mjs: ${family} is not one of ${Object.keys(families).join(', ')}`)
for (const dtype of floats) families[family](dtype)
await synchronize()
await tensor([1]).data() // throws what the device has reported
console.log(`${family}: done`)
