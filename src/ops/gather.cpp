// Elements chosen by index, ranked, and added up along an axis.
#include "ops/op.h"

static void checkIndices(const Tensor& ids, const char* name, const char* list) {
  check(ids.dtype == Dtype::int32 || ids.dtype == Dtype::int64 || ids.dtype == Dtype::uint8, name, ": ", list, " is ",
        ids.dtype, ", but should be int32, int64 or uint8");
}

// x seen with one axis moved to the end.
static Tensor toEnd(const Tensor& x, int axis) {
  Tensor y = x;
  for (int i = axis; i + 1 < x.shape.rank; i++) {
    std::swap(y.shape[i], y.shape[i + 1]);
    std::swap(y.stride[i], y.stride[i + 1]);
  }
  return y;
}
// ... and back from there.
static Tensor fromEnd(const Tensor& x, int axis) {
  Tensor y = x;
  for (int i = x.shape.rank - 1; i > axis; i--) {
    std::swap(y.shape[i], y.shape[i - 1]);
    std::swap(y.stride[i], y.stride[i - 1]);
  }
  return y;
}

static Tensor zeros(const Shape& shape, Dtype dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  kernels(device).fill(t, 0);
  return t;
}

// The part of x that has the shape of index on all axes but one.
static Tensor beside(const Tensor& x, const Tensor& index, int axis, const char* name) {
  bool fits = x.shape.rank == index.shape.rank;
  Tensor part = x;
  for (int i = 0; fits && i < x.shape.rank; i++) {
    if (i == axis) continue;
    fits = index.shape[i] <= x.shape[i];
    part.shape[i] = index.shape[i];
  }
  check(fits, name, ": index is ", index.shape, ", but should fit within x, ", x.shape, ", except on axis ", axis);
  return part;
}

// y[.., i, ..] = x[.., index[.., i, ..], ..] along the axis.
OP(Tensor, gather, (const Tensor& x, int64_t axis, const Tensor& index)) {
  checkIndices(index, "gather", "index");
  sameDevice(x, index, "gather");
  int at = axisOf(axis, x.shape.rank, "gather");
  Tensor part = beside(x, index, at, "gather"), y = empty(index.shape, x.dtype, x.device());
  int64_t inner = 1;
  for (int i = at + 1; i < index.shape.rank; i++) inner *= index.shape[i];
  if (y.size()) kernels(x.device()).gather(toEnd(part, at), contiguous(toEnd(index, at)), inner, toEnd(y, at));
  return y;
}

OP(Tensor, gatherGrad, (const Tensor& dy, int64_t axis, const Tensor& index, const Shape& shape)) {
  int at = axisOf(axis, shape.rank, "gather");
  Tensor dx = zeros(shape, computeDtype(dy.dtype), dy.device());
  if (dy.size())
    kernels(dy.device())
        .scatterAdd(contiguous(toEnd(index, at)), toEnd(dy, at), toEnd(beside(dx, index, at, "gatherGrad"), at));
  return cast(dx, dy.dtype);
}

// Contiguous x as (before, axis, behind).
static Tensor asThree(const Tensor& x, int axis) {
  Shape three = {1, x.shape[axis], 1};
  for (int i = 0; i < x.shape.rank; i++)
    if (i != axis) three[i < axis ? 0 : 2] *= x.shape[i];
  return window(x, three, three.strides(), x.offset);
}

OP(Tensor, indexSelect, (const Tensor& x, int64_t axis, const Tensor& ids)) {
  checkIndices(ids, "indexSelect", "ids");
  check(ids.shape.rank == 1, "indexSelect: ids are ", ids.shape, ", but should have one axis");
  sameDevice(x, ids, "indexSelect");
  int at = axisOf(axis, x.shape.rank, "indexSelect");
  Shape shape = x.shape;
  shape[at] = ids.size();
  Tensor y = empty(shape, x.dtype, x.device());
  if (y.size()) kernels(x.device()).indexSelect(asThree(contiguous(x), at), contiguous(ids), asThree(y, at));
  return y;
}

OP(Tensor, indexSelectGrad, (const Tensor& dy, int64_t axis, const Tensor& ids, const Shape& shape)) {
  int at = axisOf(axis, shape.rank, "indexSelect");
  Tensor dx = zeros(shape, computeDtype(dy.dtype), dy.device());
  if (dy.size()) kernels(dy.device()).indexAdd(contiguous(ids), asThree(contiguous(dy), at), asThree(dx, at));
  return cast(dx, dy.dtype);
}

OP(Tensor, oneHot, (const Tensor& ids, int64_t classes, Dtype dtype)) {
  checkIndices(ids, "oneHot", "ids");
  check(classes > 0, "oneHot: there are ", classes, " classes, but should be at least 1");
  Shape shape = ids.shape;
  shape.push(classes);
  Tensor y = empty(shape, dtype, ids.device());
  if (y.size()) kernels(ids.device()).oneHot(contiguous(ids), y);
  return y;
}

OP(Tensor, cumsum, (const Tensor& x, int64_t axis, bool reverse)) {
  int at = axisOf(axis, x.shape.rank, "cumsum");
  Tensor y = empty(x.shape, isFloat(x.dtype) ? x.dtype : Dtype::int64, x.device());
  if (y.size()) kernels(x.device()).cumsum(toEnd(x, at), reverse, toEnd(y, at));
  return y;
}

// The first k in order along an axis, and where they were.
using ValuesAndIndices = std::tuple<Tensor, Tensor>;
OP(ValuesAndIndices, sort, (const Tensor& x, int64_t axis, bool descending, int64_t count)) {
  int at = axisOf(axis, x.shape.rank, "sort");
  int64_t length = x.shape[at], k = count < 0 ? length : count;
  check(k <= length, "topk: k is ", k, ", but axis ", at, " of ", x.shape, " has ", length);
  check(length <= INT32_MAX, "sort: ", length, " elements do not fit int32 indices");
  Tensor rows = contiguous(toEnd(x, at));
  Shape shape = rows.shape;
  shape[shape.rank - 1] = k;
  Tensor values = empty(shape, x.dtype, x.device()), indices = empty(shape, Dtype::int32, x.device());
  if (values.size()) kernels(x.device()).sort(rows, descending, values, indices);
  return {fromEnd(values, at), fromEnd(indices, at)};
}
