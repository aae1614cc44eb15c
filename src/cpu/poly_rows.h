#pragma once
// What the polynomial kernels share: pieces of work, coefficients, sums of coefficient gradients, rows of 16-bit
// floats.
#include <vector>

#include "core/sentences.h"
#include "core/view.h"
#include "cpu/blocks.h"
#include "cpu/pool.h"
#include "cpu/stream.h"
#include "math/poly.h"

namespace cpu::ISA {

// Rows [begin, end), all with the coefficients of one set.
struct Piece {
  int64_t begin, end;
  int set;
};

// Cuts rows into pieces of at most `grain`; with offsets [E + 1], none reaches from one expert into the next. Where the
// cuts lie depends on nothing else, so sums over pieces are the same for any number of threads.
inline std::vector<Piece> piecesOf(const View& offsets, int64_t rows, int64_t grain, const char* op) {
  std::vector<Piece> pieces;
  auto cut = [&](int64_t begin, int64_t end, int set) {
    for (; begin < end; begin += grain) pieces.push_back({begin, begin + grain < end ? begin + grain : end, set});
  };
  if (!offsets.given()) {
    cut(0, rows, 0);
    return pieces;
  }
  const int32_t* at = offsets.as<int32_t>();
  int64_t sets = offsets.size() - 1;
  for (int64_t i = 0; i < sets; i++)
    if (at[i] > at[i + 1]) {
      fail(filled(sentence::offsetsFall, op, i + 1, at[i + 1], at[i]));
      return {};
    }
  if (at[0] != 0 || at[sets] != rows) {
    fail(filled(sentence::offsetsRange, op, at[0], at[sets], rows));
    return {};
  }
  for (int64_t set = 0; set < sets; set++) cut(at[set], at[set + 1], (int)set);
  return pieces;
}

// One set by power: w[0] is the bias, w[k] belongs to x^k. The tensors have the highest power first.
struct Coefficients {
  double w[poly::maxOrder + 1];
};
inline double numberAt(const View& v, int64_t i) {
  return v.dtype == Dtype::float64 ? v.as<double>()[i] : (double)v.as<float>()[i];
}
inline Coefficients coefficientsOf(const View& weight, const View& bias, int set) {
  Coefficients c{};
  int order = (int)weight.cols();
  c.w[0] = bias.given() ? numberAt(bias, set) : 0;
  for (int k = 1; k <= order; k++) c.w[k] = numberAt(weight, (int64_t)set * order + order - k);
  return c;
}

constexpr int sumWidth = poly::maxOrder + 1;

// Adds up each piece's sums (by power, from the bias on) in the order of the pieces.
inline void joinSums(const std::vector<Piece>& pieces, const std::vector<double>& sums, const View& dweight,
                     const View& dbias) {
  int order = (int)dweight.cols();
  int64_t sets = dbias.size();
  std::vector<double> totals(sets * sumWidth);
  for (size_t i = 0; i < pieces.size(); i++)
    for (int k = 0; k <= order; k++) totals[pieces[i].set * sumWidth + k] += sums[i * sumWidth + k];
  auto put = [](const View& v, int64_t i, double x) {
    if (v.dtype == Dtype::float64)
      v.as<double>()[i] = x;
    else
      v.as<float>()[i] = (float)x;
  };
  for (int64_t set = 0; set < sets; set++) {
    put(dbias, set, totals[set * sumWidth]);
    for (int k = 1; k <= order; k++) put(dweight, set * order + order - k, totals[set * sumWidth + k]);
  }
}

// Elements [at, at + n) of a contiguous view in the type that is computed in: the view's own memory, or a float copy.
template <class C>
const C* opened(const View& x, int64_t at, int64_t n, C* copy) {
  if (x.dtype == DtypeOf<C>::value) return x.as<C>() + at;
  if constexpr (std::is_same_v<C, float>) {
    if (x.dtype == Dtype::bfloat16)
      widen(x.as<bf16>() + at, n, copy);
    else
      widen(x.as<f16>() + at, n, copy);
  }
  return copy;
}
// Where to compute them; closed() then brings them to the view.
template <class C>
C* room(const View& y, int64_t at, C* copy) {
  return y.dtype == DtypeOf<C>::value ? y.as<C>() + at : copy;
}
template <class C>
void closed(const View& y, int64_t at, int64_t n, const C* copy) {
  if (y.dtype == DtypeOf<C>::value) return;
  if constexpr (std::is_same_v<C, float>) {
    if (y.dtype == Dtype::bfloat16)
      narrow(copy, n, y.as<bf16>() + at);
    else
      narrow(copy, n, y.as<f16>() + at);
  }
}

// Calls fn(Tag<C>, order as a constant or 0): the orders that kernels are compiled for; 0 means known at run time only.
template <class Fn>
HD void withOrder(Dtype t, int order, Fn&& fn) {
  if (t == Dtype::float64) return fn(Tag<double>{}, std::integral_constant<int, 0>{});
  switch (order) {
    case 2:
      return fn(Tag<float>{}, std::integral_constant<int, 2>{});
    case 3:
      return fn(Tag<float>{}, std::integral_constant<int, 3>{});
    case 4:
      return fn(Tag<float>{}, std::integral_constant<int, 4>{});
    default:
      return fn(Tag<float>{}, std::integral_constant<int, 0>{});
  }
}

constexpr int64_t pieceLength = 131072;  // elements of a piece
constexpr int64_t sumLength = 1024;      // elements that are summed in the compute type before double takes over

}  // namespace cpu::ISA
