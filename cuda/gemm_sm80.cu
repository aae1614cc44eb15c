// Products of bf16 and f16 on the tensor cores as every GPU from sm_80 on has them.
#include "gemm_sm80.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace cuda {
namespace {

// A block makes a tile of y, a warp a part of it in its registers.
template <class T, class S, bool aTurned, bool bTurned, bool narrow>
__global__ void __launch_bounds__(S::threads, S::blocks) tensorKernel(const __grid_constant__ Product p, int2 widths) {
  auto& s = sharedMemory<Storage<S>>();
  Place at;
  if (!place(p, S::rows, S::cols, S::deep, at)) return;
  Sums<S> sum;
  sumTile<T, S, aTurned, bTurned, narrow>(p, widths, s, at, sum, AsTheyAre{});

  constexpr int down = S::warpRows / 16, across = S::warpCols / 8;
  float* staging = reinterpret_cast<float*>(s.bytes) + warp() * 16 * S::stagingRow;
#pragma unroll 1
  for (int piece = 0; piece < down; piece++) {
    stage<S>(sum, piece, staging);
    __syncwarp();
#pragma unroll 1
    for (int i = lane(); i < 16 * across; i += 32) {
      const int row = s.place.row + warpRow<S>() + 16 * piece + i / across;
      const int col = s.place.col + warpCol<S>() + i % across * 8;
      if (row < s.place.rows && col < p.n)
        finishPack<T>(p, s.place.y + row * p.yStep + col, col, staging + i / across * S::stagingRow + i % across * 8);
    }
    __syncwarp();
  }
}

template <class T, class S, bool narrow>
void launchShape(const Product& p, int2 widths) {
  auto go = [&](auto kernel) {
    launch("gemm", kernel, {(unsigned)Tiles(p, S::rows, S::cols).blocks(p), S::threads, sizeof(Storage<S>)}, p, widths);
  };
  if (!p.a.transposed)
    p.b.transposed ? go(tensorKernel<T, S, false, true, narrow>) : go(tensorKernel<T, S, false, false, narrow>);
  else if (!p.b.transposed)
    go(tensorKernel<T, S, true, false, narrow>);
  else if constexpr (narrow)
    go(tensorKernel<T, S, true, true, narrow>);
}

}  // namespace

void gemmSm80(const Product& p, TensorTile tile) {
  const int2 widths = {copyWidth(p, true), copyWidth(p, false)};
  auto go = [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (tile == TensorTile::small)
      launchShape<T, Small, true>(p, widths);
    else if (tile == TensorTile::medium)
      launchShape<T, Medium, false>(p, widths);
    else
      launchShape<T, Large, false>(p, widths);
  };
  p.type == Dtype::bfloat16 ? go(Tag<bf16>{}) : go(Tag<f16>{});
}

}  // namespace cuda
