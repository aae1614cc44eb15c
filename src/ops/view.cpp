// Other ways to see a tensor's memory, and the copies where no view can do.
#include "ops/op.h"

// Strides with which x's memory reads as `shape` in the same order, if there are any.
static bool viewStrides(const Tensor& x, const Shape& shape, Shape& stride) {
  stride = shape.strides();
  if (x.size() == 0) return true;
  int to = shape.rank - 1;
  // Each group of x's axes that lie evenly in memory is divided anew.
  for (int end = x.shape.rank; end > 0;) {
    int begin = end - 1;
    int64_t count = x.shape[begin], step = x.stride[begin];
    while (begin > 0 && (x.shape[begin - 1] == 1 || count == 1 || x.stride[begin - 1] == step * count)) {
      begin--;
      if (x.shape[begin] != 1 && count == 1) step = x.stride[begin];
      count *= x.shape[begin];
    }
    int64_t filled = 1;
    for (; to >= 0 && (filled < count || shape[to] == 1); to--) {
      stride[to] = step * filled;
      filled *= shape[to];
    }
    if (filled != count) return false;
    end = begin;
  }
  for (; to >= 0; to--) stride[to] = 1;  // only axes of length 1 are left
  return true;
}

OP(Tensor, reshape, (const Tensor& x, const Shape& shape)) {
  Shape to = shape;
  int open = -1;
  int64_t known = 1;
  for (int i = 0; i < to.rank; i++) {
    if (to[i] == -1) {
      check(open < 0, "reshape: at most one axis of ", shape, " may be -1");
      open = i;
    } else {
      check(to[i] >= 0, "reshape: an axis cannot have the length ", to[i]);
      known *= to[i];
    }
  }
  if (open >= 0) {
    check(known > 0 && x.size() % known == 0, "reshape: ", x.shape, " does not fit ", shape);
    to[open] = x.size() / known;
  }
  check(to.count() == x.size(), "reshape: ", x.shape, " has ", x.size(), " elements, but ", shape, " would have ",
        to.count());
  Shape stride;
  if (viewStrides(x, to, stride)) return window(x, to, stride, x.offset);
  return window(contiguous(x), to, to.strides(), 0);
}

OP(Tensor, permute, (const Tensor& x, const Shape& axes)) {
  int rank = x.shape.rank;
  check(axes.rank == rank, "permute: ", axes, " should name each of the ", rank, " axes once");
  bool seen[maxRank] = {};
  Shape shape, stride;
  for (int64_t one : axes) {
    int axis = axisOf(one, rank, "permute");
    check(!seen[axis], "permute: ", axes, " should name each of the ", rank, " axes once");
    seen[axis] = true;
    shape.push(x.shape[axis]);
    stride.push(x.stride[axis]);
  }
  return window(x, shape, stride, x.offset);
}

OP(Tensor, transpose, (const Tensor& x, int64_t a, int64_t b)) {
  int i = axisOf(a, x.shape.rank, "transpose"), j = axisOf(b, x.shape.rank, "transpose");
  Tensor y = x;
  std::swap(y.shape[i], y.shape[j]);
  std::swap(y.stride[i], y.stride[j]);
  return y;
}

// The elements start, start + step, ... below end of one axis. `start` and `end` lie in [0, length].
static Tensor range(const Tensor& x, int axis, int64_t start, int64_t end, int64_t step) {
  Tensor y = x;
  int64_t count = end > start ? (end - start + step - 1) / step : 0;
  y.shape[axis] = count;
  if (count) y.offset += start * x.stride[axis];
  y.stride[axis] *= step;
  return y;
}

static void resolve(int64_t length, int64_t& start, int64_t& end) {
  auto bound = [&](int64_t& i) {
    if (i < 0) i += length;
    i = i < 0 ? 0 : i > length ? length : i;
  };
  bound(start), bound(end);
}

OP(Tensor, slice, (const Tensor& x, int64_t axis, int64_t start, int64_t end, int64_t step)) {
  int at = axisOf(axis, x.shape.rank, "slice");
  check(step > 0, "slice: step is ", step, ", but should be positive");
  resolve(x.shape[at], start, end);
  return range(x, at, start, end, step);
}

// dy in its place within zeros of the given shape.
OP(Tensor, sliceGrad, (const Tensor& dy, const Shape& shape, int64_t axis, int64_t start, int64_t end, int64_t step)) {
  int at = axisOf(axis, shape.rank, "slice");
  Tensor dx = empty(shape, dy.dtype, dy.device());
  kernels(dx.device()).fill(dx, 0);
  resolve(shape[at], start, end);
  Tensor part = range(dx, at, start, end, step);
  kernels(dx.device()).copy(broadcastTo(dy, part.shape, "sliceGrad"), part);
  return dx;
}

OP(Tensor, broadcastTo, (const Tensor& x, const Shape& shape)) { return ::broadcastTo(x, shape, "broadcastTo"); }

OP(Tensor, concat, (const std::vector<Tensor>& all, int64_t axis)) {
  check(!all.empty(), "concat: there should be at least one tensor");
  const Tensor& first = all[0];
  int at = axisOf(axis, first.shape.rank, "concat");
  Shape shape = first.shape;
  shape[at] = 0;
  for (size_t i = 0; i < all.size(); i++) {
    const Tensor& x = all[i];
    sameDevice(first, x, "concat");
    bool fits = x.shape.rank == shape.rank;
    for (int k = 0; fits && k < shape.rank; k++) fits = k == at || x.shape[k] == shape[k];
    check(fits, "concat: tensor ", i, " is ", x.shape, ", but should have the shape ", first.shape, " except on axis ",
          at);
    check(x.dtype == first.dtype, "concat: tensor ", i, " is ", x.dtype, ", but the first is ", first.dtype);
    shape[at] += x.shape[at];
  }
  Tensor y = empty(shape, first.dtype, first.device());
  int64_t start = 0;
  for (const Tensor& x : all) {
    if (x.size()) kernels(y.device()).copy(x, range(y, at, start, start + x.shape[at], 1));
    start += x.shape[at];
  }
  return y;
}
