#pragma once
// Products of small matrices that are in the cache already, for kernels that use each result at once (attention).
#include <algorithm>

#include "cpu/vector.h"

namespace cpu::ISA {

// y (rows, vectors * lanes) = a @ b, or y + a @ b. Element (i, l) of a is a[i * aRow + l * aCol].
template <class C, int rows, int vectors>
__attribute__((noinline)) void smallProduct(int64_t depth, const C* a, int64_t aRow, int64_t aCol, const C* b,
                                            int64_t bRow, C* y, int64_t yRow, bool add) {
  Vector<C> sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < vectors; j++) sum[i][j] = add ? loadVector(y + i * yRow + j * lanes<C>) : Vector<C>{};
  for (int64_t l = 0; l < depth; l++, a += aCol, b += bRow) {
    Vector<C> right[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; j++) right[j] = loadVector(b + j * lanes<C>);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
      for (int j = 0; j < vectors; j++) sum[i][j] += a[i * aRow] * right[j];
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < vectors; j++) storeVector(y + i * yRow + j * lanes<C>, sum[i][j]);
}

template <class C, int vectors>
inline void smallRows(int rows, int64_t depth, const C* a, int64_t aRow, int64_t aCol, const C* b, int64_t bRow, C* y,
                      int64_t yRow, bool add) {
  switch (rows) {
    case 1:
      return smallProduct<C, 1, vectors>(depth, a, aRow, aCol, b, bRow, y, yRow, add);
    case 2:
      return smallProduct<C, 2, vectors>(depth, a, aRow, aCol, b, bRow, y, yRow, add);
    case 3:
      return smallProduct<C, 3, vectors>(depth, a, aRow, aCol, b, bRow, y, yRow, add);
    case 4:
      return smallProduct<C, 4, vectors>(depth, a, aRow, aCol, b, bRow, y, yRow, add);
    case 5:
      return smallProduct<C, 5, vectors>(depth, a, aRow, aCol, b, bRow, y, yRow, add);
    default:
      return smallProduct<C, 6, vectors>(depth, a, aRow, aCol, b, bRow, y, yRow, add);
  }
}

// What a row of the result needs: columns from `column` on, summed over [from, to).
struct Need {
  int64_t column, from, to;
};

// y (rows, cols) = a @ b (or + y), `cols` a multiple of the vector's lanes. need(i, n) says what the rows i .. i + n -
// 1 need at least; what they do not is left as it was.
template <class C, class Fn>
inline __attribute__((always_inline)) void tileProduct(int64_t rows, int64_t cols, const C* a, int64_t aRow,
                                                       int64_t aCol, const C* b, int64_t bRow, C* y, int64_t yRow,
                                                       bool add, Fn&& need) {
  constexpr int64_t high = 6, wide = (vectorBytes == 64 ? 4 : 2) * lanes<C>;
  for (int64_t i = 0; i < rows; i += high) {
    const int n = (int)std::min(high, rows - i);
    const Need needed = need(i, n);
    const C* left = a + i * aRow + needed.from * aCol;
    const C* right = b + needed.from * bRow;
    C* to = y + i * yRow;
    const int64_t depth = needed.to - needed.from;
    int64_t j = needed.column / lanes<C> * lanes<C>;
    for (; j + wide <= cols; j += wide)
      smallRows<C, wide / lanes<C>>(n, depth, left, aRow, aCol, right + j, bRow, to + j, yRow, add);
    for (; j + 2 * lanes<C> <= cols; j += 2 * lanes<C>)
      smallRows<C, 2>(n, depth, left, aRow, aCol, right + j, bRow, to + j, yRow, add);
    for (; j < cols; j += lanes<C>) smallRows<C, 1>(n, depth, left, aRow, aCol, right + j, bRow, to + j, yRow, add);
  }
}

// A square of 8 rows and columns, turned.
inline void turnSquare(const float* from, int64_t fromStep, float scale, float* to, int64_t toStep) {
  __m256 a[8], b[8];
  const __m256 factor = _mm256_set1_ps(scale);
  for (int i = 0; i < 8; i++) a[i] = _mm256_mul_ps(_mm256_loadu_ps(from + i * fromStep), factor);
  for (int i = 0; i < 8; i += 2)
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
      a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * toStep, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * toStep, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

}  // namespace cpu::ISA
