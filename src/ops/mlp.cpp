// Feed-forward layers around a polynomial activation, dense or of experts: h = x @ up^T, y = act(h), out = y @ down^T,
// in the pieces that a backend may join. Matrices come as layers have them: up [H, in], down [out, H], or [E, H, in]
// and [E, out, H] with offsets [E + 1] of the experts' rows.
#include "core/matrix.h"
#include "math/poly.h"
#include "ops/op.h"
#include "ops/poly.h"

namespace {

// The rows of x, the matrix as the kernels take it, and the shape of the result.
struct Layer {
  const char* op;
  Tensor x, w, offsets;
  Shape result;

  // turned: w [.., to, from] is used as [.., from, to].
  Layer(const char* op, const Tensor& given, const Tensor& weight, const std::optional<Tensor>& groups, bool turned,
        const char* name, const char* weightName)
      : op(op), w(weight) {
    sameDevice(given, weight, op);
    check(isFloat(given.dtype), op, ": ", name, " is ", given.dtype, ", but should be a floating-point tensor");
    check(weight.dtype == given.dtype, op, ": ", weightName, " is ", weight.dtype, " but ", name, " is ", given.dtype);
    const int rank = groups ? 3 : 2, r = weight.shape.rank;
    check(r == rank, op, ": ", weightName, " is ", weight.shape, ", but should have ", rank, " axes",
          groups ? " where there are offsets" : "");
    if (turned) {
      std::swap(w.shape[r - 1], w.shape[r - 2]);
      std::swap(w.stride[r - 1], w.stride[r - 2]);
    }
    const int64_t from = w.shape[r - 2], to = w.shape[r - 1];
    check(given.shape.rank >= 1 && given.shape.last() == from, op, ": ", name, " is ", given.shape, " but ", weightName,
          " is ", weight.shape);
    check(from > 0 && to > 0, op, ": ", weightName, " is ", weight.shape, ", but no axis should be empty");
    if (!matrixLayout(from, to, w.stride[r - 2], w.stride[r - 1]).readable) w = contiguous(w);
    if (groups) {
      sameDevice(given, *groups, op);
      check(groups->dtype == Dtype::int32 && groups->shape == Shape{weight.shape[0] + 1}, op, ": offsets is ",
            groups->dtype, " ", groups->shape, ", but should be int32 [", weight.shape[0] + 1, "]");
      check(given.shape.rank == 2, op, ": ", name, " is ", given.shape, ", but should be rows [n, ", from, "]");
      offsets = contiguous(*groups);
    }
    result = given.shape;
    result[result.rank - 1] = to;
    x = rowsOf(contiguous(given));
    for (int64_t d : {x.rows(), from, to})
      check(d < (int64_t(1) << 31), op, ": an axis of ", d, " elements is too long for a matrix product");
  }
  Tensor made() const { return empty(result, x.dtype, x.device()); }
  View groups() const { return offsets.buffer ? View(offsets) : View(); }
  Coefficients coefficients(const Tensor& weight, const std::optional<Tensor>& bias) const {
    const bool each = weight.shape.rank == 2;
    check(!each || offsets.buffer, op, ": weight is ", weight.shape,
          ", but should be [order] where there are no offsets");
    return coefficientsFor(op, x, weight, bias, each ? std::optional(offsets) : std::nullopt);
  }
  void expectLikeResult(const Tensor& t, const char* name) const {
    sameDevice(x, t, op);
    check(t.shape == result && t.dtype == x.dtype, op, ": ", name, " is ", t.shape, " of ", t.dtype, ", but should be ",
          result, " of ", x.dtype);
  }
};

using Two = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

// Of no rows.
void zero(std::initializer_list<Tensor> sums) {
  for (const Tensor& t : sums) kernels(t.device()).fill(t, 0);
}

}  // namespace

// y = polyRelu(x @ up^T), and what the activation was of; without `keep` that is not stored, and y stands in its place.
OP(Two, polyReluUp,
   (const Tensor& x, const Tensor& up, const Tensor& weight, const Tensor& bias, const std::optional<Tensor>& offsets,
    bool keep)) {
  Layer layer("polyReluMlp", x, up, offsets, true, "x", "up");
  Coefficients set = layer.coefficients(weight, bias);
  Tensor y = layer.made(), h = keep ? layer.made() : y;
  if (y.size())
    kernels(x.device())
        .polyReluUp(layer.x, layer.w, layer.groups(), set.weight, set.bias, keep ? View(rowsOf(h)) : View(), rowsOf(y));
  return {y, h};
}

// Of dout, the gradient of y @ down^T: those of h, and of the coefficients.
OP(Three, polyReluDownGrad,
   (const Tensor& dout, const Tensor& down, const Tensor& weight, const std::optional<Tensor>& offsets,
    const Tensor& h)) {
  Layer layer("polyReluMlp", cast(dout, down.dtype), down, offsets, false, "the gradient", "down");
  Coefficients set = layer.coefficients(weight, std::nullopt);
  layer.expectLikeResult(h, "h");
  Tensor dh = layer.made(), dweight = emptyLike(set.weight), dbias = gradientOfBias(set.weight);
  if (dh.size())
    kernels(dh.device())
        .polyReluDownGrad(layer.x, layer.w, layer.groups(), set.weight, rowsOf(h), rowsOf(dh), dweight, dbias);
  else
    zero({dweight, dbias});
  return {dh, dweight, dbias};
}

// h = x @ up^T, and each row's norms for an activation of this order.
OP(Two, polyNormUp,
   (const Tensor& x, const Tensor& up, int64_t order, const std::optional<Tensor>& offsets, double eps)) {
  Layer layer("polyNormMlp", x, up, offsets, true, "x", "up");
  checkEps("polyNormMlp", eps);
  check(order >= 1 && order <= poly::maxOrder, "polyNormMlp: the order is ", order, ", but should be 1 to ",
        poly::maxOrder);
  Tensor h = layer.made(), norms = empty(Shape{h.rows(), order + 1}, computeDtype(x.dtype), x.device());
  if (h.size()) kernels(x.device()).polyNormUp(layer.x, layer.w, layer.groups(), eps, rowsOf(h), norms);
  return {h, norms};
}

// polyNorm(h) @ down^T, and polyNorm(h); without `keep` that is not stored, and h stands in its place.
OP(Two, polyNormDown,
   (const Tensor& h, const Tensor& norms, const Tensor& weight, const Tensor& bias, const Tensor& down,
    const std::optional<Tensor>& offsets, double eps, bool keep)) {
  Layer layer("polyNormMlp", h, down, offsets, true, "h", "down");
  Coefficients set = layer.coefficients(weight, bias);
  Tensor out = layer.made(), y = keep ? emptyLike(h) : h;
  if (out.size())
    kernels(h.device())
        .polyNormDown(layer.x, norms, set.weight, set.bias, layer.w, layer.groups(), eps,
                      keep ? View(rowsOf(y)) : View(), rowsOf(out));
  return {out, y};
}
