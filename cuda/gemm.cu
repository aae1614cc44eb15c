// The row matmul, and what is done with a product whose depth was cut in parts.
#include "gemm.h"

#include "kernels.h"
#include "launch.cuh"

namespace cuda {
namespace {

// An axis that only a and y have may lengthen m, one that is summed may lengthen k.
bool intoRows(Product& p, const BatchAxis& axis, int64_t& aRow, int64_t aCol) {
  if (axis.b != 0 || axis.y != p.m * p.yStep || (int64_t)p.m * axis.length >= INT32_MAX) return false;
  const int64_t row = p.m == 1 ? axis.a : aRow;
  if (axis.a != p.m * row || !matrixLayout((int64_t)p.m * axis.length, p.k, row, aCol).readable) return false;
  aRow = row;
  p.m *= axis.length;
  return true;
}
bool intoDepth(Product& p, const BatchAxis& axis, int64_t aRow, int64_t& aCol, int64_t& bRow, int64_t bCol) {
  const int64_t col = p.k == 1 ? axis.a : aCol, row = p.k == 1 ? axis.b : bRow, k = (int64_t)p.k * axis.length;
  if (axis.a != p.k * col || axis.b != p.k * row || k >= INT32_MAX) return false;
  if (!matrixLayout(p.m, k, aRow, col).readable || !matrixLayout(k, p.n, row, bCol).readable) return false;
  aCol = col, bRow = row;
  p.k = (int)k;
  return true;
}

}  // namespace

void matmul(View a, View b, View y, double alpha, double beta) {
  Product p;
  p.type = a.dtype, p.out = y.dtype;
  p.alpha = alpha, p.beta = beta;
  p.y = y.data;
  const int r = y.rank;
  p.m = (int)y.shape[r - 2], p.n = (int)y.shape[r - 1], p.k = (int)a.shape[r - 1];
  p.yStep = p.m > 1 ? y.stride[r - 2] : p.n;
  int64_t aRow = a.stride[r - 2], aCol = a.stride[r - 1], bRow = b.stride[r - 2], bCol = b.stride[r - 1];
  BatchAxis summed[maxRank];
  for (int i = r - 3; i >= 0; i--) {  // the innermost first
    if (y.shape[i] == 1) continue;
    const BatchAxis axis{(int)y.shape[i], a.stride[i], b.stride[i], y.stride[i]};
    if (axis.y ? intoRows(p, axis, aRow, aCol) : intoDepth(p, axis, aRow, aCol, bRow, bCol)) continue;
    (axis.y ? p.axes[p.kept++] : summed[p.summed++]) = axis;
    (axis.y ? p.batch : p.sums) *= axis.length;
  }
  for (int i = 0; i < p.summed; i++) p.axes[p.kept + i] = summed[i];
  const MatrixLayout la = matrixLayout(p.m, p.k, aRow, aCol), lb = matrixLayout(p.k, p.n, bRow, bCol);
  p.a = {a.data, la.step, la.transposed};
  p.b = {b.data, lb.step, lb.transposed};
  multiply(p);
}

int copyWidth(const Product& p, bool ofA) {
  const Operand& x = ofA ? p.a : p.b;
  uint64_t all = (uintptr_t)x.data | (uint64_t)x.step * 2;
  for (int i = 0; i < p.kept + p.summed; i++) all |= (uint64_t)(ofA ? p.axes[i].a : p.axes[i].b) * 2;
  if (!ofA && p.grouped == Grouped::rows) all |= (uint64_t)p.groupStride * 2;
  return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 2;
}

void multiply(const Product& given) {
  Product p = given;
  uint64_t all = (uintptr_t)p.y | (uintptr_t)p.bias | (uintptr_t)p.pre | (uintptr_t)p.residual | (uint64_t)p.yStep * 2;
  for (int i = 0; i < p.kept; i++) all |= (uint64_t)p.axes[i].y * 2;
  if (p.grouped == Grouped::depth) all |= (uint64_t)p.groupStride * 2;
  p.packs = all % 16 == 0;
  if (p.type == Dtype::float32 || p.type == Dtype::float64)
    gemmFloat(p);
  else if (!gemmSm90(p))
    gemmSm80(p, p.m > 64 && p.n > 128 ? TensorTile::large : p.m > 64 ? TensorTile::medium : TensorTile::small);
}

}  // namespace cuda
