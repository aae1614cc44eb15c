// The gradients of PolyNorm(gate) * up.
#include "poly_norm.cuh"

namespace cuda {

void polyNormGluGrad(View gate, View up, View weight, View bias, View offsets, double eps, View dy, View dgate,
                     View dup, View dweight, View dbias) {
  polyNormRows<true, true>("polyNormGluGrad", {gate, up, weight, bias, offsets, eps, dy, dgate, dup, dweight, dbias});
}

}  // namespace cuda
