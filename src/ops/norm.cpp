// RMSNorm and LayerNorm over the last axis.
#include "ops/op.h"

namespace {

void checkFloat(const Tensor& x, const char* op) {
  check(isFloat(x.dtype), op, ": x is ", x.dtype, ", but should be a floating-point tensor");
  check(x.shape.rank > 0, op, ": x should have at least one axis");
}

// What is added to x, as the kernels take it.
Tensor residualFor(const Tensor& x, const Tensor& residual, const char* op) {
  sameDevice(x, residual, op);
  check(residual.shape == x.shape && residual.dtype == x.dtype, op, ": residual is ", residual.dtype, " ",
        residual.shape, " but x is ", x.dtype, " ", x.shape);
  return contiguous(residual);
}

// A small parameter in the compute type of x, or nothing.
View parameter(const std::optional<Tensor>& given, const Tensor& x, const char* op, const char* name, Tensor& kept) {
  if (!given) return {};
  check(given->shape == Shape{x.cols()}, op, ": ", name, " is ", given->shape, " but rows of x have ", x.cols());
  sameDevice(*given, x, op);
  kept = cast(*given, computeDtype(x.dtype));
  return kept;
}

Tensor gradientLike(const Tensor& dy, const Tensor& x, const char* op) {
  check(dy.shape == x.shape, op, ": the gradient is ", dy.shape, " but x is ", x.shape);
  return cast(dy, x.dtype);
}

Tensor statistics(const Tensor& x) {
  return empty(x.shape.without(x.shape.rank - 1), computeDtype(x.dtype), x.device());
}

}  // namespace

// y and what the gradient needs: one over the root mean square of each row.
using Normed = std::tuple<Tensor, Tensor>;
OP(Normed, rmsNorm, (const Tensor& x, const std::optional<Tensor>& weight, double eps)) {
  checkFloat(x, "rmsNorm");
  Tensor in = contiguous(x), y = empty(x.shape, x.dtype, x.device()), rstd = statistics(x), w;
  kernels(x.device()).rmsNorm(in, {}, parameter(weight, x, "rmsNorm", "weight", w), eps, {}, y, rstd);
  return {y, rstd};
}

// sum = x + residual, and its norm.
using NormedSum = std::tuple<Tensor, Tensor, Tensor>;
OP(NormedSum, addRmsNorm, (const Tensor& x, const Tensor& residual, const std::optional<Tensor>& weight, double eps)) {
  checkFloat(x, "addRmsNorm");
  Tensor in = contiguous(x), more = residualFor(x, residual, "addRmsNorm"), rstd = statistics(x), w;
  Tensor sum = empty(x.shape, x.dtype, x.device()), y = empty(x.shape, x.dtype, x.device());
  kernels(x.device()).rmsNorm(in, more, parameter(weight, x, "addRmsNorm", "weight", w), eps, sum, y, rstd);
  return {sum, y, rstd};
}

// dx (with dsum added, if given) and dweight, in the compute type; dweight is empty if not wanted.
OP(Normed, rmsNormGrad,
   (const Tensor& x, const std::optional<Tensor>& weight, const Tensor& rstd, const Tensor& dy,
    const std::optional<Tensor>& dsum, bool wantWeight)) {
  Tensor in = contiguous(x), d = gradientLike(dy, x, "rmsNormGrad"), w, more;
  Tensor dx = empty(x.shape, x.dtype, x.device());
  Tensor dw = empty(Shape{wantWeight ? x.cols() : 0}, computeDtype(x.dtype), x.device());
  if (dsum) more = gradientLike(*dsum, x, "rmsNormGrad");
  kernels(x.device())
      .rmsNormGrad(in, parameter(weight, x, "rmsNormGrad", "weight", w), rstd, d, dsum ? View(more) : View{}, dx,
                   wantWeight ? View(dw) : View{});
  return {dx, dw};
}

// y, and the mean and reciprocal deviation of each row.
OP(NormedSum, layerNorm,
   (const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, double eps)) {
  checkFloat(x, "layerNorm");
  Tensor in = contiguous(x), y = empty(x.shape, x.dtype, x.device()), mean = statistics(x), rstd = statistics(x), w, b;
  kernels(x.device())
      .layerNorm(in, {}, parameter(weight, x, "layerNorm", "weight", w), parameter(bias, x, "layerNorm", "bias", b),
                 eps, {}, y, mean, rstd);
  return {y, mean, rstd};
}

// sum = x + residual, its norm, and the mean and reciprocal deviation of each row.
using CentredSum = std::tuple<Tensor, Tensor, Tensor, Tensor>;
OP(CentredSum, addLayerNorm,
   (const Tensor& x, const Tensor& residual, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    double eps)) {
  const char* op = "addLayerNorm";
  checkFloat(x, op);
  Tensor in = contiguous(x), more = residualFor(x, residual, op), mean = statistics(x), rstd = statistics(x), w, b;
  Tensor sum = empty(x.shape, x.dtype, x.device()), y = empty(x.shape, x.dtype, x.device());
  kernels(x.device())
      .layerNorm(in, more, parameter(weight, x, op, "weight", w), parameter(bias, x, op, "bias", b), eps, sum, y, mean,
                 rstd);
  return {sum, y, mean, rstd};
}

// dx (with dsum added, if given), dweight and dbias; the last two are empty if not wanted.
OP(NormedSum, layerNormGrad,
   (const Tensor& x, const std::optional<Tensor>& weight, const Tensor& mean, const Tensor& rstd, const Tensor& dy,
    const std::optional<Tensor>& dsum, bool wantWeight, bool wantBias)) {
  Tensor in = contiguous(x), d = gradientLike(dy, x, "layerNormGrad"), w, more;
  Tensor dx = empty(x.shape, x.dtype, x.device());
  Tensor dw = empty(Shape{wantWeight ? x.cols() : 0}, computeDtype(x.dtype), x.device());
  Tensor db = empty(Shape{wantBias ? x.cols() : 0}, computeDtype(x.dtype), x.device());
  if (dsum) more = gradientLike(*dsum, x, "layerNormGrad");
  kernels(x.device())
      .layerNormGrad(in, parameter(weight, x, "layerNormGrad", "weight", w), mean, rstd, d, dsum ? View(more) : View{},
                     dx, wantWeight ? View(dw) : View{}, wantBias ? View(db) : View{});
  return {dx, dw, db};
}
