#pragma once
// PolyNorm between two products that do its sums: what is left to do for each row, and for each element.
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

// In place: dh, which holds dy, becomes the gradient of h, and y is polyNorm(h). sums: as PolyStep::products left them.
void polyNormPass(const View& h, const View& norms, const float* sums, int parts, const View& weight, const View& bias,
                  const View& offsets, const View& dh, const View& y, const View& dweight, const View& dbias);

// The coefficients' gradients from what PolyStep::reluGrad left: of tiles of `polyTile` rows and columns.
void joinTiles(const float* sums, const Product& p, const View& dweight, const View& dbias);

}  // namespace cuda
