// Sums, means and extremes over some axes, or over all.
#include <cmath>

#include "ops/op.h"

// The shape of x with length 1 on the axes (all of them if none are given).
static Shape reducedShape(const Tensor& x, const std::optional<Shape>& axes, const char* name) {
  Shape kept = x.shape;
  if (!axes) {
    for (int i = 0; i < kept.rank; i++) kept[i] = 1;
    return kept;
  }
  bool seen[maxRank] = {};
  for (int64_t one : *axes) {
    int axis = axisOf(one, x.shape.rank, name);
    check(!seen[axis], name, ": axis ", one, " is given twice");
    seen[axis] = true;
    kept[axis] = 1;
  }
  return kept;
}

static Tensor without(const Tensor& y, const Tensor& x, const std::optional<Shape>& axes, const char* name) {
  Shape shape;
  if (axes) {
    bool reduced[maxRank] = {};
    for (int64_t one : *axes) reduced[axisOf(one, x.shape.rank, name)] = true;
    for (int i = 0; i < x.shape.rank; i++)
      if (!reduced[i]) shape.push(x.shape[i]);
  }
  return window(y, shape, shape.strides(), 0);
}

static Tensor apply(ReduceOp op, const Tensor& x, const std::optional<Shape>& axes, bool keepdims, const char* name) {
  bool total = op == ReduceOp::sum || op == ReduceOp::mean;
  check(op != ReduceOp::mean || isFloat(x.dtype), name, ": x is ", x.dtype, ", but should be a floating-point tensor");
  Shape kept = reducedShape(x, axes, name);
  for (int i = 0; i < kept.rank; i++)
    check(total || kept[i] == x.shape[i] || x.shape[i] > 0, name, ": axis ", i, " of ", x.shape, " has no elements");
  Dtype t = total && !isFloat(x.dtype) ? Dtype::int64 : x.dtype;
  Tensor y = empty(kept, t, x.device());
  kernels(x.device()).reduce(op, x, y);
  return keepdims ? y : without(y, x, axes, name);
}

OP(Tensor, sum, (const Tensor& x, const std::optional<Shape>& axes, bool keepdims)) {
  return apply(ReduceOp::sum, x, axes, keepdims, "sum");
}
OP(Tensor, mean, (const Tensor& x, const std::optional<Shape>& axes, bool keepdims)) {
  return apply(ReduceOp::mean, x, axes, keepdims, "mean");
}
OP(Tensor, max, (const Tensor& x, const std::optional<Shape>& axes, bool keepdims)) {
  return apply(ReduceOp::max, x, axes, keepdims, "max");
}
OP(Tensor, min, (const Tensor& x, const std::optional<Shape>& axes, bool keepdims)) {
  return apply(ReduceOp::min, x, axes, keepdims, "min");
}

// A reduction's gradient, or result, seen in the shape of what was reduced.
OP(Tensor, spread, (const Tensor& y, const Shape& shape, const std::optional<Shape>& axes)) {
  Tensor x = window(y, shape, shape, 0);
  Shape kept = reducedShape(x, axes, "spread");
  check(y.size() == kept.count(), "spread: ", y.shape, " is not a reduction of ", shape);
  return broadcastTo(window(contiguous(y), kept, kept.strides(), y.contiguous() ? y.offset : 0), shape, "spread");
}

// The gradient of max and min: what arrives is shared evenly by the elements that are the extreme.
OP(Tensor, extremeGrad, (const Tensor& x, const Tensor& y, const Tensor& dy, const std::optional<Shape>& axes)) {
  const Kernels& k = kernels(x.device());
  Tensor isExtreme = empty(x.shape, Dtype::boolean, x.device());
  k.compare(CompareOp::eq, x, spread(y, x.shape, axes), isExtreme);
  Tensor hit = ::cast(isExtreme, x.dtype), count = empty(y.shape, x.dtype, x.device()), share = emptyLike(count);
  Shape kept = reducedShape(x, axes, "extremeGrad");
  k.reduce(ReduceOp::sum, hit, window(count, kept, kept.strides(), 0));
  k.binary(BinaryOp::div, dy.dtype == x.dtype ? dy : ::cast(dy, x.dtype), count, share);
  Tensor dx = emptyLike(x);
  k.binary(BinaryOp::mul, hit, spread(share, x.shape, axes), dx);
  return dx;
}

// The sum over the axes along which `shape` would be repeated to become x.
OP(Tensor, sumTo, (const Tensor& x, const Shape& shape)) {
  if (x.shape == shape) return x;
  int lead = x.shape.rank - shape.rank;
  Shape kept = x.shape;
  for (int i = 0; i < x.shape.rank; i++) {
    int64_t want = i < lead ? 1 : shape[i - lead];
    check(lead >= 0 && (want == x.shape[i] || want == 1), "sumTo: ", shape, " cannot be broadcast to ", x.shape);
    kept[i] = want;
  }
  check(isFloat(x.dtype), "sumTo: x is ", x.dtype, ", but should be a floating-point tensor");
  Tensor y = empty(kept, x.dtype, x.device());
  kernels(x.device()).reduce(ReduceOp::sum, x, y);
  return window(y, shape, shape.strides(), 0);
}

// The index of the largest element along an axis, or of all in row-major order; int32; the first of several.
OP(Tensor, argmax, (const Tensor& x, std::optional<int64_t> axis, bool keepdims)) {
  int rank = x.shape.rank, at = axis ? axisOf(*axis, rank, "argmax") : 0;
  int64_t length = axis ? x.shape[at] : x.size();
  check(length > 0, "argmax: there is nothing to choose from in ", x.shape);
  check(length <= INT32_MAX, "argmax: ", length, " elements do not fit int32 indices");
  Shape kept = x.shape;
  Tensor rows = x;
  if (axis) {
    kept[at] = 1;
    for (int i = at; i + 1 < rank; i++) {
      std::swap(rows.shape[i], rows.shape[i + 1]);
      std::swap(rows.stride[i], rows.stride[i + 1]);
    }
  } else {
    for (int i = 0; i < rank; i++) kept[i] = 1;
    rows = contiguous(x);
    rows = window(rows, {length}, {1}, rows.offset);
  }
  Tensor y = empty(kept, Dtype::int32, x.device());
  kernels(x.device()).argmax(contiguous(rows), y);
  return keepdims ? y : without(y, x, axis ? std::optional(Shape{*axis}) : std::nullopt, "argmax");
}
