// Cross-entropy of logits and class numbers.
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

OP(Tensor, crossEntropyGrad,
   (const Tensor& logits, const Tensor& targets, int64_t ignore, const Tensor& stats, const Tensor& dy)) {
  check(dy.size() == 1, "crossEntropyGrad: the gradient is ", dy.shape, " but the loss has one element");
  Tensor dlogits = empty(logits.shape, logits.dtype, logits.device());
  kernels(logits.device())
      .crossEntropyGrad(contiguous(logits), contiguous(targets), ignore, stats, contiguous(dy), dlogits);
  return dlogits;
}
