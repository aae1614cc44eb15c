// Attention without the matrix of scores.
#include "ops/op.h"

namespace {

// What attention is computed in: the GPU's tensor cores take 16-bit floats as they are.
Dtype operandType(const Tensor& x) { return x.device() == Device::cpu ? computeDtype(x.dtype) : x.dtype; }

// In that type, with the elements of a row adjacent and rows that do not overlap; any strides else.
Tensor readable(const Tensor& x) {
  Tensor t = x.dtype == operandType(x) ? x : cast(x, operandType(x));
  bool rows = (t.cols() <= 1 || t.stride[3] == 1) && (t.shape[2] <= 1 || t.stride[2] >= t.cols());
  return rows ? t : contiguous(t);
}

void expectHeads(const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
  check(isFloat(q.dtype) && q.dtype == k.dtype && q.dtype == v.dtype, "attention: q, k and v are ", q.dtype, ", ",
        k.dtype, " and ", v.dtype, ", but should be of one floating-point dtype");
  check(q.shape.rank == 4 && k.shape.rank == 4, "attention: q is ", q.shape, " and k ", k.shape,
        ", but both should be [B, H, T, D]");
  check(k.shape == v.shape, "attention: k is ", k.shape, " but v is ", v.shape);
  check(q.shape[0] == k.shape[0] && q.shape[3] == k.shape[3], "attention: q is ", q.shape, " but k ", k.shape,
        ": batch and head size should be the same");
  check(k.shape[1] > 0 && q.shape[1] % k.shape[1] == 0, "attention: q has ", q.shape[1], " heads, but k ", k.shape[1],
        ", which should divide them");
  check(!causal || q.shape[2] <= k.shape[2], "attention: there are ", q.shape[2], " queries but ", k.shape[2],
        " keys; causal queries are the last of the keys' positions");
  sameDevice(q, k, "attention");
  sameDevice(q, v, "attention");
}

// (B, H, T, D), laid out in memory as (B, T, H, D): merging the heads afterwards copies nothing.
Tensor headsInside(const Tensor& like, Dtype dtype) {
  const Shape& s = like.shape;
  Tensor t = empty({s[0], s[2], s[1], s[3]}, dtype, like.device());
  return window(t, s, {s[2] * s[1] * s[3], s[3], s[1] * s[3], 1}, 0);
}

Tensor in(Dtype dtype, const Tensor& x) {
  if (x.dtype == dtype) return x;
  Tensor y = headsInside(x, dtype);
  kernels(x.device()).copy(x, y);
  return y;
}

}  // namespace

// q (B, H, T, D), k and v (B, K, S, D) -> y (B, H, T, D), logsumexp of the scores (B, H, T).
using Attended = std::tuple<Tensor, Tensor>;
OP(Attended, attention, (const Tensor& q, const Tensor& k, const Tensor& v, double scale, bool causal)) {
  expectHeads(q, k, v, causal);
  Tensor y = headsInside(q, operandType(q));
  Tensor lse = empty({q.shape[0], q.shape[1], q.shape[2]}, computeDtype(q.dtype), q.device());
  kernels(q.device()).attention(readable(q), readable(k), readable(v), scale, causal, y, lse);
  return {in(q.dtype, y), lse};
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;
OP(Gradients, attentionGrad,
   (const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y, const Tensor& lse, const Tensor& dy,
    double scale, bool causal)) {
  expectHeads(q, k, v, causal);
  check(dy.shape == q.shape, "attentionGrad: the gradient is ", dy.shape, " but q is ", q.shape);
  const Dtype type = operandType(q);
  Tensor dq = headsInside(q, type), dk = headsInside(k, type), dv = headsInside(v, type);
  kernels(q.device())
      .attentionGrad(readable(q), readable(k), readable(v), readable(y), lse, readable(dy), scale, causal, dq, dk, dv);
  return {in(q.dtype, dq), in(q.dtype, dk), in(q.dtype, dv)};
}
