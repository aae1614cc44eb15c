// isa: all
// Softmax, its logarithm and logsumexp over the last axis, a row at a time.
#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/pool.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

// body(row, begin of the row, space for four rows of C), in parallel. exp costs some ten plain operations.
template <class C, class Fn>
void eachRow(View x, Fn body) {
  int64_t rows = x.rows(), n = x.cols();
  parallelFor(rows, rowGrain(n, 16384), [&](int64_t begin, int64_t end) {
    C* space = (C*)scratch(0, 4 * (n + 1) * sizeof(C));
    for (int64_t row = begin; row < end; row++) body(row, row * n, space);
  });
}

template <class Fn>
HD void withCompute(Dtype t, Fn&& fn) {
  if (t == Dtype::float64)
    fn(Tag<double>{});
  else
    fn(Tag<float>{});
}

// fn(a row of y, one of dy, where that of dx goes, n)
template <class Fn>
void rowGrad(View y, View dy, View dx, Fn fn) {
  withCompute(y.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    int64_t n = y.cols();
    eachRow<C>(y, [&](int64_t, int64_t at, C* space) {
      const C *p = load<C>(y, at, 1, n, space), *d = load<C>(dy, at, 1, n, space + n);
      C* out = target<C>(dx, at, 1, space + 2 * n);
      fn(p, d, out, n);
      store(dx, at, 1, n, out);
    });
  });
}

}  // namespace

void softmax(View x, View y) {
  withCompute(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    int64_t n = x.cols();
    eachRow<C>(x, [&](int64_t, int64_t at, C* space) {
      const C* in = load<C>(x, at, 1, n, space);
      C* out = target<C>(y, at, 1, space + n);
      C scale = (C)(1 / exponentials(in, largest(in, n), out, n));
      for (int64_t i = 0; i < n; i++) out[i] *= scale;
      store(y, at, 1, n, out);
    });
  });
}

// dx = y * (dy - sum(y dy))
void softmaxGrad(View y, View dy, View dx) {
  rowGrad(y, dy, dx, []<class C>(const C* p, const C* d, C* out, int64_t n) {
    C s = (C)sumOver<C>(n, [&](int64_t i) { return p[i] * d[i]; });
    for (int64_t i = 0; i < n; i++) out[i] = p[i] * (d[i] - s);
  });
}

void logSoftmax(View x, View y) {
  withCompute(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    int64_t n = x.cols();
    eachRow<C>(x, [&](int64_t, int64_t at, C* space) {
      const C* in = load<C>(x, at, 1, n, space);
      C* out = target<C>(y, at, 1, space + n);
      C m = largest(in, n), l = (C)__builtin_log(sumOfExponentials(in, m, n));
      for (int64_t i = 0; i < n; i++) out[i] = in[i] - m - l;
      store(y, at, 1, n, out);
    });
  });
}

// dx = dy - exp(y) * sum(dy)
void logSoftmaxGrad(View y, View dy, View dx) {
  rowGrad(y, dy, dx, []<class C>(const C* l, const C* d, C* out, int64_t n) {
    C s = (C)sumOver<C>(n, [&](int64_t i) { return d[i]; });
    for (int64_t i = 0; i < n; i++) out[i] = d[i] - math::exp(l[i]) * s;
  });
}

void logsumexp(View x, View y) {
  withCompute(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    int64_t n = x.cols();
    eachRow<C>(x, [&](int64_t row, int64_t at, C* space) {
      const C* in = load<C>(x, at, 1, n, space);
      C m = largest(in, n);
      if (!__builtin_isfinite(m)) m = 0;  // a row of -infinity gives -infinity, one with +infinity that
      C l = (C)((double)m + __builtin_log(sumOfExponentials(in, m, n)));
      C* out = target<C>(y, row, 1, &l);
      *out = l;
      store(y, row, 1, 1, out);
    });
  });
}

// dx = exp(x - y) * dy
void logsumexpGrad(View x, View y, View dy, View dx) {
  withCompute(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    int64_t n = x.cols();
    eachRow<C>(x, [&](int64_t row, int64_t at, C* space) {
      const C* in = load<C>(x, at, 1, n, space);
      C* out = target<C>(dx, at, 1, space + n);
      C one, other, l = *load<C>(y, row, 1, 1, &one), d = *load<C>(dy, row, 1, 1, &other);
      for (int64_t i = 0; i < n; i++) out[i] = math::exp(in[i] - l) * d;
      store(dx, at, 1, n, out);
    });
  });
}

}  // namespace cpu::ISA
