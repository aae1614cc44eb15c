// The kernels alone: PolyNorm of a matrix, forward and backward, without a model.
import { ones, ops, randn, tensor } from 'polygrad'

const x = randn([4, 1024], { requiresGrad: true })
const weight = tensor([1 / 3, 1 / 3, 1 / 3], { requiresGrad: true }) // highest power first
const bias = tensor([0], { requiresGrad: true })

const y = ops.polyNorm(x, weight, bias, { eps: 1e-6 })
y.backward(ones(y.shape))
console.log('y', y.shape, 'dweight', await weight.grad!.data(), 'dbias', await bias.grad!.data())
