// The gradients of PolyNorm.
#include "poly_norm.cuh"

namespace cuda {

void polyNormGrad(View x, View weight, View offsets, double eps, View dy, View dx, View dweight, View dbias) {
  polyNormRows<false, true>("polyNormGrad", {x, {}, weight, {}, offsets, eps, dy, dx, {}, dweight, dbias});
}

}  // namespace cuda
