// Functions of one or two tensors, element by element, with NumPy's broadcasting.
#include <cmath>

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
  kernels(x.device()).unaryGrad(which, x, dy.dtype == x.dtype ? dy : cast(dy, x.dtype), dx);
  return dx;
}

#define ROW(name, F)                                                             \
  OP(Tensor, name, (const Tensor& x)) { return apply(UnaryOp::name, x, #name); } \
  OP(Tensor, name##Grad, (const Tensor& x, const Tensor& dy)) { return applyGrad(UnaryOp::name, x, dy, #name); }
UNARY(ROW)
#undef ROW

// A quotient of integers is a float.
static Dtype resultOf(BinaryOp which, Dtype t) { return which == BinaryOp::div && !isFloat(t) ? Dtype::float32 : t; }

static Tensor as(const Tensor& x, Dtype t, const Shape& shape, const char* name) {
  return broadcastTo(x.dtype == t ? x : cast(x, t), shape, name);
}

static Tensor apply(BinaryOp which, const Tensor& a, const Tensor& b, const char* name) {
  sameDevice(a, b, name);
  Shape shape = broadcastShapes(a.shape, b.shape, name);
  Dtype t = resultOf(which, promote(a.dtype, b.dtype));
  Tensor y = empty(shape, t, a.device());
  kernels(a.device()).binary(which, as(a, t, shape, name), as(b, t, shape, name), y);
  return y;
}
// An integer tensor with a fraction is a float; a bool with a number is an int32.
static Tensor apply(BinaryOp which, const Tensor& x, double value, bool first) {
  Dtype t = x.dtype;
  if (!isFloat(t) && value != std::floor(value)) t = Dtype::float32;
  if (t == Dtype::boolean) t = Dtype::int32;
  t = resultOf(which, t);
  Tensor y = empty(x.shape, t, x.device());
  kernels(x.device()).binaryScalar(which, x.dtype == t ? x : cast(x, t), value, first, y);
  return y;
}
static Tensor applyGrad(BinaryOp which, bool first, const Tensor& a, const Tensor& b, const Tensor& dy,
                        const char* name) {
  check(isFloat(dy.dtype), name, ": the gradient is ", dy.dtype, ", but should be a floating-point tensor");
  check(broadcastShapes(a.shape, b.shape, name) == dy.shape, name, ": the gradient is ", dy.shape, " for operands of ",
        a.shape, " and ", b.shape);
  Tensor d = empty(dy.shape, dy.dtype, dy.device());
  kernels(dy.device())
      .binaryGrad(which, first, as(a, dy.dtype, dy.shape, name), as(b, dy.dtype, dy.shape, name), dy, d);
  return d;
}
#define ROW(name, F)                                                                                  \
  OP(Tensor, name, (const Tensor& a, const Tensor& b)) { return apply(BinaryOp::name, a, b, #name); } \
  OP(Tensor, name##Scalar, (const Tensor& x, double value, bool first)) {                             \
    return apply(BinaryOp::name, x, value, first);                                                    \
  }                                                                                                   \
  OP(Tensor, name##Grad, (bool first, const Tensor& a, const Tensor& b, const Tensor& dy)) {          \
    return applyGrad(BinaryOp::name, first, a, b, dy, #name);                                         \
  }
BINARY(ROW)
#undef ROW

static Tensor apply(CompareOp which, const Tensor& a, const Tensor& b, const char* name) {
  sameDevice(a, b, name);
  Shape shape = broadcastShapes(a.shape, b.shape, name);
  Dtype t = promote(a.dtype, b.dtype);
  Tensor y = empty(shape, Dtype::boolean, a.device());
  kernels(a.device()).compare(which, as(a, t, shape, name), as(b, t, shape, name), y);
  return y;
}
static Tensor apply(CompareOp which, const Tensor& x, double value) {
  Tensor y = empty(x.shape, Dtype::boolean, x.device());
  kernels(x.device()).compareScalar(which, x, value, y);
  return y;
}
#define ROW(name, F)                                                                                   \
  OP(Tensor, name, (const Tensor& a, const Tensor& b)) { return apply(CompareOp::name, a, b, #name); } \
  OP(Tensor, name##Scalar, (const Tensor& x, double value)) { return apply(CompareOp::name, x, value); }
COMPARE(ROW)
#undef ROW

OP(Tensor, where, (const Tensor& condition, const Tensor& a, const Tensor& b)) {
  sameDevice(condition, a, "where");
  sameDevice(a, b, "where");
  Shape shape = broadcastShapes(condition.shape, broadcastShapes(a.shape, b.shape, "where"), "where");
  Dtype t = promote(a.dtype, b.dtype);
  Tensor y = empty(shape, t, a.device());
  kernels(a.device())
      .where(as(condition, Dtype::boolean, shape, "where"), as(a, t, shape, "where"), as(b, t, shape, "where"), y);
  return y;
}

OP(Tensor, clamp, (const Tensor& x, double low, double high)) {
  Tensor y = emptyLike(x);
  kernels(x.device()).clamp(x, low, high, y);
  return y;
}
OP(Tensor, clampGrad, (const Tensor& x, const Tensor& dy, double low, double high)) {
  check(dy.shape == x.shape, "clamp: the gradient is ", dy.shape, " but x is ", x.shape);
  Tensor dx = emptyLike(x);
  kernels(x.device()).clampGrad(x, dy.dtype == x.dtype ? dy : cast(dy, x.dtype), low, high, dx);
  return dx;
}

OP(void, accumulate, (const Tensor& x, const Tensor& y)) {
  check(x.shape == y.shape, "accumulate: x is ", x.shape, " but should have the shape of y, ", y.shape);
  kernels(y.device()).accumulate(x.dtype == y.dtype ? x : cast(x, y.dtype), y);
}

OP(Tensor, swiglu, (const Tensor& gate, const Tensor& up)) {
  sameDevice(gate, up, "swiglu");
  check(isFloat(gate.dtype), "swiglu: gate is ", gate.dtype, ", but should be a floating-point tensor");
  check(gate.shape == up.shape, "swiglu: gate is ", gate.shape, " but up is ", up.shape);
  Tensor y = emptyLike(gate);
  kernels(gate.device()).swiglu(contiguous(gate), cast(up, gate.dtype), y);
  return y;
}

using Pair = std::tuple<Tensor, Tensor>;
OP(Pair, swigluGrad, (const Tensor& gate, const Tensor& up, const Tensor& dy)) {
  check(dy.shape == gate.shape, "swigluGrad: the gradient is ", dy.shape, " but gate is ", gate.shape);
  Tensor dgate = emptyLike(gate), dup = emptyLike(gate);
  kernels(gate.device()).swigluGrad(contiguous(gate), cast(up, gate.dtype), cast(dy, gate.dtype), dgate, dup);
  return {dgate, dup};
}
