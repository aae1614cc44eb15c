// Rotary position embedding.
#include <algorithm>
#include <cmath>

#include "ops/op.h"

namespace {

// x itself if the elements of its rows are adjacent, else a copy.
Tensor rowsAdjacent(const Tensor& x) { return x.stride[x.shape.rank - 1] == 1 || x.cols() == 1 ? x : contiguous(x); }

// A dense tensor of x's shape whose axes lie in memory in the order of those of `like`: the gradient of a transposed
// view can then be transposed back without a copy.
Tensor emptyInOrderOf(const Tensor& like, const Tensor& x) {
  int rank = x.shape.rank, order[maxRank];
  for (int i = 0; i < rank; i++) order[i] = i;
  std::stable_sort(order, order + rank, [&](int a, int b) { return like.stride[a] > like.stride[b]; });
  for (int i = 0; i < rank; i++)
    if (like.stride[i] == 0 && like.shape[i] > 1) return empty(x.shape, x.dtype, x.device());
  if (order[rank - 1] != rank - 1) return empty(x.shape, x.dtype, x.device());
  Tensor y = empty(x.shape, x.dtype, x.device());
  int64_t step = 1;
  for (int i = rank - 1; i >= 0; i--) {
    y.stride[order[i]] = step;
    step *= y.shape[order[i]];
  }
  return y;
}

Tensor rotated(const Tensor& x, const Tensor& table, int64_t offset, bool inverse, Tensor y, const char* op) {
  check(isFloat(x.dtype), op, ": x is ", x.dtype, ", but should be a floating-point tensor");
  check(table.shape.rank == 2 && table.cols() == x.cols() && table.dtype == computeDtype(x.dtype), op,
        ": the table is ", table.dtype, " ", table.shape, " but rows of x have ", x.cols());
  int64_t positions = x.shape[x.shape.rank - 2];
  check(offset >= 0 && offset + positions <= table.shape[0], op, ": positions ", offset, " to ", offset + positions,
        " are not all in the table of ", table.shape[0]);
  sameDevice(x, table, op);
  kernels(x.device()).rope(rowsAdjacent(x), table, offset, inverse, y);
  return y;
}

}  // namespace

OP(Tensor, ropeTable, (double theta, int64_t positions, int64_t size, Dtype dtype, Device device)) {
  check(size % 2 == 0, "rope: rows of x have ", size, " elements, but their number should be even");
  check(theta > 0 && std::isfinite(theta), "rope: theta is ", theta, ", but should be above 0");
  Tensor table = ::empty({positions, size}, computeDtype(dtype), device);
  kernels(device).ropeTable(theta, table);
  return table;
}

// x (.., T, D); row t of it stands at position offset + t.
OP(Tensor, rope, (const Tensor& x, const Tensor& table, int64_t offset)) {
  check(x.shape.rank >= 2, "rope: x is ", x.shape, ", but should be [.., T, D]");
  return rotated(x, table, offset, false, ::empty(x.shape, x.dtype, x.device()), "rope");
}

// dx for dy, laid out in memory like `like`, the x of the forward pass.
OP(Tensor, ropeGrad, (const Tensor& dy, const Tensor& table, int64_t offset, const Tensor& like)) {
  check(dy.shape == like.shape, "ropeGrad: the gradient is ", dy.shape, " but x is ", like.shape);
  Tensor d = dy.dtype == like.dtype ? dy : cast(dy, like.dtype);
  return rotated(d, table, offset, true, emptyInOrderOf(like, d), "ropeGrad");
}
