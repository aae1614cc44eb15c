// For tests: products with a polynomial step, of one kernel or the other.
#include "gemm.h"
#include "ops/op.h"

namespace {

using cuda::PolyStep;

const void* dataOf(const std::optional<Tensor>& x) { return x ? View(*x).data : nullptr; }

cuda::Operand operand(const Tensor& x) {
  const int r = x.shape.rank;
  const MatrixLayout l = matrixLayout(x.shape[r - 2], x.shape[r - 1], x.stride[r - 2], x.stride[r - 1]);
  check(l.readable, "testPolyProduct: an operand cannot be read where it lies");
  return {View(x).data, l.step, l.transposed};
}
PolyStep stepOf(const std::string& name) {
  for (auto [known, step] : {std::pair{"relu", PolyStep::relu},
                             {"reluGrad", PolyStep::reluGrad},
                             {"squares", PolyStep::squares},
                             {"normInside", PolyStep::normInside}})
    if (name == known) return step;
  throw Error("testPolyProduct: there is no step " + name, "ERR_INVALID");
}

}  // namespace

// In place: y (m, n) and what the step writes besides, of a (m, k) and b (k, n), or (groups, k, n) with offsets.
// beside: h or pre. False: there is no kernel for this product.
OP(bool, testPolyProduct,
   (const std::string& kernel, const std::string& step, const Tensor& a, const Tensor& b, const Tensor& y,
    int64_t order, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& beside, const std::optional<Tensor>& norms, const std::optional<Tensor>& kept,
    const std::optional<Tensor>& sums, const std::optional<Tensor>& offsets)) {
  cuda::Product p;
  p.type = a.dtype, p.out = y.dtype;
  p.m = (int)y.shape[0], p.n = (int)y.shape[1], p.k = (int)a.shape[1];
  p.a = operand(a), p.b = operand(b);
  p.y = View(y).data, p.yStep = y.stride[0];
  if (offsets) {
    p.grouped = cuda::Grouped::rows;
    p.offsets = View(*offsets).as<int32_t>();
    p.groups = (int)offsets->shape[0] - 1, p.groupStride = b.stride[0];
    p.failure = cuda::failure(sentence::offsetsOfRows, "testPolyProduct");
  }
  cuda::PolyPart& poly = p.poly;
  poly.step = stepOf(step), poly.order = (int)order;
  if (weight) {
    poly.weight = View(*weight).as<float>(), poly.bias = (const float*)dataOf(bias);
    poly.sets = weight->shape.rank > 1 ? (int)weight->shape[0] : 1;
  }
  (poly.step == PolyStep::relu ? p.pre : const_cast<void*&>(poly.h)) = const_cast<void*>(dataOf(beside));
  poly.norms = (const float*)dataOf(norms);
  poly.kept = const_cast<void*>(dataOf(kept));
  poly.sums = (float*)const_cast<void*>(dataOf(sums));
  check(kernel == "sm_80" || kernel == "sm_90", "testPolyProduct: there is no kernel ", kernel);
  const bool old = kernel == "sm_80";
  if (!(old ? cuda::polyOnSm80(p) : cuda::polyOnSm90(p))) return false;
  old ? cuda::gemmPolySm80(p) : cuda::gemmPolySm90(p);
  return true;
}
