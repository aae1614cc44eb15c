#pragma once
// Large matrix products in float32 by our own kernel: columns of b packed once for all threads, rows of a copied block
// by block to where no two of them fall on the same cache lines. Bits depend on the shape alone: every element is
// summed in blocks of `depthBlock`, whatever panel it is in.
#include "cpu/product.h"
#include "cpu/tile.h"

namespace cpu::ISA {

constexpr int64_t packedCols = 2 * lanes<float>;        // of a packed panel
constexpr int packedRows = vectorBytes == 64 ? 12 : 6;  // of a register tile
constexpr int64_t depthBlock = 384, rowBlock = 96;

inline int64_t packedPanels(int64_t n) { return (n + packedCols - 1) / packedCols; }

// Rows [l, l + depth) of b into panels of packedCols columns, each with its `k` rows one after another; columns beyond
// n are zero.
inline void packRows(Matrix<float> b, int64_t l, int64_t depth, int64_t k, int64_t n, float* packed) {
  for (int64_t i = l; i < l + depth; i++) {
    const float* from = b.data + i * b.layout.step;
    float* to = packed + i * packedCols;
    int64_t j = 0;
    for (; j + packedCols <= n; j += packedCols, to += k * packedCols) {
      storeVector(to, loadVector(from + j));
      storeVector(to + lanes<float>, loadVector(from + j + lanes<float>));
    }
    if (j < n)
      for (int64_t x = 0; x < packedCols; x++) to[x] = j + x < n ? from[j + x] : 0.0f;
  }
}
// The panel of columns from j on, of a matrix whose columns lie in order.
inline void packColumns(Matrix<float> b, int64_t j, int64_t k, int64_t n, float* to) {
  const int64_t cols = std::min(packedCols, n - j), step = b.layout.step;
  if (cols < packedCols) std::fill(to, to + k * packedCols, 0.0f);
  const float* from = b.data + j * step;
  int64_t c = 0;
  for (; c + 8 <= cols; c += 8) {
    int64_t i = 0;
    for (; i + 8 <= k; i += 8) turnSquare(from + c * step + i, step, 1.0f, to + i * packedCols + c, packedCols);
    for (; i < k; i++)
      for (int64_t x = c; x < c + 8; x++) to[i * packedCols + x] = from[x * step + i];
  }
  for (; c < cols; c++)
    for (int64_t i = 0; i < k; i++) to[i * packedCols + c] = from[c * step + i];
}

// A part of the whole of b (k, n), for a chunk.
inline int64_t packedParts(int64_t n, int64_t k) { return std::clamp<int64_t>(n * k / 65536, 1, 64); }
inline int64_t packedSize(int64_t n, int64_t k) { return packedPanels(n) * packedCols * k; }
inline void packPart(Matrix<float> b, int64_t k, int64_t n, float* packed, int64_t part, int64_t parts) {
  const int64_t count = b.layout.transposed ? packedPanels(n) : k;
  const int64_t begin = count * part / parts, end = count * (part + 1) / parts;
  if (!b.layout.transposed) return packRows(b, begin, end - begin, k, n, packed);
  for (int64_t p = begin; p < end; p++) packColumns(b, p * packedCols, k, n, packed + p * packedCols * k);
}

// A block of a as the register tiles read it, times alpha.
struct LeftBlock {
  const float* data;
  int64_t row, col;  // steps
};
inline LeftBlock copyBlock(Matrix<float> a, int64_t rows, int64_t depth, float alpha, float* to) {
  // An odd number of cache lines from row to row.
  const int64_t lines = a.layout.transposed ? rows : depth, count = a.layout.transposed ? depth : rows;
  const int64_t step = ((lines + 15) / 16 | 1) * 16;
  for (int64_t i = 0; i < count; i++) {
    const float* from = a.data + i * a.layout.step;
    float* row = to + i * step;
    int64_t x = 0;
    for (; x + lanes<float> <= lines; x += lanes<float>) storeVector(row + x, alpha * loadVector(from + x));
    for (; x < lines; x++) row[x] = alpha * from[x];
  }
  return a.layout.transposed ? LeftBlock{to, 1, step} : LeftBlock{to, step, 1};
}
constexpr int64_t leftSize = (rowBlock + 31) * (depthBlock + 31);

template <int rows>
inline void registerTile(int count, int64_t depth, const LeftBlock& a, const float* b, float* y, int64_t yStep,
                         bool add) {
  if (count == rows) return smallProduct<float, rows, 2>(depth, a.data, a.row, a.col, b, packedCols, y, yStep, add);
  if constexpr (rows > 6)
    if (count > 6) {
      registerTile<6>(6, depth, a, b, y, yStep, add);
      return registerTile<6>(count - 6, depth, {a.data + 6 * a.row, a.row, a.col}, b, y + 6 * yStep, yStep, add);
    }
  smallRows<float, 2>(count, depth, a.data, a.row, a.col, b, packedCols, y, yStep, add);
}

// y (rows, columns of the panel) = a @ panel, or + y.
inline void panelProduct(int64_t rows, int64_t cols, int64_t depth, LeftBlock a, const float* panel, float* y,
                         int64_t yStep, bool add) {
  for (int64_t i = 0; i < rows; i += packedRows) {
    const int count = (int)std::min<int64_t>(packedRows, rows - i);
    const LeftBlock left{a.data + i * a.row, a.row, a.col};
    float* to = y + i * yStep;
    if (cols == packedCols) {
      registerTile<packedRows>(count, depth, left, panel, to, yStep, add);
      continue;
    }
    float edge[packedRows * packedCols];
    registerTile<packedRows>(count, depth, left, panel, edge, packedCols, false);
    for (int r = 0; r < count; r++)
      for (int64_t c = 0; c < cols; c++)
        to[r * yStep + c] = edge[r * packedCols + c] + (add ? to[r * yStep + c] : 0.0f);
  }
}

inline void scaleRows(float* y, int64_t yStep, int64_t rows, int64_t cols, float beta) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < cols; j++) y[i * yStep + j] *= beta;
}

// The panels [from, to) of at most rowBlock rows, on the calling thread.
inline void multiplyBlock(Matrix<float> a, int64_t rows, const float* packed, int64_t from, int64_t to, int64_t n,
                          int64_t k, float alpha, float beta, float* y, int64_t yStep) {
  float* space = (float*)scratch(0, leftSize * sizeof(float));
  if (beta != 0 && beta != 1)
    scaleRows(y + from * packedCols, yStep, rows, std::min(n, to * packedCols) - from * packedCols, beta);
  for (int64_t l = 0; l < k; l += depthBlock) {
    const int64_t depth = std::min(depthBlock, k - l);
    const LeftBlock left = copyBlock(a.fromCol(l), rows, depth, alpha, space);
    for (int64_t p = from; p < to; p++)
      panelProduct(rows, std::min(packedCols, n - p * packedCols), depth, left, packed + (p * k + l) * packedCols,
                   y + p * packedCols, yStep, l > 0 || beta != 0);
  }
}

// Measured on Zen 4 against one OpenBLAS call of the whole product: 0.93 to 1.09 of its rate with AVX-512, while panels
// by OpenBLAS reach 0.86 to 1.0; with AVX2 0.85 to 1.06, so there OpenBLAS stays. Small products are not worth packing
// on all threads, nor low ones packing at all.
inline bool suitsPacked(int64_t m, int64_t n, int64_t k) {
  return vectorBytes == 64 && m >= 2 * packedRows && n >= packedCols && (double)m * (double)n * (double)k >= 4e6;
}

// On all threads.
inline void multiplyPacked(Matrix<float> a, Matrix<float> b, int64_t m, int64_t n, int64_t k, float alpha, float beta,
                           float* y, int64_t yStep) {
  const int64_t panels = packedPanels(n);
  // What few rows use is packed block by block, so that it is still in the cache then; many rows make up for reading it
  // again, and waiting for all threads at each block costs more.
  const int64_t step = m < 1024 ? std::min(k, depthBlock) : k;
  float* packed = (float*)scratch(3, packedSize(n, step) * sizeof(float));
  // Columns are divided only where rows make too few chunks to share out evenly, and the chunks stay large: each copies
  // its rows of a again.
  const int64_t down = (m + rowBlock - 1) / rowBlock;
  const double work = (double)m * (double)n * (double)k;
  const int64_t across = (int64_t)std::clamp(std::min(8.0 / (double)down, work / 64e6 / (double)down), 1.0,
                                             std::max(1.0, (double)panels / 4));
  for (int64_t l = 0; l < k; l += step) {
    const int64_t depth = std::min(step, k - l), parts = packedParts(n, depth);
    parallelChunks(parts, [&](int64_t part) { packPart(b.fromRow(l), depth, n, packed, part, parts); });
    parallelChunks(down * across, [&](int64_t chunk) {
      const int64_t i = chunk / across * rowBlock, rows = std::min(rowBlock, m - i);
      const int64_t from = chunk % across * panels / across, to = (chunk % across + 1) * panels / across;
      multiplyBlock(a.fromRow(i).fromCol(l), rows, packed, from, to, n, depth, alpha, l ? 1.0f : beta, y + i * yStep,
                    yStep);
    });
  }
}

}  // namespace cpu::ISA
