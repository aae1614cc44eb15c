// Products without tensor cores: float32 and float64.
#include "device/product.cuh"
#include "device/shared.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace cuda {
namespace {

constexpr int threads = 256;

// A block makes a tile of size x size, a thread `each` x `each` of it, in groups of four neighbours.
template <class T, int size>
struct Tile {
  static constexpr int deep = size == 128 ? 8 : 16;
  static constexpr int each = size / 16, groups = each / 4, loads = size * deep / threads / 4;
  struct Half {
    T a[deep][size + 4], b[deep][size + 4];  // the next tile arrives in one half while the other is used
  } half[2];
  T staging[threads][4];
  Place place;  // kept here, and not in registers, while the sums are made
};

// A thread's part of a tile of an operand on its way through registers. along: the depth runs along the stored lines.
template <class T, int size>
struct Part {
  static constexpr int deep = Tile<T, size>::deep, loads = Tile<T, size>::loads;
  T v[loads][4];

  static __device__ void where(bool along, int i, int& line, int& first) {
    const int at = threadIdx.x + i * threads;
    line = along ? at / (deep / 4) : at / (size / 4);
    first = (along ? at % (deep / 4) : at % (size / 4)) * 4;
  }
  // at: the tile's first row or column, of `end`; k: its depth, of `depth`.
  __device__ void load(const T* x, int64_t step, bool along, bool packs, int at, int end, int k, int depth) {
#pragma unroll
    for (int i = 0; i < loads; i++) {
      int line, first;
      where(along, i, line, first);
      const bool inside = along ? at + line < end : k + line < depth;
      const int left = !inside ? 0 : along ? depth - k - first : end - at - first;
      const T* from = x + (int64_t)(along ? at + line : k + line) * step + (along ? k : at) + first;
      if (packs && left >= 4) {
        constexpr int n = perPack<T> < 4 ? perPack<T> : 4;
#pragma unroll
        for (int j = 0; j < 4; j += n) {
          const auto pack = loadPack<n>(from + j);
#pragma unroll
          for (int l = 0; l < n; l++) v[i][j + l] = pack.at[l];
        }
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++) v[i][j] = j < left ? from[j] : T(0);
      }
    }
  }
  __device__ void store(T (&to)[deep][size + 4], bool along) const {
#pragma unroll
    for (int i = 0; i < loads; i++) {
      int line, first;
      where(along, i, line, first);
      if (along) {
#pragma unroll
        for (int j = 0; j < 4; j++) to[first + j][line] = v[i][j];
      } else {
#pragma unroll
        for (int j = 0; j < 4; j++) to[line][first + j] = v[i][j];
      }
    }
  }
};

// A block makes a tile of y; each step of the depth is read from device memory while the one before it is multiplied.
template <class T, int size>
__global__ void __launch_bounds__(threads, 2) floatKernel(const __grid_constant__ Product p, bool packsA, bool packsB) {
  using Shared = Tile<T, size>;
  constexpr int deep = Shared::deep;
  auto& s = sharedMemory<Shared>();
  Place at;
  if (!place(p, size, size, deep, at)) return;
  if (threadIdx.x == 0) s.place = at;
  const bool aAlong = !p.a.transposed, bAlong = p.b.transposed;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  T sum[Shared::each][Shared::each] = {};
  Part<T, size> a, b;
  Walk walk(p, at, deep);
  auto load = [&] {
    a.load(reinterpret_cast<const T*>(p.a.data) + walk.a, p.a.step, aAlong, packsA, at.row, at.rows, walk.k, at.depth);
    b.load(reinterpret_cast<const T*>(p.b.data) + walk.b, p.b.step, bAlong, packsB, at.col, p.n, walk.k, at.depth);
    walk.k += deep;
    if (walk.k >= at.depth && p.sums > 1) {
      walk.a += Walk::between(p, walk.product, true);
      walk.b += Walk::between(p, walk.product++, false);
      walk.k = 0;
    }
  };
  const int steps = (int)(at.end - at.begin);
  if (steps > 0) load();
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    auto& half = s.half[step % 2];
    a.store(half.a, aAlong);
    b.store(half.b, bAlong);
    __syncthreads();  // this half is full; the other one has been read by all, who passed here since
    if (step + 1 < steps) load();
#pragma unroll
    for (int k = 0; k < deep; k++) {
      T left[Shared::each], right[Shared::each];
#pragma unroll
      for (int g = 0; g < Shared::groups; g++) {
        const auto l = loadPack<4>(&half.a[k][g * 64 + ty * 4]), r = loadPack<4>(&half.b[k][g * 64 + tx * 4]);
#pragma unroll
        for (int i = 0; i < 4; i++) left[g * 4 + i] = l.at[i], right[g * 4 + i] = r.at[i];
      }
#pragma unroll
      for (int i = 0; i < Shared::each; i++)
#pragma unroll
        for (int j = 0; j < Shared::each; j++) sum[i][j] += left[i] * right[j];
    }
  }
  __syncthreads();
  // Through shared memory, four neighbours at a time, so that the code of what follows is there once.
#pragma unroll 1
  for (int piece = 0; piece < Shared::each * Shared::groups; piece++) {
#pragma unroll
    for (int i = 0; i < Shared::each; i++)
#pragma unroll
      for (int g = 0; g < Shared::groups; g++)
        if (piece == i * Shared::groups + g)
#pragma unroll
          for (int j = 0; j < 4; j++) s.staging[threadIdx.x][j] = sum[i][g * 4 + j];
    const int i = piece / Shared::groups, g = piece % Shared::groups;
    const int row = s.place.row + i / 4 * 64 + ty * 4 + i % 4;
#pragma unroll 1
    for (int j = 0; j < 4; j += finishLength<T>) {
      const int col = s.place.col + g * 64 + tx * 4 + j;
      if (row < s.place.rows && col < p.n)
        finishPack<T>(p, s.place.y + row * p.yStep + col, col, s.staging[threadIdx.x] + j);
    }
  }
}

// Whether an operand may be read 16 bytes at a time.
bool packs(const Product& p, bool ofA, int64_t bytes) {
  const Operand& x = ofA ? p.a : p.b;
  uint64_t all = (uintptr_t)x.data | (uint64_t)x.step * bytes;
  for (int i = 0; i < p.kept + p.summed; i++) all |= (uint64_t)(ofA ? p.axes[i].a : p.axes[i].b) * bytes;
  if (!ofA && p.grouped == Grouped::rows) all |= (uint64_t)p.groupStride * bytes;
  return all % 16 == 0;
}

template <class T, int size>
void launchTiles(const Product& p) {
  launch("gemm", floatKernel<T, size>, {(unsigned)Tiles(p, size, size).blocks(p), threads, sizeof(Tile<T, size>)}, p,
         packs(p, true, sizeof(T)), packs(p, false, sizeof(T)));
}

}  // namespace

void gemmFloat(const Product& p, FloatTile tile) {
  if (p.type == Dtype::float64)
    launchTiles<double, 64>(p);
  else if (tile == FloatTile::large)
    launchTiles<float, 128>(p);
  else
    launchTiles<float, 64>(p);
}

}  // namespace cuda
