// Copies, from any dtype to any, and tensors made from nothing.
#include "device/map.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "kernels.h"

namespace cuda {
namespace {

struct Same {
  template <class C, int V>
  __device__ void operator()(const C (&x)[1][V], C (&y)[V]) const {
#pragma unroll
    for (int k = 0; k < V; k++) y[k] = x[0][k];
  }
};

// A square of elements on its way from lines of x to lines of y. The padding spreads a column over the banks.
template <class B>
struct Square {
  static constexpr int side = sizeof(B) <= 2 ? 64 : 32;
  B at[side][side + (sizeof(B) < 4 ? 4 / sizeof(B) : 1)];
};

// x lies in order along the axis `across`, y along the last one: a block a square, read by x's lines and written by
// y's.
template <class B>
__global__ void __launch_bounds__(mapThreads) transposeKernel(const __grid_constant__ Walk<2> walk, int across,
                                                              Divisor colTiles, Divisor rowTiles, uint32_t tiles) {
  auto& s = sharedMemory<Square<B>>();
  constexpr int side = Square<B>::side, step = mapThreads / 32;
  const int last = walk.rank - 1;
  const int rows = (int)walk.shape[across].by, cols = (int)walk.shape[last].by;
  for (uint32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    uint32_t line = colTiles.quotient(tile), rest = rowTiles.quotient(line);
    const int i = (int)(line - rest * rowTiles.by) * side, j = (int)(tile - line * colTiles.by) * side;
    const B* x = (const B*)walk.data[1] + i + j * walk.stride[1][last];
    B* y = (B*)walk.data[0] + i * walk.stride[0][across] + j;
    for (int axis = last - 1; axis >= 0; axis--) {
      if (axis == across) continue;
      uint32_t next = walk.shape[axis].quotient(rest), at = rest - next * walk.shape[axis].by;
      x += at * walk.stride[1][axis];
      y += at * walk.stride[0][axis];
      rest = next;
    }
#pragma unroll
    for (int c = warp(); c < side; c += step)
#pragma unroll
      for (int r = lane(); r < side; r += 32)
        if (i + r < rows && j + c < cols) s.at[c][r] = x[c * walk.stride[1][last] + r];
    __syncthreads();
#pragma unroll
    for (int r = warp(); r < side; r += step)
#pragma unroll
      for (int c = lane(); c < side; c += 32)
        if (i + r < rows && j + c < cols) y[r * walk.stride[0][across] + c] = s.at[c][r];
    __syncthreads();
  }
}

// The axis along which x lies in order, if y does along another, and both are long enough for squares; else -1.
int transposed(const Axes<2>& axes) {
  const int last = axes.rank - 1;
  if (axes.step(0) != 1 || axes.step(1) == 1 || axes.shape[last] < 8) return -1;
  for (int axis = 0; axis < last; axis++)
    if (axes.stride[1][axis] == 1 && axes.shape[axis] >= 8) return axis;
  return -1;
}

template <class B>
void copyBits(const View& x, const View& y) {
  Axes<2>({&y, &x}).split([&](const Axes<2>& axes) {
    const int across = transposed(axes);
    if (across < 0) return mapPart<B, B, B, B, 1>("copy", axes, Same{});
    const Walk<2> walk(axes, 1);
    const int64_t side = Square<B>::side, rows = axes.shape[across], cols = axes.shape[axes.rank - 1];
    const Divisor colTiles(blocksFor(cols, side)), rowTiles(blocksFor(rows, side));
    const int64_t tiles = axes.count / (rows * cols) * colTiles.by * rowTiles.by;
    launch("copy", transposeKernel<B>,
           {(unsigned)std::min<int64_t>(tiles, device().processors * 64), mapThreads, sizeof(Square<B>)}, walk, across,
           colTiles, rowTiles, (uint32_t)tiles);
  });
}

template <class B>
__global__ void __launch_bounds__(mapThreads) fillKernel(const __grid_constant__ Walk<1> walk, B value) {
  constexpr int V = packOf<B>();
  const uint32_t step = gridDim.x * mapThreads, thread = blockIdx.x * mapThreads + threadIdx.x;
  int64_t at[1];
  Pack<B, V> pack;
#pragma unroll
  for (int k = 0; k < V; k++) pack.at[k] = value;
  for (uint32_t i = thread; i < walk.packs; i += step) {
    walk.template locatePack<V>(i, at);
    storePack<V>(walk.template as<B>(0) + at[0], pack);
  }
  for (uint32_t i = walk.packs * V + thread; i < walk.count; i += step) {
    walk.locateElement(i, at);
    walk.template as<B>(0)[at[0]] = value;
  }
}

template <class T>
__global__ void __launch_bounds__(mapThreads) arangeKernel(T* y, int64_t n, double start, double step) {
  for (int64_t i = blockIdx.x * (int64_t)mapThreads + threadIdx.x; i < n; i += (int64_t)gridDim.x * mapThreads)
    y[i] = stored<T>(start + step * (double)i);
}

}  // namespace

void copy(View x, View y) {
  if (!y.size()) return;
  if (x.dtype == y.dtype) return withBits(x.dtype, [&](auto tag) { copyBits<typename decltype(tag)::type>(x, y); });
  auto hot = [&](auto from, auto to) {
    using X = typename decltype(from)::type;
    using Y = typename decltype(to)::type;
    map<float, float, X, Y, 1>("copy", {&y, &x}, Same{});
  };
  auto pair = [&](Dtype from, Dtype to) { return x.dtype == from && y.dtype == to; };
  if (pair(Dtype::float32, Dtype::bfloat16)) return hot(Tag<float>{}, Tag<bf16>{});
  if (pair(Dtype::float32, Dtype::float16)) return hot(Tag<float>{}, Tag<f16>{});
  if (pair(Dtype::bfloat16, Dtype::float32)) return hot(Tag<bf16>{}, Tag<float>{});
  if (pair(Dtype::float16, Dtype::float32)) return hot(Tag<f16>{}, Tag<float>{});
  // Through int64 only what fits there: integers.
  if (isFloat(x.dtype) || isFloat(y.dtype)) return mapAny<double, double, 1>("copy", {&y, &x}, Same{});
  mapAny<int64_t, int64_t, 1>("copy", {&y, &x}, Same{});
}

void fill(View y, double value) {
  if (!y.size()) return;
  withDtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T element = stored<T>(value);
    withBits(y.dtype, [&](auto size) {
      using B = typename decltype(size)::type;
      B bits = 0;
      std::memcpy(&bits, &element, std::min(sizeof(B), sizeof(T)));
      Axes<1>({&y}).split([&](const Axes<1>& part) {
        Walk<1> walk(part, packOf<B>());
        launch("fill", fillKernel<B>, {gridFor(walk.packs ? walk.packs : walk.count), mapThreads}, walk, bits);
      });
    });
  });
}

void arange(View y, double start, double step) {
  withDtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("arange", arangeKernel<T>, {gridFor(y.size()), mapThreads}, y.as<T>(), y.size(), start, step);
  });
}

}  // namespace cuda
