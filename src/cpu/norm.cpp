// isa: all
// RMSNorm and LayerNorm, forward and backward: a row stays in the first-level cache, each element is read once.
#include <memory>

#include "cpu/blocks.h"
#include "cpu/pool.h"
#include "cpu/rows.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

// Column sums over rows that chunks visit in order: floats for a few rows, then doubles, then the chunks in order.
template <class C>
struct ColumnSums {
  static constexpr int64_t few = 32;
  int64_t cols, grain, chunks;
  std::unique_ptr<double[]> partial;  // (chunks, cols)

  ColumnSums(int64_t rows, int64_t cols, bool wanted) : cols(cols) {
    grain = rowGrain(cols);
    if (grain < (rows + 63) / 64) grain = (rows + 63) / 64;  // at most 64 partial sums
    chunks = (rows + grain - 1) / grain;
    if (wanted && chunks) partial.reset(new double[chunks * cols]());
  }
  // `sums` of a few rows go to the chunk's, and are zero again.
  void flush(int64_t chunk, C* sums) {
    double* to = partial.get() + chunk * cols;
    for (int64_t i = 0; i < cols; i++) {
      to[i] += (double)sums[i];
      sums[i] = 0;
    }
  }
  void join(C* out) {
    parallelFor(cols, 2048, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        double s = 0;
        for (int64_t c = 0; c < chunks; c++) s += partial[c * cols + i];
        out[i] = (C)s;
      }
    });
  }
};

template <class C, bool centred>
void forward(View x, View residual, View weight, View bias, double eps, View sum, View y, View mean, View rstd) {
  int64_t rows = x.rows(), n = x.cols();
  const C *w = weight.as<C>(), *b = bias.as<C>();
  parallelFor(rows, rowGrain(n), [&](int64_t begin, int64_t end) {
    C* space = (C*)scratch(0, 3 * (n + 16) * sizeof(C));
    C *first = space, *second = first + n, *third = second + n;
    for (int64_t row = begin; row < end; row++) {
      int64_t at = row * n;
      const C* in = load<C>(x, at, 1, n, first);
      if (residual.given()) {
        const C* r = load<C>(residual, at, 1, n, second);
        C* h = target<C>(sum, at, 1, third);
        for (int64_t i = 0; i < n; i++) h[i] = in[i] + r[i];
        store(sum, at, 1, n, h);
        in = load<C>(sum, at, 1, n, first);  // as rounded: backward sees no other
      }
      C m = 0;
      if (centred) m = (C)(sumOver<C>(n, [&](int64_t i) { return in[i]; }) / (double)n);
      double square = sumOver<C>(n, [&](int64_t i) { return (in[i] - m) * (in[i] - m); });
      C r = (C)(1 / __builtin_sqrt(square / (double)n + eps));
      C* out = target<C>(y, at, 1, second);
      if (centred) {
        for (int64_t i = 0; i < n; i++) out[i] = (in[i] - m) * r;
        if (w)
          for (int64_t i = 0; i < n; i++) out[i] *= w[i];
        if (b)
          for (int64_t i = 0; i < n; i++) out[i] += b[i];
        if (mean.given()) mean.as<C>()[row] = m;
      } else if (w) {
        for (int64_t i = 0; i < n; i++) out[i] = in[i] * r * w[i];
      } else {
        for (int64_t i = 0; i < n; i++) out[i] = in[i] * r;
      }
      store(y, at, 1, n, out);
      if (rstd.given()) rstd.as<C>()[row] = r;
    }
  });
}

// With h = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - h * mean(g h)), without mean(g) if not
// centred; dweight = sum over rows of dy h, dbias of dy.
template <class C, bool centred>
void backward(View x, View weight, View mean, View rstd, View dy, View dsum, View dx, View dweight, View dbias) {
  int64_t rows = x.rows(), n = x.cols();
  const C* w = weight.as<C>();
  ColumnSums<C> forWeight(rows, n, dweight.given()), forBias(rows, n, dbias.given());
  int64_t grain = forWeight.grain;
  parallelChunks(forWeight.chunks, [&](int64_t chunk) {
    int64_t begin = chunk * grain, end = begin + grain < rows ? begin + grain : rows;
    C* space = (C*)scratch(0, 7 * n * sizeof(C));
    C *b0 = space, *b1 = b0 + n, *b2 = b1 + n, *b3 = b2 + n, *hat = b3 + n, *dw = hat + n, *db = dw + n;
    for (int64_t i = 0; i < n; i++) dw[i] = db[i] = 0;
    for (int64_t row = begin; row < end; row++) {
      int64_t at = row * n;
      const C* in = load<C>(x, at, 1, n, b0);
      const C* d = load<C>(dy, at, 1, n, b1);
      const C r = rstd.as<C>()[row], m = centred ? mean.as<C>()[row] : C(0);
      for (int64_t i = 0; i < n; i++) hat[i] = (in[i] - m) * r;
      if (dweight.given())
        for (int64_t i = 0; i < n; i++) dw[i] += d[i] * hat[i];
      if (dbias.given())
        for (int64_t i = 0; i < n; i++) db[i] += d[i];
      if (dx.given()) {
        C* out = target<C>(dx, at, 1, b2);
        double both, alone = 0;
        if (w) {
          both = sumOver<C>(n, [&](int64_t i) { return d[i] * w[i] * hat[i]; });
          if (centred) alone = sumOver<C>(n, [&](int64_t i) { return d[i] * w[i]; });
        } else {
          both = sumOver<C>(n, [&](int64_t i) { return d[i] * hat[i]; });
          if (centred) alone = sumOver<C>(n, [&](int64_t i) { return d[i]; });
        }
        const C p = (C)(both / (double)n), q = (C)(alone / (double)n);
        if (w)
          for (int64_t i = 0; i < n; i++) out[i] = r * (d[i] * w[i] - q - hat[i] * p);
        else
          for (int64_t i = 0; i < n; i++) out[i] = r * (d[i] - q - hat[i] * p);
        if (dsum.given()) {
          const C* more = load<C>(dsum, at, 1, n, b3);
          for (int64_t i = 0; i < n; i++) out[i] += more[i];
        }
        store(dx, at, 1, n, out);
      }
      if ((row - begin) % ColumnSums<C>::few == ColumnSums<C>::few - 1 || row + 1 == end) {
        if (dweight.given()) forWeight.flush(chunk, dw);
        if (dbias.given()) forBias.flush(chunk, db);
      }
    }
  });
  if (dweight.given()) forWeight.join(dweight.as<C>());
  if (dbias.given()) forBias.join(dbias.as<C>());
}

}  // namespace

void rmsNorm(View x, View residual, View weight, double eps, View sum, View y, View rstd) {
  if (x.dtype == Dtype::float64)
    forward<double, false>(x, residual, weight, {}, eps, sum, y, {}, rstd);
  else
    forward<float, false>(x, residual, weight, {}, eps, sum, y, {}, rstd);
}
void rmsNormGrad(View x, View weight, View rstd, View dy, View dsum, View dx, View dweight) {
  if (x.dtype == Dtype::float64)
    backward<double, false>(x, weight, {}, rstd, dy, dsum, dx, dweight, {});
  else
    backward<float, false>(x, weight, {}, rstd, dy, dsum, dx, dweight, {});
}
void layerNorm(View x, View residual, View weight, View bias, double eps, View sum, View y, View mean, View rstd) {
  if (x.dtype == Dtype::float64)
    forward<double, true>(x, residual, weight, bias, eps, sum, y, mean, rstd);
  else
    forward<float, true>(x, residual, weight, bias, eps, sum, y, mean, rstd);
}
void layerNormGrad(View x, View weight, View mean, View rstd, View dy, View dsum, View dx, View dweight, View dbias) {
  if (x.dtype == Dtype::float64)
    backward<double, true>(x, weight, mean, rstd, dy, dsum, dx, dweight, dbias);
  else
    backward<float, true>(x, weight, mean, rstd, dy, dsum, dx, dweight, dbias);
}

}  // namespace cpu::ISA
