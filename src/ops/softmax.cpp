// Softmax, its logarithm and logsumexp over the last axis; lib/ops/softmax.ts brings other axes there.
#include "ops/op.h"

namespace {

using Kernel = void (*)(View, View);

void checkFloat(const Tensor& x, const char* op) {
  check(isFloat(x.dtype), op, ": x is ", x.dtype, ", but should be a floating-point tensor");
  check(x.shape.rank > 0, op, ": x should have at least one axis");
}

Tensor forward(Kernel kernel, const Tensor& x, const Shape& shape, const char* op) {
  checkFloat(x, op);
  Tensor in = contiguous(x), y = empty(shape, x.dtype, x.device());
  kernel(in, y);
  return y;
}

Tensor backward(void (*kernel)(View, View, View), const Tensor& y, const Tensor& dy, const char* op) {
  check(dy.shape == y.shape, op, ": the gradient is ", dy.shape, " but the result is ", y.shape);
  Tensor dx = empty(y.shape, y.dtype, y.device());
  kernel(contiguous(y), cast(dy, y.dtype), dx);
  return dx;
}

}  // namespace

OP(Tensor, softmax, (const Tensor& x)) { return forward(kernels(x.device()).softmax, x, x.shape, "softmax"); }
OP(Tensor, softmaxGrad, (const Tensor& y, const Tensor& dy)) {
  return backward(kernels(y.device()).softmaxGrad, y, dy, "softmaxGrad");
}
OP(Tensor, logSoftmax, (const Tensor& x)) { return forward(kernels(x.device()).logSoftmax, x, x.shape, "logSoftmax"); }
OP(Tensor, logSoftmaxGrad, (const Tensor& y, const Tensor& dy)) {
  return backward(kernels(y.device()).logSoftmaxGrad, y, dy, "logSoftmaxGrad");
}
OP(Tensor, logsumexp, (const Tensor& x)) {
  checkFloat(x, "logsumexp");
  return forward(kernels(x.device()).logsumexp, x, x.shape.without(x.shape.rank - 1), "logsumexp");
}
OP(Tensor, logsumexpGrad, (const Tensor& x, const Tensor& y, const Tensor& dy)) {
  check(dy.shape == y.shape, "logsumexpGrad: the gradient is ", dy.shape, " but the result is ", y.shape);
  Tensor dx = empty(x.shape, x.dtype, x.device());
  kernels(x.device()).logsumexpGrad(contiguous(x), contiguous(y), cast(dy, y.dtype), dx);
  return dx;
}
