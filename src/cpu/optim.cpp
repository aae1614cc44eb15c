// isa: all
// The optimiser over flat buffers: each element is read and written once.
#include "math/adamw.h"

#include <memory>

#include "cpu/blocks.h"
#include "cpu/pool.h"
#include "cpu/rows.h"
#include "kernels.h"

namespace cpu::ISA {

void sumSquares(View x, View sum) {
  constexpr int64_t grain = 65536;
  int64_t n = x.size(), chunks = (n + grain - 1) / grain;
  std::unique_ptr<double[]> partial(new double[chunks + 1]);
  auto add = [&](auto tag) {
    using C = typename decltype(tag)::type;
    parallelChunks(chunks, [&](int64_t chunk) {
      int64_t begin = chunk * grain, end = begin + grain < n ? begin + grain : n;
      C space[sumBlock];
      double s = 0;
      for (int64_t at = begin; at < end; at += sumBlock) {
        int64_t length = end - at < sumBlock ? end - at : sumBlock;
        const C* in = load<C>(x, at, 1, length, space);
        // In double: the square of a float can overflow.
        double block = 0;
#pragma omp simd reduction(+ : block)
        for (int64_t i = 0; i < length; i++) block += (double)in[i] * (double)in[i];
        s += block;
      }
      partial[chunk] = s;
    });
  };
  if (x.dtype == Dtype::float64)
    add(Tag<double>{});
  else
    add(Tag<float>{});
  double total = 0;
  for (int64_t i = 0; i < chunks; i++) total += partial[i];
  *sum.as<double>() = total;
}

void clipCoefficient(View sums, View loss, double maxNorm, View state) {
  double total = 0;
  for (int64_t i = 0, n = sums.size(); i < n; i++) total += sums.as<double>()[i];
  double norm = __builtin_sqrt(total), space = 0;
  bool finite = __builtin_isfinite(norm);
  if (loss.given()) finite = finite && __builtin_isfinite(*load<double>(loss, 0, 1, 1, &space));
  double* s = state.as<double>();
  double coefficient = maxNorm > 0 ? maxNorm / (norm + 1e-6) : 1;
  s[1] = coefficient < 1 ? coefficient : 1;
  s[2] = finite;
  s[3] = norm;
}

void countUpdate(View state) { state.as<double>()[0] += state.as<double>()[2]; }

namespace {

template <class C>
void step(View p, View g, View m, View v, View half, const math::Adamw<C>& rule) {
  parallelFor(p.size(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += blockLength) {
      int64_t n = end - at < blockLength ? end - at : blockLength;
      C space[blockLength];
      C *ps = p.as<C>() + at, *ms = m.as<C>() + at, *vs = v.as<C>() + at;
      const C* gs = load<C>(g, at, 1, n, space);
#pragma omp simd
      for (int64_t i = 0; i < n; i++) rule.update(ps[i], gs[i], ms[i], vs[i]);
      if (half.given()) store(half, at, 1, n, ps);
    }
  });
}

}  // namespace

void adamw(View p, View g, View m, View v, View half, View hyper, View state) {
  const double *h = hyper.as<double>(), *s = state.as<double>();
  if (s[2] == 0) return;
  if (p.dtype == Dtype::float64)
    step<double>(p, g, m, v, half, {h[0], h[1], h[2], h[3], h[4], s[0], s[1]});
  else
    step<float>(p, g, m, v, half, {h[0], h[1], h[2], h[3], h[4], s[0], s[1]});
}

}  // namespace cpu::ISA
