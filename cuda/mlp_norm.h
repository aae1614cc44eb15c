#pragma once
// What a feed-forward layer around a polynomial activation does beside its products.
#include "gemm.h"
#include "kernels.h"

namespace cuda {

// Whether polynomial steps of this kind are compiled: exact orders, because a coefficient of zero would make a NaN of
// an infinite x.
inline bool polyCompiled(Dtype type, int order) {
  return type == Dtype::bfloat16 ? order >= 2 && order <= 4 : type == Dtype::float16 && order == 3;
}

// norms (rows, order + 1) of h (rows, H) from the sums that a product with PolyStep::squares left, of `parts` a row;
// without them from h itself. Rows whose powers leave the range of float are read again, scaled.
void polyNorms(const View& h, const float* sums, int parts, double eps, const View& norms);

// The coefficients' gradients from what PolyStep::reluGrad left, `parts` for each band of rows.
void joinBands(const float* sums, int parts, const Product& p, const View& dweight, const View& dbias);

}  // namespace cuda
