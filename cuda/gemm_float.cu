// Products without tensor cores: float32 and float64.
#include <type_traits>

#include "device/product.cuh"
#include "device/shared.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace cuda {
namespace {

constexpr int tile = 64, depth = 16, threads = 256;

template <class C>
struct SmallTiles {
  C a[depth][tile + 4], b[depth][tile + 4];
};

// A block makes a tile of 64 x 64, a thread 4 x 4 of it; any layout, one element at a time.
template <class T>
__global__ void __launch_bounds__(threads) smallTilesKernel(Product p) {
  using C = Compute<T>;
  auto& s = sharedMemory<SmallTiles<C>>();
  Place at;
  if (!place(p, tile, tile, depth, at)) return;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  C sum[4][4] = {};
  Walk walk(p, at, depth);
  for (int64_t step = at.begin; step < at.end; step++) {
    const T *a = reinterpret_cast<const T*>(p.a.data) + walk.a, *b = reinterpret_cast<const T*>(p.b.data) + walk.b;
    for (int i = threadIdx.x; i < tile * depth; i += threads) {
      {
        const int row = p.a.transposed ? i % tile : i / depth, col = p.a.transposed ? i / tile : i % depth;
        const int64_t r = at.row + row, k = walk.k + col;
        const bool inside = r < at.rows && k < at.depth;
        s.a[col][row] = inside ? (C)a[p.a.transposed ? k * p.a.step + r : r * p.a.step + k] : C(0);
      }
      {
        const int row = p.b.transposed ? i % depth : i / tile, col = p.b.transposed ? i / depth : i % tile;
        const int64_t k = walk.k + row, c = at.col + col;
        const bool inside = c < p.n && k < at.depth;
        s.b[row][col] = inside ? (C)b[p.b.transposed ? c * p.b.step + k : k * p.b.step + c] : C(0);
      }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < depth; k++) {
      C left[4], right[4];
#pragma unroll
      for (int i = 0; i < 4; i++) left[i] = s.a[k][ty * 4 + i], right[i] = s.b[k][tx * 4 + i];
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] += left[i] * right[j];
    }
    __syncthreads();
    walk.k += depth;
    if (walk.k >= at.depth && p.sums > 1) {
      walk.a += Walk::between(p, walk.product, true);
      walk.b += Walk::between(p, walk.product++, false);
      walk.k = 0;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int row = at.row + ty * 4 + i, col = at.col + tx * 4 + j;
      if (row < at.rows && col < p.n) finish<T>(p, at.y + row * p.yStep + col, col, sum[i][j]);
    }
}

}  // namespace

void gemmFloat(const Product& p) {
  auto go = [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("gemm", smallTilesKernel<T>, {(unsigned)Tiles(p, tile, tile).blocks(p), threads, sizeof(SmallTiles<T>)}, p);
  };
  p.type == Dtype::float64 ? go(Tag<double>{}) : go(Tag<float>{});
}

}  // namespace cuda
