#pragma once
// What the tensor-core kernels of attention share: tiles of rows in shared memory, and the warp's pieces of them. A
// block has four warps; each owns 16 * M of the block's rows, so that it waits for others only when a tile changes.
#include <bit>

#include "attention.cuh"
#include "device/async.cuh"
#include "device/exp2.cuh"
#include "device/mma.cuh"
#include "device/opaque.cuh"
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"

namespace cuda::sm80 {

constexpr int warpsOfBlock = 4, threads = 32 * warpsOfBlock;
constexpr float log2e = 1.44269504f;

// The 16-byte pieces of a row are stored in another order in each of eight rows, so that the eight rows that ldmatrix
// reads at once lie in different banks. `flip` is what a piece's number is xor-ed with.
template <int width>
__device__ __forceinline__ int flip(int row) {
  return width % 64 == 0 ? row & 7 : row >> 1 & 3;
}
// Where elements 8 * piece and on of a row are.
template <int width>
__device__ __forceinline__ int place(int row, int piece) {
  return row * width + (piece ^ flip<width>(row)) * 8;
}

// Begins to fill a tile with `count` rows, zeros beyond them and beyond `depth`. row(i) points at row i; next(from, i,
// n) of a place in row i is that place in row i + n.
template <int rows, int width, int unrolled, class T, class Row, class Next>
__device__ __forceinline__ void fetchRows(T* tile, int count, int depth, bool vectors, Row row, Next next) {
  constexpr int pieces = width / 8, together = (int)std::bit_floor(unsigned(threads / pieces));  // rows at a time
  static_assert(rows % together == 0);
  const int r = (int)threadIdx.x / pieces, c = (int)threadIdx.x % pieces;
  if (together * pieces < threads && r >= together) return;
  const T* from = row(r) + 8 * c;
  if (vectors) {
    const bool inside = 8 * c < depth;
#pragma unroll unrolled
    for (int i = 0; i < rows; i += together) {
      // Nothing is read at the address of a row past the end.
      copyAsync<16>(tile + place<width>(r + i, c), from, r + i < count && inside ? 16 : 0);
      from = next(from, r + i, together);
    }
    return;
  }
#pragma unroll 1
  for (int i = r; i < rows; i += together) {
    T* to = tile + place<width>(i, c);
#pragma unroll 1
    for (int d = 0; d < 8; d++) to[d] = i < count && 8 * c + d < depth ? from[d] : T(0.0f);
    from = next(from, i, together);
  }
}
// Neighbouring rows from x on.
template <int rows, int width, class T>
__device__ __forceinline__ void fetch(T* tile, const T* x, int64_t step, int count, int depth, bool vectors) {
  fetchRows<rows, width, rows>(
      tile, count, depth, vectors, [=](int i) { return x + i * step; },
      [=](const T* from, int, int n) { return opaque(from) + n * step; });
}

// A lane's place in a tile for ldmatrix; rows are then moved by multiples of 8, columns by multiples of 16.
template <class T, int width>
struct Lane {
  const T* row;
  int turn;
  __device__ __forceinline__ Lane(const T* tile, int row, int piece)
      : row(tile + row * width), turn((piece ^ flip<width>(row)) * 8) {}
  __device__ __forceinline__ const T* at(int rows, int column) const { return row + rows * width + (column ^ turn); }
};
// Rows are those of the product's left side, or the depth of its right side (loadMatricesTransposed).
template <int width, class T>
__device__ __forceinline__ Lane<T, width> lanesDown(const T* tile) {
  return {tile, lane() % 16, lane() / 16};
}
// Rows are the columns of the product's right side.
template <int width, class T>
__device__ __forceinline__ Lane<T, width> lanesAcross(const T* tile) {
  return {tile, lane() / 16 * 8 + lane() % 8, lane() / 8 % 2};
}

// c (16 M, N) += a @ b^T over `width` columns: a's rows from a.row on, b's rows from b.row on.
template <int M, int N, int width, class T>
__device__ __forceinline__ void multiplyRows(float (&c)[M][N / 8][4], Lane<T, width> a, Lane<T, width> b) {
  a.turn = opaque(a.turn), b.turn = opaque(b.turn);
#pragma unroll
  for (int k = 0; k < width; k += 16) {
    uint32_t left[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) loadMatrices(left[m], a.at(16 * m, k));
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t both[4];
      loadMatrices(both, b.at(n, k));
      const uint32_t right[2][2] = {{both[0], both[1]}, {both[2], both[3]}};
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) multiplyAdd<T>(c[m][n / 8 + half], left[m], right[half]);
    }
  }
}

// c (16 M, columns) += weights (16 M, N) @ the tile's N rows, `columns` of their columns. The weights go from registers
// where a product left them to registers where the next one reads them.
template <int M, int N, int columns, int width, class T>
__device__ __forceinline__ void multiplyWeights(float (&c)[M][columns / 8][4], const float (&weights)[M][N / 8][4],
                                                Lane<T, width> b, int column = 0) {
  b.turn = opaque(b.turn);
#pragma unroll
  for (int k = 0; k < N; k += 16) {
    uint32_t left[M][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        left[m][i] = packTwo<T>(weights[m][k / 8 + i / 2][i % 2 * 2], weights[m][k / 8 + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int d = 0; d < columns; d += 16) {
      uint32_t both[4];
      loadMatricesTransposed(both, b.at(k, column + d));
      const uint32_t right[2][2] = {{both[0], both[1]}, {both[2], both[3]}};
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) multiplyAdd<T>(c[m][d / 8 + half], left[m], right[half]);
    }
  }
}

// Writes a warp's sums (16 M, columns), times factor(m, half) for rows 16 m + 8 half + lane / 4, to the rows that
// row(i) points at, through `own`: 16 M rows of shared memory that no other warp uses.
template <int M, int columns, int width, class T, class Factor, class Row>
__device__ __forceinline__ void storeRows(const float (&sum)[M][columns / 8][4], Factor factor, T* own, Row row,
                                          int column, int depth, bool vectors) {
  __syncwarp();
  const int turn = flip<width>(lane() / 4) * 8;
  T* const from = own + lane() / 4 * width + lane() % 4 * 2;
#pragma unroll
  for (int n = 0; n < columns / 8; n++)
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float f = factor(m, half);
        *reinterpret_cast<uint32_t*>(from + (16 * m + 8 * half) * width + (8 * n ^ turn)) =
            packTwo<T>(sum[m][n][2 * half] * f, sum[m][n][2 * half + 1] * f);
      }
  __syncwarp();
  constexpr int pieces = columns / 8;
#pragma unroll 2
  for (int i = lane(); i < 16 * M * pieces; i += 32) {
    const int r = i / pieces, d = column + i % pieces * 8;
    T* to = row(r);
    if (!to || d >= depth) continue;
    const T* piece = own + place<width>(r, i % pieces);
    if (vectors)
      storePack(to + d, loadPack<8>(piece));
    else
#pragma unroll 1
      for (int j = 0; j < 8 && d + j < depth; j++) to[d + j] = piece[j];
  }
}

// What D is padded to.
constexpr int widthOf(int depth) {
  return depth <= 32 ? 32 : depth <= 64 ? 64 : depth <= 96 ? 96 : depth <= 128 ? 128 : 256;
}

// Calls fn with the dtype and the width.
template <class Fn>
void withKind(Dtype type, int depth, Fn fn) {
  using std::integral_constant;
  auto withWidth = [&](auto tag) {
    switch (widthOf(depth)) {
      case 32:
        return fn(tag, integral_constant<int, 32>{});
      case 64:
        return fn(tag, integral_constant<int, 64>{});
      case 96:
        return fn(tag, integral_constant<int, 96>{});
      case 128:
        return fn(tag, integral_constant<int, 128>{});
      default:
        return fn(tag, integral_constant<int, 256>{});
    }
  };
  type == Dtype::bfloat16 ? withWidth(Tag<bf16>{}) : withWidth(Tag<f16>{});
}

}  // namespace cuda::sm80
