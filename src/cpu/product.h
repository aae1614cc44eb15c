#pragma once
// One matrix product on the calling thread, for every float type: 16-bit operands are widened block by block and summed
// in float.
#include <algorithm>

#include "core/dtype.h"
#include "core/matrix.h"
#include "cpu/blas.h"
#include "cpu/pool.h"

namespace cpu::ISA {

// A matrix in memory.
template <class T>
struct Matrix {
  const T* data;
  MatrixLayout layout;
  Matrix fromRow(int64_t i) const { return {data + i * (layout.transposed ? 1 : layout.step), layout}; }
  Matrix fromCol(int64_t j) const { return {data + j * (layout.transposed ? layout.step : 1), layout}; }
};

inline void gemm(Matrix<float> a, Matrix<float> b, int64_t m, int64_t n, int64_t k, double alpha, double beta, float* y,
                 int64_t yStep) {
  cpu::sgemm(a.layout.transposed, b.layout.transposed, m, n, k, (float)alpha, a.data, a.layout.step, b.data,
             b.layout.step, (float)beta, y, yStep);
}
inline void gemm(Matrix<double> a, Matrix<double> b, int64_t m, int64_t n, int64_t k, double alpha, double beta,
                 double* y, int64_t yStep) {
  cpu::dgemm(a.layout.transposed, b.layout.transposed, m, n, k, alpha, a.data, a.layout.step, b.data, b.layout.step,
             beta, y, yStep);
}

// A block of a 16-bit matrix as floats, stored the same way round.
template <class T>
Matrix<float> widened(Matrix<T> x, int64_t rows, int64_t cols, float* to) {
  if (x.layout.transposed) std::swap(rows, cols);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) to[i * cols + j] = (float)x.data[i * x.layout.step + j];
  return {to, {true, x.layout.transposed, cols}};
}

// The products of a sum one after another: y = alpha sum of a @ b + beta y. add() each of them, then finish(). Y is T,
// or float.
template <class T, class Y = T>
class Sum {
 public:
  Sum(int64_t m, int64_t n, int64_t k, double alpha, double beta, Y* y, int64_t yStep)
      : m(m), n(n), k(k), alpha(alpha), beta(beta), y(y), yStep(yStep) {
    if constexpr (!direct) sum = (float*)scratch(2, m * n * sizeof(float));
  }

  void add(Matrix<T> a, Matrix<T> b) {
    if constexpr (direct) {
      gemm(a, b, m, n, k, alpha, first ? beta : 1.0, y, yStep);
      first = false;
    } else {
      constexpr int64_t depth = 512;
      for (int64_t l = 0; l < k; l += depth, first = false) {
        const int64_t part = std::min(depth, k - l);
        Matrix<float> fa = widened(a.fromCol(l), m, part, (float*)scratch(0, m * part * sizeof(float)));
        Matrix<float> fb = widened(b.fromRow(l), part, n, (float*)scratch(1, n * part * sizeof(float)));
        gemm(fa, fb, m, n, part, alpha, first ? 0.0 : 1.0, sum, n);
      }
    }
  }

  void finish() {
    if constexpr (!direct)
      for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
          Y& to = y[i * yStep + j];
          to = Y(sum[i * n + j] + (beta ? (float)beta * (float)to : 0.0f));
        }
  }

 private:
  static constexpr bool direct = std::is_same_v<T, Compute<T>>;
  int64_t m, n, k;
  double alpha, beta;
  Y* y;
  int64_t yStep;
  float* sum = nullptr;
  bool first = true;
};

template <class T, class Y>
void multiply(Matrix<T> a, Matrix<T> b, int64_t m, int64_t n, int64_t k, double alpha, double beta, Y* y,
              int64_t yStep) {
  Sum<T, Y> sum(m, n, k, alpha, beta, y, yStep);
  sum.add(a, b);
  sum.finish();
}

// A few rows times the columns [begin, end) of a transposed matrix, as when one token is generated: b is read once, in
// order, and not packed first.
constexpr int64_t fewRows = 4;
template <class T>
bool suitsDots(int64_t m, const Matrix<T>& a, const Matrix<T>& b) {
  return m <= fewRows && b.layout.transposed && !a.layout.transposed;
}
template <class T, class Y>
void multiplyDots(Matrix<T> a, Matrix<T> b, int64_t m, int64_t begin, int64_t end, int64_t k, double alpha, double beta,
                  Y* y, int64_t yStep) {
  using C = Compute<T>;
  constexpr int64_t block = 512;  // bounds the rounding of a sum in float
  for (int64_t j = begin; j < end; j++) {
    C sums[fewRows] = {};
    for (int64_t l = 0; l < k; l += block) {
      const int64_t length = std::min(block, k - l);
      const T* u = b.data + j * b.layout.step + l;
      for (int64_t i = 0; i < m; i++) {
        const T* v = a.data + i * a.layout.step + l;
        C s = 0;
#pragma omp simd reduction(+ : s)
        for (int64_t x = 0; x < length; x++) s += (C)u[x] * (C)v[x];
        sums[i] += s;
      }
    }
    for (int64_t i = 0; i < m; i++) {
      Y& to = y[i * yStep + j];
      to = Y((C)alpha * sums[i] + (beta ? (C)beta * (C)to : C(0)));
    }
  }
}

}  // namespace cpu::ISA
