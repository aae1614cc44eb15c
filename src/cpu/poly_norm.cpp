// isa: all
// PolyNorm, and PolyNorm(gate) * up: a row is read from memory once (summed up), then again from the cache (applied).
#include "cpu/poly_rows.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

// One row of each operand, and where its results go. What an operation does not have is null.
template <class C>
struct Row {
  const C *x, *up, *dy;
  C *out, *outUp;  // y; or the gradients of x and up
  int64_t n;
};

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
  return most ? poly::scaleFor<C>((int)(most >> fraction) - bias, eps) : C(1);
}

// The sums of a row in double: sums of z^2k, then of d z^k (with a gradient).
struct Sums {
  double squares[poly::maxOrder], products[poly::maxOrder + 1];
};

// The sums while they grow: a short run in the compute type, the whole in double.
template <class C, int R, bool grad>
struct Running {
  static constexpr int wide = R ? R : poly::maxOrder;
  Vector<C> squares[wide] = {}, products[wide + 1] = {};
  DoubleVector allSquares[wide] = {}, allProducts[wide + 1] = {};

  HD void add(int order, Vector<C> z, Vector<C> d) {
    poly::addSquares(order, z, squares);
    if constexpr (grad) poly::addProducts(order, z, d, products);
  }
  HD void settle(int order) {
    for (int k = 0; k < order; k++) allSquares[k] += widened(squares[k]), squares[k] = Vector<C>{};
    if constexpr (grad)
      for (int k = 0; k <= order; k++) allProducts[k] += widened(products[k]), products[k] = Vector<C>{};
  }
  HD void finish(int order, Sums& out) const {
    for (int k = 0; k < order; k++) out.squares[k] = sumOf(allSquares[k]);
    if constexpr (grad)
      for (int k = 0; k <= order; k++) out.products[k] = sumOf(allProducts[k]);
  }
};

// What a row is multiplied with, once its sums are known, and the row's results.
template <class C, int R, bool gated, bool grad>
struct Applied {
  int order;
  C scale, value[poly::maxOrder + 1], slope[poly::maxOrder], pull[poly::maxOrder];

  HD void set(const double* w, const Sums& sums, double n, double eps, C s, double* dw) {
    double inverse[poly::maxOrder];
    scale = s;
    poly::inverseNorms(order, sums.squares, n, eps, (double)s, inverse);
    if (!grad || gated) poly::valueCoefficients(order, w, inverse, value);
    if constexpr (grad) {
      poly::gradCoefficients(order, w, inverse, sums.products, n, (double)s, slope, pull);
      dw[0] += sums.products[0];
      for (int k = 1; k <= order; k++) dw[k] += inverse[k - 1] * sums.products[k];
    }
  }
  // fn(result, for up)
  template <class Put>
  HD void at(Vector<C> z, Vector<C> up, Vector<C> d, Put put) const {
    if constexpr (!R) z *= scale;
    if constexpr (!grad) {
      Vector<C> y = poly::horner(order, z, value);
      put(gated ? y * up : y, up);
    } else {
      Vector<C> dup = gated ? d * poly::horner(order, z, value) : d;
      put(poly::polyNormGrad(order, z, gated ? d * up : d, slope, pull), dup);
    }
  }
  template <bool streaming>
  HD void whole(const Row<C>& row, int64_t i) const {
    Vector<C> up = {}, d = {};
    if constexpr (gated) up = loadVector(row.up + i);
    if constexpr (grad) d = loadVector(row.dy + i);
    at(
        loadVector(row.x + i), up, d, [&](Vector<C> a, Vector<C> b) __attribute__((always_inline)) {
          if constexpr (streaming)
            streamVector(row.out + i, a);
          else
            storeVector(row.out + i, a);
          if constexpr (gated && grad) {
            if constexpr (streaming)
              streamVector(row.outUp + i, b);
            else
              storeVector(row.outUp + i, b);
          }
        });
  }
  HD void part(const Row<C>& row, int64_t i, int m) const {
    Vector<C> up = {}, d = {};
    if constexpr (gated) up = loadPart(row.up + i, m);
    if constexpr (grad) d = loadPart(row.dy + i, m);
    at(
        loadPart(row.x + i, m), up, d, [&](Vector<C> a, Vector<C> b) __attribute__((always_inline)) {
          storePart(row.out + i, m, a);
          if constexpr (gated && grad) storePart(row.outUp + i, m, b);
        });
  }
};

// Elements ahead of the sums that are asked for: far enough for a busy memory (measured: 16 KB), into the second cache.
constexpr int64_t ahead = 4096;
template <class C>
HD void fetchTwo(const C* at) {
  __builtin_prefetch(at, 0, 2);
  __builtin_prefetch(at + lanes<C>, 0, 2);
}

// Sums up `next` and, where `both`, applies `applied` to `row` on the way:
// the one waits for memory while the other computes. A row's sums are the same bits either way.
template <class C, int R, bool gated, bool grad, bool both, bool streaming>
void sumUp(const Row<C>& next, const Row<C>& row, const Applied<C, R, gated, grad>& applied, C scale, Sums& out) {
  const int order = R ? R : applied.order;
  constexpr int L = lanes<C>;
  Running<C, R, grad> running;
  auto sum = [&](int64_t i) __attribute__((always_inline)) {
    Vector<C> z = loadVector(next.x + i), d = {};
    if constexpr (!R) z *= scale;
    if constexpr (grad) d = loadVector(next.dy + i);
    if constexpr (grad && gated) d *= loadVector(next.up + i);
    running.add(order, z, d);
  };
  for (int64_t i = 0; i < next.n;) {
    int64_t end = next.n - i < sumLength ? next.n : i + sumLength;
    if constexpr (both)
      for (; i + 2 * L <= end; i += 2 * L) {  // two by two: each stream is asked for a whole pair of lines
        fetchTwo(next.x + i + ahead);
        if constexpr (grad) fetchTwo(next.dy + i + ahead);
        if constexpr (gated) fetchTwo(next.up + i + ahead);
        applied.template whole<streaming>(row, i);
        applied.template whole<streaming>(row, i + L);
        sum(i);
        sum(i + L);
      }
    for (; i + L <= end; i += L) {
      if constexpr (both) applied.template whole<streaming>(row, i);
      sum(i);
    }
    if (i < end) {
      int m = (int)(end - i);
      if constexpr (both) applied.part(row, i, m);
      Vector<C> z = loadPart(next.x + i, m), d = {};
      if constexpr (!R) z *= scale;
      if constexpr (grad) d = loadPart(next.dy + i, m);
      if constexpr (grad && gated) d *= loadPart(next.up + i, m);
      running.add(order, z, d);
      i = end;
    }
    running.settle(order);
  }
  running.finish(order, out);
}

template <class C, int R, bool gated, bool grad>
void apply(const Row<C>& row, const Applied<C, R, gated, grad>& applied, bool streaming) {
  auto part = [&](int64_t i, int m) { applied.part(row, i, m); };
  if (streaming)
    sweep(
        row.out, row.n, true, [&](int64_t i) { applied.template whole<true>(row, i); }, part);
  else
    sweep(
        row.out, row.n, false, [&](int64_t i) { applied.template whole<false>(row, i); }, part);
}

// A row on its own, scaled: for any order, dtype and size of numbers.
template <class C, bool gated, bool grad>
void scaledRow(const Row<C>& row, int order, const double* w, double eps, bool streaming, double* dw) {
  Applied<C, 0, gated, grad> applied;
  applied.order = order;
  Sums sums;
  C scale = scaleOf(row.x, row.n, eps);
  sumUp<C, 0, gated, grad, false, false>(row, row, applied, scale, sums);
  applied.set(w, sums, (double)row.n, eps, scale, dw);
  apply(row, applied, streaming);
}

// In a row of a few elements dy - n mean(dy n) all but cancels (in a row of one only eps is left of it): in double.
constexpr int64_t shortRow = 8;
template <bool gated>
void shortRowGrad(const Row<float>& row, int order, const double* w, double eps, double* dw) {
  double x[shortRow], up[shortRow], dy[shortRow], out[shortRow], outUp[shortRow];
  for (int64_t i = 0; i < row.n; i++) {
    x[i] = row.x[i];
    dy[i] = row.dy[i];
    if (gated) up[i] = row.up[i];
  }
  scaledRow<double, gated, true>({x, up, dy, out, outUp, row.n}, order, w, eps, false, dw);
  for (int64_t i = 0; i < row.n; i++) {
    row.out[i] = (float)out[i];
    if (gated) row.outUp[i] = (float)outUp[i];
  }
}

struct Operands {
  const View &x, &up, &dy, &out, &outUp;
};

// All rows of a piece. dw[k] gets their share of the coefficient gradients, from the bias on.
template <class C, int R, bool gated, bool grad>
void rowsOf(const Piece& piece, const Operands& v, int order, const double* w, double eps, bool streaming, double* dw) {
  const int64_t n = v.x.cols();
  const bool copies = v.x.dtype != DtypeOf<C>::value;
  C *copyX = nullptr, *copyUp = nullptr, *copyDy = nullptr;
  if (copies) {
    copyX = (C*)scratch(0, n * sizeof(C));
    if (gated) copyUp = (C*)scratch(1, n * sizeof(C));
    if (grad) copyDy = (C*)scratch(2, n * sizeof(C));
  }
  // Results are computed over the copies that they came from: a vector is read before it is written.
  auto rowAt = [&](int64_t at) {
    Row<C> row{};
    row.n = n;
    row.x = opened(v.x, at, n, copyX);
    row.out = room(v.out, at, copyX);
    if (gated) row.up = opened(v.up, at, n, copyUp);
    if (grad) row.dy = opened(v.dy, at, n, copyDy);
    if (gated && grad) row.outUp = room(v.outUp, at, copyUp);
    return row;
  };
  auto close = [&](const Row<C>& row, int64_t at) {
    closed(v.out, at, n, row.out);
    if (gated && grad) closed(v.outUp, at, n, row.outUp);
  };

  if constexpr (R == 0) {
    for (int64_t r = piece.begin; r < piece.end; r++) {
      Row<C> row = rowAt(r * n);
      if constexpr (grad && sizeof(C) == 4)
        if (n < shortRow) {
          shortRowGrad<gated>(row, order, w, eps, dw);
          close(row, r * n);
          continue;
        }
      scaledRow<C, gated, grad>(row, order, w, eps, streaming, dw);
      close(row, r * n);
    }
  } else {
    // With 16 registers the gated gradient runs out of them beside the sums.
    constexpr bool fits = vectorBytes == 64 || !(gated && grad);
    const bool beside = fits && !copies && (!streaming || n % lanes<C> == 0);
    Applied<C, R, gated, grad> applied;
    applied.order = R;
    Sums sums;
    bool summed = false;
    Row<C> row = rowAt(piece.begin * n);
    for (int64_t r = piece.begin; r < piece.end; r++) {
      if (!summed) sumUp<C, R, gated, grad, false, false>(row, row, applied, 1, sums);
      summed = false;
      if (!poly::inRange(sums.squares[R - 1], (double)n, eps)) {
        scaledRow<C, gated, grad>(row, order, w, eps, streaming, dw);
        close(row, r * n);
        if (r + 1 < piece.end) row = rowAt((r + 1) * n);
        continue;
      }
      applied.set(w, sums, (double)n, eps, 1, dw);
      if (beside && r + 1 < piece.end) {
        Row<C> next = rowAt((r + 1) * n);
        if (streaming)
          sumUp<C, R, gated, grad, true, true>(next, row, applied, 1, sums);
        else
          sumUp<C, R, gated, grad, true, false>(next, row, applied, 1, sums);
        summed = true;
        row = next;
      } else {
        apply(row, applied, streaming);
        close(row, r * n);
        if (r + 1 < piece.end) row = rowAt((r + 1) * n);
      }
    }
  }
  if (streaming) fence();
}

// fn(Tag<C>, the order as a constant, or 0)
template <bool grad, class Fn>
void withRows(const View& x, int order, Fn fn) {
  if (grad && x.cols() < shortRow && x.dtype != Dtype::float64)
    return fn(Tag<float>{}, std::integral_constant<int, 0>{});
  withOrder(x.dtype, order, fn);
}

template <bool gated>
void forward(const View& x, const View& up, const View& weight, const View& bias, const View& offsets, double eps,
             const View& y, const char* op) {
  int order = (int)weight.cols();
  if (!x.size()) return;
  auto pieces = piecesOf(offsets, x.rows(), rowGrain(x.cols(), pieceLength), op);
  bool streaming = streams(y);
  View none;
  Operands operands{x, up, none, y, none};
  withRows<false>(x, order, [&](auto tag, auto R) {
    parallelChunks((int64_t)pieces.size(), [&](int64_t chunk) {
      Coefficients set = coefficientsOf(weight, bias, pieces[chunk].set);
      rowsOf<typename decltype(tag)::type, decltype(R)::value, gated, false>(pieces[chunk], operands, order, set.w, eps,
                                                                             streaming, nullptr);
    });
  });
}

template <bool gated>
void backward(const View& x, const View& up, const View& weight, const View& bias, const View& offsets, double eps,
              const View& dy, const View& dx, const View& dup, const View& dweight, const View& dbias, const char* op) {
  int order = (int)weight.cols();
  std::vector<Piece> pieces;
  if (x.size()) pieces = piecesOf(offsets, x.rows(), rowGrain(x.cols(), pieceLength), op);
  std::vector<double> sums(pieces.size() * sumWidth);
  bool streaming = streams(dx);
  if (gated) streaming = streaming && ((uintptr_t)dx.data - (uintptr_t)dup.data) % vectorBytes == 0;
  Operands operands{x, up, dy, dx, dup};
  withRows<true>(x, order, [&](auto tag, auto R) {
    parallelChunks((int64_t)pieces.size(), [&](int64_t chunk) {
      Coefficients set = coefficientsOf(weight, bias, pieces[chunk].set);
      rowsOf<typename decltype(tag)::type, decltype(R)::value, gated, true>(pieces[chunk], operands, order, set.w, eps,
                                                                            streaming, &sums[chunk * sumWidth]);
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
