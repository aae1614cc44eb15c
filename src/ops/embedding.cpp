// Rows of a table by their numbers.
#include "ops/op.h"

OP(Tensor, embedding, (const Tensor& ids, const Tensor& weight)) {
  check(ids.dtype == Dtype::int32 || ids.dtype == Dtype::int64 || ids.dtype == Dtype::uint8, "embedding: ids are ",
        ids.dtype, ", but should be int32, int64 or uint8");
  check(weight.shape.rank == 2 && isFloat(weight.dtype), "embedding: weight is ", weight.dtype, " ", weight.shape,
        ", but should be floating-point [vocabulary, D]");
  sameDevice(ids, weight, "embedding");
  Shape shape = ids.shape;
  shape.push(weight.cols());
  Tensor y = empty(shape, weight.dtype, weight.device());
  kernels(weight.device()).embedding(contiguous(ids), contiguous(weight), y);
  return y;
}

// In the compute type; added to `sum`, if given.
OP(Tensor, embeddingGrad, (const Tensor& ids, const Tensor& dy, int64_t vocabulary, const std::optional<Tensor>& sum)) {
  check(dy.shape.rank == ids.shape.rank + 1, "embeddingGrad: the gradient is ", dy.shape, " but ids are ", ids.shape);
  Shape shape{vocabulary, dy.cols()};
  Dtype t = computeDtype(dy.dtype);
  if (sum)
    check(sum->shape == shape && sum->dtype == t && sum->contiguous(), "embeddingGrad: the sum is ", sum->dtype, " ",
          sum->shape, " but should be ", t, " ", shape);
  Tensor dweight = sum ? *sum : empty(shape, t, dy.device());
  kernels(dy.device()).embeddingGrad(contiguous(ids), contiguous(dy), dweight, sum.has_value());
  return dweight;
}
