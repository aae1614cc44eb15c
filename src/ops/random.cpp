// Random numbers. The generator's state is a tensor, so that a captured step can move it on.
#include "ops/op.h"

static void checkState(const Tensor& state, const char* name) {
  check(state.dtype == Dtype::int64 && state.size() == 2 && state.contiguous(), name,
        ": the generator's state should be int64 [2], but is ", state.dtype, " ", state.shape);
}

static Tensor make(RandomKind kind, const Shape& shape, Dtype dtype, const Tensor& state, int64_t call, double a,
                   double b, const char* name) {
  checkState(state, name);
  bool whole = kind == RandomKind::integer;
  check(whole ? dtype == Dtype::int32 || dtype == Dtype::int64 || dtype == Dtype::uint8 : isFloat(dtype), name,
        ": the dtype is ", dtype, ", but should be ", whole ? "int32, int64 or uint8" : "a floating-point one");
  Tensor y = empty(shape, dtype, state.device());
  kernels(state.device()).random(kind, state, call, a, b, y);
  return y;
}

OP(Tensor, rand, (const Shape& shape, Dtype dtype, const Tensor& state, int64_t call, double low, double high)) {
  return make(RandomKind::uniform, shape, dtype, state, call, low, high, "rand");
}
OP(Tensor, randn, (const Shape& shape, Dtype dtype, const Tensor& state, int64_t call, double mean, double std)) {
  return make(RandomKind::normal, shape, dtype, state, call, mean, std, "randn");
}
OP(Tensor, truncatedNormal,
   (const Shape& shape, Dtype dtype, const Tensor& state, int64_t call, double std, double cutoff)) {
  check(cutoff > 0, "truncatedNormal: cutoff is ", cutoff, ", but should be positive");
  return make(RandomKind::truncated, shape, dtype, state, call, std, cutoff, "truncatedNormal");
}
OP(Tensor, randint, (const Shape& shape, Dtype dtype, const Tensor& state, int64_t call, int64_t low, int64_t high)) {
  check(high > low && high - low <= 4294967296, "randint: there should be 1 to 2^32 numbers from ", low, " to below ",
        high);
  return make(RandomKind::integer, shape, dtype, state, call, (double)low, (double)high, "randint");
}

OP(Tensor, dropout, (const Tensor& x, const Tensor& state, int64_t call, double p)) {
  checkState(state, "dropout");
  sameDevice(x, state, "dropout");
  check(isFloat(x.dtype), "dropout: x is ", x.dtype, ", but should be a floating-point tensor");
  check(p >= 0 && p <= 1, "dropout: p is ", p, ", but should lie between 0 and 1");
  Tensor y = emptyLike(x);
  kernels(x.device()).dropout(contiguous(x), state, call, p, y);
  return y;
}
