// Cross-entropy of logits and class numbers.
#include <algorithm>

#include "ops/op.h"

namespace {

void checkTargets(const Tensor& targets, const Shape& rows, const Tensor& x, const char* op, const char* name) {
  check(targets.dtype == Dtype::int32 || targets.dtype == Dtype::int64 || targets.dtype == Dtype::uint8, op,
        ": targets are ", targets.dtype, ", but should be int32, int64 or uint8");
  check(targets.shape == rows, op, ": targets are ", targets.shape, " but should be ", rows, ", one for each row of ",
        name);
  sameDevice(targets, x, op);
}

}  // namespace

using LossAndStatistics = std::tuple<Tensor, Tensor>;
OP(LossAndStatistics, crossEntropy, (const Tensor& logits, const Tensor& targets, int64_t ignore)) {
  check(isFloat(logits.dtype), "crossEntropy: logits are ", logits.dtype, ", but should be floating-point");
  check(logits.shape.rank > 0, "crossEntropy: logits should have at least one axis");
  Shape rows = logits.shape.without(logits.shape.rank - 1), pairs = rows;
  checkTargets(targets, rows, logits, "crossEntropy", "the logits");
  pairs.push(2);
  Dtype t = computeDtype(logits.dtype);
  Tensor loss = empty({}, t, logits.device()), stats = empty(pairs, t, logits.device());
  kernels(logits.device()).crossEntropy(contiguous(logits), contiguous(targets), ignore, loss, stats);
  return {loss, stats};
}

// over: writes it over the logits, whose memory the result then shares.
OP(Tensor, crossEntropyGrad,
   (const Tensor& logits, const Tensor& targets, int64_t ignore, const Tensor& stats, const Tensor& dy, bool over)) {
  check(dy.size() == 1, "crossEntropyGrad: the gradient is ", dy.shape, " but the loss has one element");
  check(!over || logits.contiguous(), "crossEntropyGrad: the logits should be contiguous to be written over");
  Tensor dlogits = over ? logits : empty(logits.shape, logits.dtype, logits.device());
  kernels(logits.device())
      .crossEntropyGrad(contiguous(logits), contiguous(targets), ignore, stats, contiguous(dy), dlogits);
  return dlogits;
}

// The loss, and the gradients of x and weight in the compute type; those not wanted are empty.
using LossAndGradients = std::tuple<Tensor, Tensor, Tensor>;
OP(LossAndGradients, linearCrossEntropy,
   (const Tensor& x, const Tensor& weight, const Tensor& targets, int64_t ignore, bool wantX, bool wantWeight)) {
  check(isFloat(x.dtype) && isFloat(weight.dtype), "linearCrossEntropy: x is ", x.dtype, " and weight ", weight.dtype,
        ", but both should be floating-point");
  check(x.shape.rank > 0, "linearCrossEntropy: x should have at least one axis");
  check(weight.shape.rank == 2 && weight.cols() == x.cols(), "linearCrossEntropy: weight is ", weight.shape,
        " but rows of x have ", x.cols());
  checkTargets(targets, x.shape.without(x.shape.rank - 1), x, "linearCrossEntropy", "x");
  sameDevice(x, weight, "linearCrossEntropy");
  const int64_t rows = x.rows(), size = x.cols(), classes = weight.shape[0];
  // Measured with 8192 classes: 512 rows at a time are as fast as 1024, 256 are 7 % slower, 128 a quarter.
  int64_t most = std::max<int64_t>(512, (int64_t(4) << 20) / std::max<int64_t>(classes, 1) / 64 * 64);
  const Dtype t = computeDtype(x.dtype);
  // Tensor cores multiply bfloat16 sixteen times as fast as float32 is multiplied, and add up in float32. Each round
  // adds to all of dweight, so there are few: 1 GiB of logits, in rows that begin where copies of 16 bytes can.
  const bool narrow = x.device() != Device::cpu && x.dtype == Dtype::bfloat16 && weight.dtype == Dtype::bfloat16;
  if (narrow) most = std::max<int64_t>(1024, (int64_t(1) << 28) / std::max<int64_t>(classes, 1) / 128 * 128);
  const int64_t step = narrow ? (classes + 63) / 64 * 64 : classes;
  const Dtype made = narrow ? Dtype::bfloat16 : t;
  Tensor in = cast(x, made), w = cast(weight, made);
  in = window(in, {rows, size}, {size, 1}, in.offset);
  Tensor logits = empty({std::min(rows, most), step}, t, x.device()), loss = empty({}, t, x.device());
  if (step > classes) logits = window(logits, {std::min(rows, most), classes}, {step, 1}, 0);
  Tensor dx = empty(wantX ? x.shape : Shape{0}, t, x.device());
  Tensor dweight = empty(wantWeight ? weight.shape : Shape{0}, t, x.device());
  Tensor flat = wantX ? window(dx, {rows, size}, {size, 1}, 0) : dx;
  kernels(x.device())
      .linearCrossEntropy(in, w, contiguous(targets), ignore, logits, loss, wantX ? View(flat) : View{},
                          wantWeight ? View(dweight) : View{});
  return {loss, dx, dweight};
}
