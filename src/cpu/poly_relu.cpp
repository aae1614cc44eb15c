// isa: all
// PolyReLU: elementwise, one pass each way; the coefficient gradients are summed on the way.
#include "cpu/poly_rows.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

template <class C, int R>
void forward(const C* x, C* y, int64_t n, int order, const C* w, bool streaming) {
  if (R) order = R;
  if (streaming)
    sweep(
        y, n, true, [&](int64_t i) { streamVector(y + i, poly::polyRelu(order, loadVector(x + i), w)); },
        [&](int64_t i, int m) { storePart(y + i, m, poly::polyRelu(order, loadPart(x + i, m), w)); });
  else
    sweep(
        y, n, false, [&](int64_t i) { storeVector(y + i, poly::polyRelu(order, loadVector(x + i), w)); },
        [&](int64_t i, int m) { storePart(y + i, m, poly::polyRelu(order, loadPart(x + i, m), w)); });
}

template <class C, int R>
void backward(const C* x, const C* dy, C* dx, int64_t n, int order, const C* slope, bool streaming, double* totals) {
  constexpr int width = (R ? R : poly::maxOrder) + 1;
  if (R) order = R;
  DoubleVector wide[width] = {};
  for (int64_t from = 0; from < n; from += sumLength) {
    int64_t length = n - from < sumLength ? n - from : sumLength;
    Vector<C> sums[width] = {};
    auto grad = [&](Vector<C> a, Vector<C> d) __attribute__((always_inline)) {
      poly::addProducts(order, poly::positive(a), d, sums);
      return poly::polyReluGrad(order, a, d, slope);
    };
    const C *a = x + from, *d = dy + from;
    C* out = dx + from;
    auto part = [&](int64_t i, int m) { storePart(out + i, m, grad(loadPart(a + i, m), loadPart(d + i, m))); };
    if (streaming)
      sweep(
          out, length, true, [&](int64_t i) { streamVector(out + i, grad(loadVector(a + i), loadVector(d + i))); },
          part);
    else
      sweep(
          out, length, false, [&](int64_t i) { storeVector(out + i, grad(loadVector(a + i), loadVector(d + i))); },
          part);
    for (int k = 0; k <= order; k++) wide[k] += widened(sums[k]);
  }
  for (int k = 0; k <= order; k++) totals[k] += sumOf(wide[k]);
}

// Without offsets there is one set of coefficients and rows do not matter.
struct Cut {
  int64_t rows, cols, grain;
  Cut(const View& x, const View& offsets, int64_t elements) {
    cols = offsets.given() ? x.cols() : 1;
    rows = offsets.given() ? x.rows() : x.size();
    grain = rowGrain(cols, elements);
  }
};

}  // namespace

void polyRelu(View x, View weight, View bias, View offsets, View y) {
  int order = (int)weight.cols();
  Cut cut(x, offsets, 65536);
  if (!x.size()) return;
  auto pieces = piecesOf(offsets, cut.rows, cut.grain, "polyRelu");
  bool streaming = streams(y);
  withOrder(x.dtype, order, [&](auto tag, auto R) {
    using C = typename decltype(tag)::type;
    parallelChunks((int64_t)pieces.size(), [&](int64_t chunk) {
      const Piece& piece = pieces[chunk];
      Coefficients set = coefficientsOf(weight, bias, piece.set);
      C w[poly::maxOrder + 1], copy[sumLength];
      for (int k = 0; k <= order; k++) w[k] = (C)set.w[k];
      int64_t begin = piece.begin * cut.cols, end = piece.end * cut.cols;
      int64_t step = x.dtype == DtypeOf<C>::value ? end - begin : sumLength;
      for (int64_t at = begin; at < end; at += step) {
        int64_t n = end - at < step ? end - at : step;
        C* out = room(y, at, copy);
        forward<C, decltype(R)::value>(opened(x, at, n, copy), out, n, order, w, streaming);
        closed(y, at, n, out);
      }
      if (streaming) fence();
    });
  });
}

void polyReluGrad(View x, View weight, View offsets, View dy, View dx, View dweight, View dbias) {
  int order = (int)weight.cols();
  Cut cut(x, offsets, 65536);
  std::vector<Piece> pieces;
  if (x.size()) pieces = piecesOf(offsets, cut.rows, cut.grain, "polyReluGrad");
  std::vector<double> sums(pieces.size() * sumWidth);
  bool streaming = streams(dx);
  withOrder(x.dtype, order, [&](auto tag, auto R) {
    using C = typename decltype(tag)::type;
    parallelChunks((int64_t)pieces.size(), [&](int64_t chunk) {
      const Piece& piece = pieces[chunk];
      Coefficients set = coefficientsOf(weight, View(), piece.set);
      C slope[poly::maxOrder], copy[sumLength], copyOfDy[sumLength];
      poly::polyReluSlopes(order, set.w, slope);
      int64_t begin = piece.begin * cut.cols, end = piece.end * cut.cols;
      int64_t step = x.dtype == DtypeOf<C>::value ? end - begin : sumLength;
      for (int64_t at = begin; at < end; at += step) {
        int64_t n = end - at < step ? end - at : step;
        C* out = room(dx, at, copy);
        backward<C, decltype(R)::value>(opened(x, at, n, copy), opened(dy, at, n, copyOfDy), out, n, order, slope,
                                        streaming, &sums[chunk * sumWidth]);
        closed(dx, at, n, out);
      }
      if (streaming) fence();
    });
  });
  joinSums(pieces, sums, dweight, dbias);
}

}  // namespace cpu::ISA
