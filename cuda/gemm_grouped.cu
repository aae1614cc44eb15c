// Products of groups of rows, each with its own matrix: the layers of experts, and the gradients of their weights.
#include "gemm.h"
#include "kernels.h"
#include "stream.h"

namespace cuda {

Product productOf(const View& x, const View& w, const View& offsets, const View& y, const char* op) {
  Product p;
  p.type = x.dtype, p.out = y.dtype;
  p.m = (int)x.shape[0], p.n = (int)y.shape[1], p.k = (int)x.shape[1];
  const int r = w.rank;
  const MatrixLayout lw = matrixLayout(w.shape[r - 2], w.shape[r - 1], w.stride[r - 2], w.stride[r - 1]);
  p.a = {x.data, p.k, false};
  p.b = {w.data, lw.step, lw.transposed};
  p.y = y.data, p.yStep = p.n;
  if (offsets.given()) {
    p.grouped = Grouped::rows;
    p.offsets = offsets.as<int32_t>();
    p.groups = (int)w.shape[0], p.groupStride = w.stride[0];
    p.failure = failure(sentence::offsetsOfRows, op);
  }
  return p;
}

void groupedMatmul(View x, View w, View offsets, View y) { multiply(productOf(x, w, offsets, y, "groupedMatmul")); }

void groupedMatmulGradWeight(View x, View dy, View offsets, View dw, bool add) {
  Product p;
  p.beta = add ? 1 : 0;
  p.type = x.dtype, p.out = dw.dtype;
  p.m = (int)dw.shape[1], p.n = (int)dw.shape[2], p.k = (int)x.shape[0];
  p.a = {dy.data, p.m, true};
  p.b = {x.data, p.n, false};
  p.y = dw.data, p.yStep = p.n;
  p.grouped = Grouped::depth;
  p.offsets = offsets.as<int32_t>();
  p.groups = (int)dw.shape[0], p.groupStride = (int64_t)p.m * p.n;
  p.failure = failure(sentence::offsetsOfRows, "groupedMatmul");
  multiply(p);
}

}  // namespace cuda
