// The optimiser's calls over flat buffers, and the windows that parameters and gradients are on them.
#include "ops/op.h"

namespace {

void checkFlat(const Tensor& t, const char* op, const char* name) {
  check(t.contiguous() && isFloat(t.dtype), op, ": ", name, " should be a contiguous floating-point tensor");
}
void checkNumbers(const Tensor& t, int64_t count, const char* op, const char* name) {
  check(t.contiguous() && t.dtype == Dtype::float64 && (count < 0 || t.size() == count), op, ": ", name, " is ",
        t.dtype, " ", t.shape, ", but should be float64 [", count, "]");
}

}  // namespace

// Elements offset .. of a flat tensor, seen through a shape.
OP(Tensor, windowOf, (const Tensor& flat, const Shape& shape, int64_t offset)) {
  check(flat.contiguous() && flat.shape.rank == 1, "windowOf: flat is ", flat.shape,
        ", but should be one contiguous axis");
  check(offset >= 0 && offset + shape.count() <= flat.size(), "windowOf: a window of ", shape, " from ", offset,
        " on does not fit into ", flat.size(), " elements");
  return window(flat, shape, shape.strides(), flat.offset + offset);
}

OP(void, sumSquares, (const Tensor& x, const Tensor& sum)) {
  checkFlat(x, "sumSquares", "x");
  checkNumbers(sum, 1, "sumSquares", "sum");
  kernels(x.device()).sumSquares(x, sum);
}

OP(void, clipCoefficient,
   (const Tensor& sums, const std::optional<Tensor>& loss, double maxNorm, const Tensor& state)) {
  checkNumbers(sums, -1, "clipCoefficient", "sums");
  checkNumbers(state, 4, "clipCoefficient", "state");
  if (loss) checkFlat(*loss, "clipCoefficient", "loss");
  check(!loss || loss->size() == 1, "clipCoefficient: the loss is ", loss ? loss->shape : Shape(),
        ", but should have one element");
  kernels(state.device()).clipCoefficient(sums, loss ? View(*loss) : View{}, maxNorm, state);
}

OP(void, countUpdate, (const Tensor& state)) {
  checkNumbers(state, 4, "countUpdate", "state");
  kernels(state.device()).countUpdate(state);
}

OP(void, adamw,
   (const Tensor& p, const Tensor& g, const Tensor& m, const Tensor& v, const std::optional<Tensor>& half,
    const Tensor& hyper, const Tensor& state)) {
  check(p.dtype == Dtype::float32 || p.dtype == Dtype::float64, "adamw: p is ", p.dtype,
        ", but should be float32 or float64; 16-bit parameters need a float32 master");
  for (auto* t : {&p, &g, &m, &v}) {
    checkFlat(*t, "adamw", "each of p, g, m and v");
    check(t->size() == p.size(), "adamw: p, g, m and v have ", p.size(), ", ", g.size(), ", ", m.size(), " and ",
          v.size(), " elements, but should have the same");
  }
  check(m.dtype == p.dtype && v.dtype == p.dtype, "adamw: m is ", m.dtype, " and v is ", v.dtype,
        ", but should be as p, ", p.dtype);
  if (half) {
    checkFlat(*half, "adamw", "half");
    check(half->size() == p.size(), "adamw: half has ", half->size(), " elements but p has ", p.size());
  }
  checkNumbers(hyper, 5, "adamw", "hyper");
  checkNumbers(state, 4, "adamw", "state");
  kernels(p.device()).adamw(p, g, m, v, half ? View(*half) : View{}, hyper, state);
}
