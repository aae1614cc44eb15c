// An operation of your own: forward and backward from the library's functions, checked against finite differences.
import { customOp, gradcheck, ops, randn, type Tensor } from 'polygrad'

/** Swish with a fixed slope: x * sigmoid(2 x). */
const swish = customOp({
  name: 'swish',
  forward: (x: Tensor) => {
    const s = ops.sigmoid(ops.mul(x, 2))
    return { y: ops.mul(x, s), saved: [s] as const }
  },
  backward: (dy, { inputs: [x], saved: [s] }) => {
    const slope = ops.mul(ops.mul(s, ops.sub(1, s)), 2) // d sigmoid(2 x) / dx
    return [ops.mul(dy, ops.add(s, ops.mul(x, slope)))]
  },
})

const x = randn([4, 5], { dtype: 'float64', requiresGrad: true })
gradcheck(swish, [x])
ops.sum(swish(x)).backward()
console.log('the gradient is right, and its first row is', (await x.grad!.data()).slice(0, 5))
