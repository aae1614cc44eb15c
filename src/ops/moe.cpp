// Mixture of experts: route, group by expert, gather, grouped matmul, combine. Shapes follow from the arguments' shapes
// alone; how many rows each expert got is known to the device only.
#include "core/matrix.h"
#include "ops/op.h"

namespace {

void expectIndex(const Tensor& x, const char* op, const char* name) {
  check(x.dtype == Dtype::int32, op, ": ", name, " is ", x.dtype, ", but should be int32");
}
void expectRows(const Tensor& x, const char* op, const char* name) {
  check(x.shape.rank == 2 && isFloat(x.dtype), op, ": ", name, " is ", x.shape, " of ", x.dtype,
        ", but should be floating-point rows [n, d]");
}

// order belongs to n tokens: n * k of it.
int64_t perToken(const Tensor& order, int64_t tokens, const char* op) {
  expectIndex(order, op, "order");
  check(order.shape.rank == 1 && (tokens ? order.size() % tokens == 0 : order.size() == 0), op, ": order is ",
        order.shape, ", but should be a multiple of the ", tokens, " tokens");
  return tokens ? order.size() / tokens : 1;
}

View view(const std::optional<Tensor>& x) { return x ? View(*x) : View{}; }

// x (rows, in), w (E, out, in), offsets (E + 1).
void checkGroups(const Tensor& x, const Tensor& w, const Tensor& offsets) {
  sameDevice(x, w, "groupedMatmul");
  expectRows(x, "groupedMatmul", "x");
  check(w.shape.rank == 3 && w.shape[2] == x.shape[1], "groupedMatmul: w is ", w.shape,
        ", but should be [experts, out, ", x.shape[1], "] for x of ", x.shape);
  check(w.dtype == x.dtype, "groupedMatmul: w is ", w.dtype, " but x is ", x.dtype);
  expectIndex(offsets, "groupedMatmul", "offsets");
  check(offsets.shape == Shape{w.shape[0] + 1}, "groupedMatmul: offsets is ", offsets.shape, ", but should be [",
        w.shape[0] + 1, "] for ", w.shape[0], " experts");
}

// y (rows, out) = x (rows, in) @ w (E, in, out)
Tensor product(const Tensor& x, const Tensor& w, const Tensor& offsets) {
  Tensor y = empty(Shape{x.shape[0], w.shape[2]}, x.dtype, x.device());
  if (y.size() == 0) return y;
  if (x.shape[1] == 0) {
    kernels(x.device()).fill(y, 0);
    return y;
  }
  bool fine = matrixLayout(w.shape[1], w.shape[2], w.stride[1], w.stride[2]).readable;
  kernels(x.device()).groupedMatmul(contiguous(x), fine ? w : contiguous(w), contiguous(offsets), y);
  return y;
}

using Two = std::tuple<Tensor, Tensor>;
using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

}  // namespace

// weights (n, k), experts (n, k), aux and z (scalars), shares (E) of the n * k assignments, lse (n): kept for the
// gradient.
OP(Six, route, (const Tensor& logits, int64_t topK, bool normTopkProb)) {
  expectRows(logits, "route", "logits");
  int64_t n = logits.shape[0], experts = logits.shape[1];
  check(topK >= 1 && topK <= experts, "route: topK is ", topK, ", but should be from 1 to the ", experts, " experts");
  Dtype t = computeDtype(logits.dtype);
  Device device = logits.device();
  Tensor weights = empty(Shape{n, topK}, t, device), chosen = empty(Shape{n, topK}, Dtype::int32, device);
  Tensor lse = empty(Shape{n}, t, device), shares = empty(Shape{experts}, t, device);
  Tensor aux = empty(Shape{}, t, device), z = empty(Shape{}, t, device);
  kernels(device).route(cast(logits, t), weights, chosen, lse, shares, aux, z, normTopkProb);
  return {weights, chosen, aux, z, shares, lse};
}

OP(Tensor, routeGrad,
   (const Tensor& logits, const Tensor& experts, const Tensor& lse, const Tensor& shares,
    const std::optional<Tensor>& dweights, const std::optional<Tensor>& daux, const std::optional<Tensor>& dz,
    bool normTopkProb)) {
  Dtype t = computeDtype(logits.dtype);
  auto whole = [&](const std::optional<Tensor>& d) { return d ? std::optional(cast(*d, t)) : std::nullopt; };
  Tensor dlogits = empty(logits.shape, t, logits.device());
  if (dlogits.size())
    kernels(logits.device())
        .routeGrad(cast(logits, t), experts, lse, shares, view(whole(dweights)), view(whole(daux)), view(whole(dz)),
                   dlogits, normTopkProb);
  return cast(dlogits, logits.dtype);
}

// order (n * k): the assignments n * k + j, expert by expert, each expert's in rising order; offsets (E + 1): where
// each expert's begin.
OP(Two, groupByExpert, (const Tensor& experts, int64_t count)) {
  expectIndex(experts, "groupByExpert", "experts");
  check(count >= 1 && experts.size() < (int64_t(1) << 31), "groupByExpert: ", experts.size(), " assignments to ", count,
        " experts, but there should be at least one expert and less than 2^31 assignments");
  Tensor order = empty(Shape{experts.size()}, Dtype::int32, experts.device());
  Tensor offsets = empty(Shape{count + 1}, Dtype::int32, experts.device());
  kernels(experts.device()).groupByExpert(contiguous(experts), order, offsets);
  return {order, offsets};
}

// Row i of the result (n * k, d) is the row order[i] / k of x (n, d).
OP(Tensor, gatherRows, (const Tensor& x, const Tensor& order)) {
  check(x.shape.rank == 2, "gatherRows: x is ", x.shape, ", but should be [n, d]");
  sameDevice(x, order, "gatherRows");
  perToken(order, x.shape[0], "gatherRows");
  Tensor y = empty(Shape{order.size(), x.shape[1]}, x.dtype, x.device());
  if (y.size()) kernels(x.device()).gatherRows(contiguous(x), contiguous(order), y);
  return y;
}

OP(Tensor, gatherRowsGrad, (const Tensor& dy, const Tensor& order, int64_t tokens)) {
  check(dy.shape == Shape({order.size(), dy.cols()}), "gatherRows: the gradient is ", dy.shape, " but order is ",
        order.shape);
  Tensor dx = empty(Shape{tokens, dy.shape[1]}, dy.dtype, dy.device());
  if (dx.size()) kernels(dy.device()).combine(contiguous(dy), contiguous(order), View{}, dx);
  return dx;
}

// y (n, d) = sum over j of weights (n, k) times the rows of x (n * k, d), which lie in `order`.
OP(Tensor, combine, (const Tensor& x, const Tensor& order, const Tensor& weights)) {
  expectRows(x, "combine", "y");
  sameDevice(x, order, "combine");
  sameDevice(x, weights, "combine");
  check(weights.shape.rank == 2, "combine: weights is ", weights.shape, ", but should be [n, k]");
  perToken(order, weights.shape[0], "combine");
  check(order.size() == weights.size() && x.shape[0] == order.size(), "combine: y is ", x.shape, ", order is ",
        order.shape, " and weights is ", weights.shape, ", but should be [n*k, d], [n*k] and [n, k]");
  Tensor y = empty(Shape{weights.shape[0], x.shape[1]}, x.dtype, x.device());
  if (y.size()) kernels(x.device()).combine(contiguous(x), contiguous(order), cast(weights, computeDtype(x.dtype)), y);
  return y;
}

// Gradients of x and of weights.
OP(Two, combineGrad, (const Tensor& x, const Tensor& order, const Tensor& weights, const Tensor& dy)) {
  check(dy.shape == Shape({weights.shape[0], x.shape[1]}), "combine: the gradient is ", dy.shape, " but y is ",
        Shape{weights.shape[0], x.shape[1]});
  Dtype t = computeDtype(x.dtype);
  Tensor dx = empty(x.shape, x.dtype, x.device()), dweights = empty(weights.shape, t, x.device());
  if (dx.size())
    kernels(x.device())
        .combineGrad(contiguous(x), contiguous(order), cast(weights, t), cast(dy, x.dtype), dx, dweights);
  else if (dweights.size())
    kernels(x.device()).fill(dweights, 0);
  return {dx, cast(dweights, weights.dtype)};
}

// Row i of the result is w[e] @ x[i] for the expert e whose rows offsets[e] .. offsets[e + 1] - 1 hold i.
OP(Tensor, groupedMatmul, (const Tensor& x, const Tensor& w, const Tensor& offsets)) {
  checkGroups(x, w, offsets);
  Tensor turned = w;
  std::swap(turned.shape[1], turned.shape[2]);
  std::swap(turned.stride[1], turned.stride[2]);
  return product(x, turned, offsets);
}

OP(Tensor, groupedMatmulGradX, (const Tensor& dy, const Tensor& w, const Tensor& offsets)) {
  check(dy.shape.rank == 2 && dy.shape[1] == w.shape[1], "groupedMatmul: the gradient is ", dy.shape,
        ", but should be [n*k, ", w.shape[1], "]");
  return product(cast(dy, w.dtype), w, offsets);
}

// Zero for an expert without rows; `sum` as in linearGradWeight.
OP(Tensor, groupedMatmulGradWeight,
   (const Tensor& x, const Tensor& dy, const Tensor& w, const Tensor& offsets, const std::optional<Tensor>& sum)) {
  checkGroups(x, w, offsets);
  check(dy.shape == Shape({x.shape[0], w.shape[1]}), "groupedMatmul: the gradient is ", dy.shape, " but y is ",
        Shape{x.shape[0], w.shape[1]});
  if (sum)
    check(sum->shape == w.shape && (sum->dtype == w.dtype || sum->dtype == computeDtype(w.dtype)) && sum->contiguous(),
          "groupedMatmul: the gradient of w is ", sum->shape, " of ", sum->dtype, " but should be ", w.shape, " of ",
          w.dtype, " or ", computeDtype(w.dtype));
  Tensor dw = sum ? *sum : empty(w.shape, w.dtype, w.device());
  if (dw.size())
    kernels(x.device())
        .groupedMatmulGradWeight(contiguous(x), cast(dy, x.dtype), contiguous(offsets), dw, sum.has_value());
  return dw;
}
