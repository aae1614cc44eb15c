// isa: all
// PolyNorm, and PolyNorm(gate) * up: a row is read from memory once (summed up), then again from the cache (applied).
#include "cpu/poly_rows.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

// One row of each operand. up is null in what is not gated.
template <class C>
struct RowIn {
  const C *x, *up, *dy;
  int64_t n;
  const C *nextX, *nextUp, *nextDy;  // the row after it, fetched while this one is written; any address will do
};

// 2^-e with max |x| in [2^e, 2^(e+1)); 1 if that would scale up and need not, or if x is not finite.
template <class C>
C scaleOf(const C* x, int64_t n, double eps) {
  using Bits = std::conditional_t<sizeof(C) == 4, uint32_t, uint64_t>;
  constexpr int fraction = sizeof(C) == 4 ? 23 : 52;
  constexpr int bias = sizeof(C) == 4 ? 127 : 1023;
  Bits most = 0;
  for (int64_t i = 0; i < n; i++) {
    Bits bits;
    memcpy(&bits, x + i, sizeof bits);
    bits &= ~Bits(0) >> 1;
    most = bits > most ? bits : most;
  }
  int exponent = (int)(most >> fraction) - bias;
  if (most == 0 || exponent > bias) return 1;
  if (eps > 1e-30 && exponent < 0) return 1;  // eps is what counts in such a row
  if (exponent < -(bias - 27)) exponent = -(bias - 27);
  return (C)std::ldexp(1.0, -exponent);
}

// The sums of a row in double: sums of z^2k, then of d z^k (with dy).
struct Sums {
  double squares[poly::maxOrder], products[poly::maxOrder + 1];
};

template <class C, int R, bool gated, bool grad>
HD void sumUp(const RowIn<C>& row, int order, C scale, Sums& out) {
  constexpr int wide = R ? R : poly::maxOrder, U = R ? (grad ? 2 : 4) : 1;
  using V = Vector<C>;
  DoubleVector squares[wide] = {}, products[wide + 1] = {};
  auto dyAt = [&](int64_t i) {
    V d = loadVector(row.dy + i);
    if constexpr (gated) d *= loadVector(row.up + i);
    return d;
  };
  for (int64_t i = 0; i < row.n;) {
    int64_t end = row.n - i < sumLength ? row.n : i + sumLength;
    V s[U][wide] = {}, p[U][wide + 1] = {};
    auto add = [&](V z, V d, V * s, V * p) __attribute__((always_inline)) {
      if constexpr (!R) z *= scale;
      poly::addSquares(order, z, s);
      if constexpr (grad) poly::addProducts(order, z, d, p);
    };
    for (; i + U * lanes<C> <= end; i += U * lanes<C>)
#pragma GCC unroll 4
      for (int u = 0; u < U; u++) {
        int64_t at = i + u * lanes<C>;
        V d = {};
        if constexpr (grad) d = dyAt(at);
        add(loadVector(row.x + at), d, s[u], p[u]);
      }
    for (; i + lanes<C> <= end; i += lanes<C>) {
      V d = {};
      if constexpr (grad) d = dyAt(i);
      add(loadVector(row.x + i), d, s[0], p[0]);
    }
    if (i < end) {
      int m = (int)(end - i);
      V d = {};
      if constexpr (grad) {
        d = loadPart(row.dy + i, m);
        if constexpr (gated) d *= loadPart(row.up + i, m);
      }
      add(loadPart(row.x + i, m), d, s[0], p[0]);
      i = end;
    }
#pragma GCC unroll 4
    for (int u = 0; u < U; u++) {
      for (int k = 0; k < order; k++) squares[k] += widened(s[u][k]);
      if constexpr (grad)
        for (int k = 0; k <= order; k++) products[k] += widened(p[u][k]);
    }
  }
  for (int k = 0; k < order; k++) out.squares[k] = sumOf(squares[k]);
  if constexpr (grad)
    for (int k = 0; k <= order; k++) out.products[k] = sumOf(products[k]);
}

// Whether the unscaled sums can be trusted: neither overflow nor, where eps does not hide it, underflow.
inline bool inRange(double highest, double count, double eps) {
  double mean = highest / count;
  return mean <= 0x1p80 && mean + eps >= 0x1p-80;
}

template <class C>
HD void fetch(const C* at) {
  __builtin_prefetch(at, 0, 2);
}

// The row's coefficients; false if the row has to be scaled and R > 0 does not.
template <class C, int R, bool gated, bool grad>
HD bool prepare(const RowIn<C>& row, int order, double eps, C& scale, double* inverse, Sums& sums) {
  scale = R ? C(1) : scaleOf(row.x, row.n, eps);
  sumUp<C, R, gated, grad>(row, order, scale, sums);
  if (R && !inRange(sums.squares[order - 1], (double)row.n, eps)) return false;
  poly::inverseNorms(order, sums.squares, (double)row.n, eps, (double)scale, inverse);
  return true;
}

template <class C, int R, bool gated>
bool forwardRow(const RowIn<C>& row, C* y, int order, const double* w, double eps, bool streaming) {
  if (R) order = R;
  C scale, value[poly::maxOrder + 1];
  double inverse[poly::maxOrder];
  Sums sums;
  if (!prepare<C, R, gated, false>(row, order, eps, scale, inverse, sums)) return false;
  poly::valueCoefficients(order, w, inverse, value);
  auto apply = [&](Vector<C> z, Vector<C> up) __attribute__((always_inline)) {
    if constexpr (!R) z *= scale;
    Vector<C> v = poly::horner(order, z, value);
    return gated ? v * up : v;
  };
  auto upAt = [&](int64_t i) { return gated ? loadVector(row.up + i) : Vector<C>{}; };
  auto part = [&](int64_t i, int m) {
    storePart(y + i, m, apply(loadPart(row.x + i, m), gated ? loadPart(row.up + i, m) : Vector<C>{}));
  };
  if (streaming)
    sweep(
        y, row.n, true,
        [&](int64_t i) {
          fetch(row.nextX + i);
          if (gated) fetch(row.nextUp + i);
          streamVector(y + i, apply(loadVector(row.x + i), upAt(i)));
        },
        part);
  else
    sweep(
        y, row.n, false, [&](int64_t i) { storeVector(y + i, apply(loadVector(row.x + i), upAt(i))); }, part);
  return true;
}

// dw[k] gets the row's share, from the bias on.
template <class C, int R, bool gated>
bool backwardRow(const RowIn<C>& row, C* dx, C* dup, int order, const double* w, double eps, bool streaming,
                 double* dw) {
  if (R) order = R;
  C scale, value[poly::maxOrder + 1], slope[poly::maxOrder], pull[poly::maxOrder];
  double inverse[poly::maxOrder];
  Sums sums;
  if (!prepare<C, R, gated, true>(row, order, eps, scale, inverse, sums)) return false;
  poly::gradCoefficients(order, w, inverse, sums.products, (double)row.n, (double)scale, slope, pull);
  if (gated) poly::valueCoefficients(order, w, inverse, value);
  dw[0] += sums.products[0];
  for (int k = 1; k <= order; k++) dw[k] += inverse[k - 1] * sums.products[k];

  struct Both {
    Vector<C> dx, dup;
  };
  auto apply = [&](Vector<C> z, Vector<C> d, Vector<C> up) __attribute__((always_inline)) {
    if constexpr (!R) z *= scale;
    Both out;
    out.dup = gated ? d * poly::horner(order, z, value) : d;
    out.dx = poly::polyNormGrad(order, z, gated ? d * up : d, slope, pull);
    return out;
  };
  auto upAt = [&](int64_t i) { return gated ? loadVector(row.up + i) : Vector<C>{}; };
  auto part = [&](int64_t i, int m) {
    Both b = apply(loadPart(row.x + i, m), loadPart(row.dy + i, m), gated ? loadPart(row.up + i, m) : Vector<C>{});
    storePart(dx + i, m, b.dx);
    if (gated) storePart(dup + i, m, b.dup);
  };
  if (streaming)
    sweep(
        dx, row.n, true,
        [&](int64_t i) {
          fetch(row.nextX + i);
          fetch(row.nextDy + i);
          if (gated) fetch(row.nextUp + i);
          Both b = apply(loadVector(row.x + i), loadVector(row.dy + i), upAt(i));
          streamVector(dx + i, b.dx);
          if (gated) streamVector(dup + i, b.dup);
        },
        part);
  else
    sweep(
        dx, row.n, false,
        [&](int64_t i) {
          Both b = apply(loadVector(row.x + i), loadVector(row.dy + i), upAt(i));
          storeVector(dx + i, b.dx);
          if (gated) storeVector(dup + i, b.dup);
        },
        part);
  return true;
}

// In a row of a few elements dy - n mean(dy n) all but cancels (in a row of one only eps is left of it): in double.
constexpr int64_t shortRow = 8;
template <bool gated, class C>
void backwardShort(const RowIn<C>& row, C* dx, C* dup, int order, const double* w, double eps, double* dw) {
  double x[shortRow], up[shortRow], dy[shortRow], outX[shortRow], outUp[shortRow];
  for (int64_t i = 0; i < row.n; i++) {
    x[i] = row.x[i];
    dy[i] = row.dy[i];
    if (gated) up[i] = row.up[i];
  }
  RowIn<double> wide{};
  wide.x = x, wide.up = up, wide.dy = dy, wide.n = row.n;
  backwardRow<double, 0, gated>(wide, outX, outUp, order, w, eps, false, dw);
  for (int64_t i = 0; i < row.n; i++) {
    dx[i] = (C)outX[i];
    if (gated) dup[i] = (C)outUp[i];
  }
}

// Rows of a piece, each opened in the compute type. fn(row, first, second room for results, at)
template <class C, class Fn>
HD void eachRow(const Piece& piece, const View& x, const View& up, const View& dy, Fn fn) {
  int64_t n = x.cols();
  C *copyX = nullptr, *copyUp = nullptr, *copyDy = nullptr;
  if (x.dtype != DtypeOf<C>::value) {
    copyX = (C*)scratch(0, n * sizeof(C));
    if (up.given()) copyUp = (C*)scratch(1, n * sizeof(C));
    if (dy.given()) copyDy = (C*)scratch(2, n * sizeof(C));
  }
  bool copies = copyX != nullptr;
  for (int64_t r = piece.begin; r < piece.end; r++) {
    int64_t at = r * n, ahead = !copies && r + 1 < piece.end ? n : 0;
    RowIn<C> row{};
    row.n = n;
    row.x = opened(x, at, n, copyX);
    row.nextX = row.x + ahead;
    if (up.given()) row.up = opened(up, at, n, copyUp), row.nextUp = row.up + ahead;
    if (dy.given()) row.dy = opened(dy, at, n, copyDy), row.nextDy = row.dy + ahead;
    fn(row, at, copyX, copyUp);
  }
}

template <bool gated>
void forward(const View& x, const View& up, const View& weight, const View& bias, const View& offsets, double eps,
             const View& y, const char* op) {
  int order = (int)weight.cols();
  if (!x.size()) return;
  auto pieces = piecesOf(offsets, x.rows(), rowGrain(x.cols(), 131072), op);
  bool streaming = streams(y);
  withOrder(x.dtype, order, [&](auto tag, auto constant) {
    using C = typename decltype(tag)::type;
    constexpr int R = decltype(constant)::value;
    parallelChunks((int64_t)pieces.size(), [&](int64_t chunk) {
      const Piece& piece = pieces[chunk];
      Coefficients set = coefficientsOf(weight, bias, piece.set);
      eachRow<C>(piece, x, up, View(), [&](const RowIn<C>& row, int64_t at, C* copy, C*) {
        C* out = room(y, at, copy);
        if (!forwardRow<C, R, gated>(row, out, order, set.w, eps, streaming))
          forwardRow<C, 0, gated>(row, out, order, set.w, eps, streaming);
        closed(y, at, row.n, out);
      });
      if (streaming) fence();
    });
  });
}

template <bool gated>
void backward(const View& x, const View& up, const View& weight, const View& bias, const View& offsets, double eps,
              const View& dy, const View& dx, const View& dup, const View& dweight, const View& dbias, const char* op) {
  int order = (int)weight.cols();
  std::vector<Piece> pieces;
  if (x.size()) pieces = piecesOf(offsets, x.rows(), rowGrain(x.cols(), 131072), op);
  constexpr int width = poly::maxOrder + 1;
  std::vector<double> sums(pieces.size() * width);
  bool streaming = streams(dx) && (!gated || ((uintptr_t)dx.data - (uintptr_t)dup.data) % vectorBytes == 0);
  withOrder(x.dtype, order, [&](auto tag, auto constant) {
    using C = typename decltype(tag)::type;
    constexpr int R = decltype(constant)::value;
    parallelChunks((int64_t)pieces.size(), [&](int64_t chunk) {
      const Piece& piece = pieces[chunk];
      Coefficients set = coefficientsOf(weight, bias, piece.set);
      double* dw = &sums[chunk * width];
      eachRow<C>(piece, x, up, dy, [&](const RowIn<C>& row, int64_t at, C* copy, C* copyUp) {
        C *out = room(dx, at, copy), *outUp = gated ? room(dup, at, copyUp) : nullptr;
        if (sizeof(C) == 4 && row.n < shortRow)
          backwardShort<gated>(row, out, outUp, order, set.w, eps, dw);
        else if (!backwardRow<C, R, gated>(row, out, outUp, order, set.w, eps, streaming, dw))
          backwardRow<C, 0, gated>(row, out, outUp, order, set.w, eps, streaming, dw);
        closed(dx, at, row.n, out);
        if (gated) closed(dup, at, row.n, outUp);
      });
      if (streaming) fence();
    });
  });
  joinSums(pieces, sums, dweight, dbias);
}

}  // namespace

void polyNorm(View x, View weight, View bias, View offsets, double eps, View y) {
  forward<false>(x, View(), weight, bias, offsets, eps, y, "polyNorm");
}
void polyNormGrad(View x, View weight, View offsets, double eps, View dy, View dx, View dweight, View dbias) {
  backward<false>(x, View(), weight, View(), offsets, eps, dy, dx, View(), dweight, dbias, "polyNormGrad");
}
void polyNormGlu(View gate, View up, View weight, View bias, View offsets, double eps, View y) {
  forward<true>(gate, up, weight, bias, offsets, eps, y, "polyNormGlu");
}
void polyNormGluGrad(View gate, View up, View weight, View bias, View offsets, double eps, View dy, View dgate,
                     View dup, View dweight, View dbias) {
  backward<true>(gate, up, weight, bias, offsets, eps, dy, dgate, dup, dweight, dbias, "polyNormGluGrad");
}

}  // namespace cpu::ISA
