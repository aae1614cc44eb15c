#pragma once
// Matrix products by OpenBLAS, which runs them on the thread that calls: splitting them is the pool's business.
#include <cstdint>
#include <string>

namespace cpu {

// Row-major: c (m, n) = alpha * a (m, k) @ b (k, n) + beta * c. A transposed operand is stored as (k, m) or (n, k).
// lda, ldb and ldc are the distances between stored rows. With beta = 0 what c held is not read, NaN included.
void sgemm(bool transposeA, bool transposeB, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
           const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
void dgemm(bool transposeA, bool transposeB, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
           int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc);

// Once, before the first product.
void blasInit();
// "OpenBLAS 0.3.21 (Haswell kernels)".
std::string blasName();

}  // namespace cpu
