#pragma once
// Sums of long rows: the largest element, sums of exponentials. Sums are in C within a block, in double over the
// blocks.
#include "core/view.h"
#include "math/transcendental.h"

namespace cpu::ISA {

constexpr int64_t sumBlock = 1024;

template <class C, class Fn>
HD double sumOver(int64_t n, Fn f) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += sumBlock) {
    int64_t end = begin + sumBlock < n ? begin + sumBlock : n;
    C s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = begin; i < end; i++) s += f(i);
    total += (double)s;
  }
  return total;
}

// -infinity if there is none; a NaN is passed over, and comes out of the sum of exponentials.
template <class C>
inline C largest(const C* x, int64_t n) {
  C m = -__builtin_inf();
#pragma omp simd reduction(max : m)
  for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
  return m;
}

// y = exp(x - m), and their sum. x and y may be the same.
template <class C>
inline double exponentials(const C* x, C m, C* y, int64_t n) {
  return sumOver<C>(n, [&](int64_t i) { return y[i] = math::exp(x[i] - m); });
}
template <class C>
inline double sumOfExponentials(const C* x, C m, int64_t n) {
  return sumOver<C>(n, [&](int64_t i) { return math::exp(x[i] - m); });
}

}  // namespace cpu::ISA
