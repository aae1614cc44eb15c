// PolyNorm(gate) * up, the product taken before the one rounding.
#include "poly_norm.cuh"

namespace cuda {

void polyNormGlu(View gate, View up, View weight, View bias, View offsets, double eps, View y) {
  polyNormRows<true, false>("polyNormGlu", {gate, up, weight, bias, offsets, eps, {}, y});
}

}  // namespace cuda
