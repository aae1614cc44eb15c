// PolyNorm: y = sum_k w_k norm(x^k) + bias.
#include "poly_norm.cuh"

namespace cuda {

void polyNorm(View x, View weight, View bias, View offsets, double eps, View y) {
  polyNormRows<false, false>("polyNorm", {x, {}, weight, bias, offsets, eps, {}, y});
}

}  // namespace cuda
