// PolyReLU, PolyNorm and PolyNorm(gate) * up: which shapes and types are legal, and what is allocated.
#include "ops/poly.h"
#include "math/poly.h"
#include "ops/op.h"

Coefficients coefficientsFor(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                             const std::optional<Tensor>& offsets) {
  check(isFloat(x.dtype), op, ": x is ", x.dtype, ", but should be a floating-point tensor");
  sameDevice(x, weight, op);
  int64_t sets = 1;
  if (offsets) {
    sameDevice(x, *offsets, op);
    check(offsets->dtype == Dtype::int32 && offsets->shape.rank == 1 && offsets->size() >= 2, op, ": offsets is ",
          offsets->dtype, " ", offsets->shape, ", but should be int32 [experts + 1]");
    sets = offsets->size() - 1;
    check(weight.shape.rank == 2 && weight.shape[0] == sets, op, ": weight is ", weight.shape, ", but should be [",
          sets, ", order] for ", sets, " experts");
  } else {
    check(weight.shape.rank == 1, op, ": weight is ", weight.shape, ", but should be [order]");
  }
  int64_t order = weight.cols();
  check(order >= 1 && order <= poly::maxOrder, op, ": weight has ", order,
        " coefficients, but the order should be 1 to ", poly::maxOrder);
  Dtype t = computeDtype(x.dtype);
  if (!bias) return {cast(weight, t), Tensor()};
  sameDevice(x, *bias, op);
  check(bias->size() == sets && bias->shape.rank <= 1, op, ": bias is ", bias->shape, ", but should be [", sets, "]");
  return {cast(weight, t), cast(*bias, t)};
}

Tensor gradientOfBias(const Tensor& weight) {
  return empty({weight.shape.rank == 2 ? weight.shape[0] : 1}, weight.dtype, weight.device());
}

void checkEps(const char* op, double eps) { check(eps >= 0, op, ": eps is ", eps, ", but should be at least 0"); }

namespace {

View given(const std::optional<Tensor>& offsets) { return offsets ? View(contiguous(*offsets)) : View(); }

void sameShape(const char* op, const Tensor& x, const char* otherName, const Tensor& other, const char* name = "x") {
  sameDevice(x, other, op);
  check(other.shape == x.shape, op, ": ", otherName, " is ", other.shape, " but ", name, " is ", x.shape);
}

}  // namespace

using WithCoefficients = std::tuple<Tensor, Tensor, Tensor>;
using GatedWithCoefficients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

OP(Tensor, polyRelu,
   (const Tensor& x, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& offsets)) {
  Coefficients set = coefficientsFor("polyRelu", x, weight, bias, offsets);
  Tensor y = emptyLike(x);
  kernels(x.device()).polyRelu(contiguous(x), set.weight, set.bias, given(offsets), y);
  return y;
}

OP(WithCoefficients, polyReluGrad,
   (const Tensor& x, const Tensor& weight, const std::optional<Tensor>& offsets, const Tensor& dy)) {
  Coefficients set = coefficientsFor("polyReluGrad", x, weight, std::nullopt, offsets);
  sameShape("polyReluGrad", x, "the gradient", dy);
  Tensor dx = emptyLike(x), dweight = emptyLike(set.weight), dbias = gradientOfBias(set.weight);
  kernels(x.device()).polyReluGrad(contiguous(x), set.weight, given(offsets), cast(dy, x.dtype), dx, dweight, dbias);
  return {dx, dweight, dbias};
}

OP(Tensor, polyNorm,
   (const Tensor& x, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& offsets, double eps)) {
  Coefficients set = coefficientsFor("polyNorm", x, weight, bias, offsets);
  checkEps("polyNorm", eps);
  Tensor y = emptyLike(x);
  kernels(x.device()).polyNorm(contiguous(x), set.weight, set.bias, given(offsets), eps, y);
  return y;
}

OP(WithCoefficients, polyNormGrad,
   (const Tensor& x, const Tensor& weight, const std::optional<Tensor>& offsets, double eps, const Tensor& dy)) {
  Coefficients set = coefficientsFor("polyNormGrad", x, weight, std::nullopt, offsets);
  sameShape("polyNormGrad", x, "the gradient", dy);
  Tensor dx = emptyLike(x), dweight = emptyLike(set.weight), dbias = gradientOfBias(set.weight);
  kernels(x.device())
      .polyNormGrad(contiguous(x), set.weight, given(offsets), eps, cast(dy, x.dtype), dx, dweight, dbias);
  return {dx, dweight, dbias};
}

OP(Tensor, polyNormGlu,
   (const Tensor& gate, const Tensor& up, const Tensor& weight, const Tensor& bias,
    const std::optional<Tensor>& offsets, double eps)) {
  Coefficients set = coefficientsFor("polyNormGlu", gate, weight, bias, offsets);
  sameShape("polyNormGlu", gate, "up", up, "gate");
  checkEps("polyNormGlu", eps);
  Tensor y = emptyLike(gate);
  kernels(gate.device())
      .polyNormGlu(contiguous(gate), cast(up, gate.dtype), set.weight, set.bias, given(offsets), eps, y);
  return y;
}

OP(GatedWithCoefficients, polyNormGluGrad,
   (const Tensor& gate, const Tensor& up, const Tensor& weight, const Tensor& bias,
    const std::optional<Tensor>& offsets, double eps, const Tensor& dy)) {
  Coefficients set = coefficientsFor("polyNormGluGrad", gate, weight, bias, offsets);
  sameShape("polyNormGluGrad", gate, "the gradient", dy, "gate");
  Tensor dgate = emptyLike(gate), dup = emptyLike(gate), dweight = emptyLike(set.weight),
         dbias = gradientOfBias(set.weight);
  kernels(gate.device())
      .polyNormGluGrad(contiguous(gate), cast(up, gate.dtype), set.weight, set.bias, given(offsets), eps,
                       cast(dy, gate.dtype), dgate, dup, dweight, dbias);
  return {dgate, dup, dweight, dbias};
}
