// isa: all
// Rotary position embedding of strided rows, and the table of its cosines and sines.
#include "math/rope.h"

#include "cpu/blocks.h"
#include "cpu/pool.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

template <class C>
void rotate(View x, View table, int64_t offset, bool inverse, View y) {
  int64_t d = x.cols(), half = d / 2, rows = x.rows();
  int axes = x.rank - 1;  // the last of them is the position
  const C sign = inverse ? C(-1) : C(1);
  parallelFor(rows, rowGrain(d), [&](int64_t begin, int64_t end) {
    C* space = (C*)scratch(0, (2 * d + 1) * sizeof(C));
    int64_t at[maxRank], from = 0, to = 0, rest = begin;
    for (int axis = axes - 1; axis >= 0; axis--) {
      at[axis] = rest % x.shape[axis];
      rest /= x.shape[axis];
      from += at[axis] * x.stride[axis];
      to += at[axis] * y.stride[axis];
    }
    for (int64_t row = begin; row < end; row++) {
      const C* in = load<C>(x, from, 1, d, space);
      C* out = target<C>(y, to, 1, space + d);
      const C *cosine = table.as<C>() + (offset + at[axes - 1]) * d, *sine = cosine + half;
#pragma omp simd
      for (int64_t i = 0; i < half; i++) {
        C a = in[i], b = in[i + half], s = sign * sine[i];
        out[i] = math::ropeFirst(a, b, cosine[i], s);
        out[i + half] = math::ropeSecond(a, b, cosine[i], s);
      }
      store(y, to, 1, d, out);
      for (int axis = axes - 1; axis >= 0; axis--) {
        from += x.stride[axis];
        to += y.stride[axis];
        if (++at[axis] < x.shape[axis]) break;
        from -= at[axis] * x.stride[axis];
        to -= at[axis] * y.stride[axis];
        at[axis] = 0;
      }
    }
  });
}

template <class C>
void fillTable(double theta, View table) {
  int64_t d = table.cols(), half = d / 2;
  parallelFor(table.rows(), rowGrain(d, 1024), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
      for (int64_t i = 0; i < half; i++) {
        double angle = math::ropeAngle(theta, t, i, d);
        table.as<C>()[t * d + i] = (C)math::cos(angle);
        table.as<C>()[t * d + half + i] = (C)math::sin(angle);
      }
  });
}

}  // namespace

void rope(View x, View table, int64_t offset, bool inverse, View y) {
  if (x.dtype == Dtype::float64)
    rotate<double>(x, table, offset, inverse, y);
  else
    rotate<float>(x, table, offset, inverse, y);
}

void ropeTable(double theta, View table) {
  if (table.dtype == Dtype::float64)
    fillTable<double>(theta, table);
  else
    fillTable<float>(theta, table);
}

}  // namespace cpu::ISA
