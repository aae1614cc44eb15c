// Functions of one or two tensors, element by element, with NumPy's broadcasting.
#include "ops/op.h"
#include "ops/promote.h"

static Tensor apply(UnaryOp which, const Tensor& x, const char* name) {
  check(isFloat(x.dtype) || which == UnaryOp::neg || which == UnaryOp::abs || which == UnaryOp::sign ||
            which == UnaryOp::relu,
        name, ": x is ", x.dtype, ", but should be a floating-point tensor");
  Tensor y = emptyLike(x);
  kernels(x.device()).unary(which, x, y);
  return y;
}

static Tensor applyGrad(UnaryOp which, const Tensor& x, const Tensor& dy, const char* name) {
  check(dy.shape == x.shape, name, ": the gradient is ", dy.shape, " but x is ", x.shape);
  Tensor dx = emptyLike(x);
  kernels(x.device()).unaryGrad(which, x, cast(dy, x.dtype), dx);
  return dx;
}

#define ROW(name, F)                                                             \
  OP(Tensor, name, (const Tensor& x)) { return apply(UnaryOp::name, x, #name); } \
  OP(Tensor, name##Grad, (const Tensor& x, const Tensor& dy)) { return applyGrad(UnaryOp::name, x, dy, #name); }
UNARY(ROW)
#undef ROW

static Tensor apply(BinaryOp which, const Tensor& a, const Tensor& b, const char* name) {
  sameDevice(a, b, name);
  Shape shape = broadcastShapes(a.shape, b.shape, name);
  Dtype t = promote(a.dtype, b.dtype);
  Tensor y = empty(shape, t, a.device());
  Tensor x = a.dtype == t ? a : cast(a, t), z = b.dtype == t ? b : cast(b, t);
  kernels(a.device()).binary(which, broadcastTo(x, shape, name), broadcastTo(z, shape, name), y);
  return y;
}
#define ROW(name, F) \
  OP(Tensor, name, (const Tensor& a, const Tensor& b)) { return apply(BinaryOp::name, a, b, #name); }
BINARY(ROW)
#undef ROW

static Tensor apply(CompareOp which, const Tensor& a, const Tensor& b, const char* name) {
  sameDevice(a, b, name);
  Shape shape = broadcastShapes(a.shape, b.shape, name);
  Dtype t = promote(a.dtype, b.dtype);
  Tensor y = empty(shape, Dtype::boolean, a.device());
  Tensor x = a.dtype == t ? a : cast(a, t), z = b.dtype == t ? b : cast(b, t);
  kernels(a.device()).compare(which, broadcastTo(x, shape, name), broadcastTo(z, shape, name), y);
  return y;
}
#define ROW(name, F) \
  OP(Tensor, name, (const Tensor& a, const Tensor& b)) { return apply(CompareOp::name, a, b, #name); }
COMPARE(ROW)
#undef ROW

OP(void, accumulate, (const Tensor& x, const Tensor& y)) {
  check(x.shape == y.shape, "accumulate: x is ", x.shape, " but should have the shape of y, ", y.shape);
  kernels(y.device()).accumulate(x.dtype == y.dtype ? x : cast(x, y.dtype), y);
}
