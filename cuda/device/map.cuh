#pragma once
// y = f(a, ..) over views of any strides: what the elementwise rows and others like them are made of.
#include "device/convert.cuh"
#include "device/walk.cuh"
#include "launch.cuh"

namespace cuda {

constexpr unsigned mapThreads = 256;

// Elements of an item: what 16 bytes of the widest type hold, at most 8.
template <class... T>
constexpr int packOf() {
  constexpr int widest = (int)std::max({sizeof(T)...});
  return widest >= 2 ? 16 / widest : 8;
}

// So many blocks that the last ones to finish do not matter, each of which goes on through the items.
inline unsigned gridFor(int64_t items, int perThread = 1) {
  int64_t blocks = (items + mapThreads * perThread - 1) / (mapThreads * perThread);
  return (unsigned)std::min<int64_t>(blocks, (int64_t)device().processors * 32);
}

// A thread loads the packs of `ahead` items before it computes with the first. The inputs are of type In, computed with
// as C; fn(in, out) takes N packs and makes one.
template <class C, class In, class Out, int N, class Fn>
__global__ void __launch_bounds__(mapThreads) mapKernel(const __grid_constant__ Walk<N + 1> walk, const Fn fn) {
  constexpr int V = packOf<In, Out>(), ahead = N == 1 ? 4 : 2;
  const uint32_t step = gridDim.x * mapThreads;
  for (uint32_t first = blockIdx.x * mapThreads + threadIdx.x; first < walk.items; first += step * ahead) {
    Pack<In, V> in[ahead][N];
#pragma unroll
    for (int u = 0; u < ahead; u++)
      if (first + u * step < walk.items)
#pragma unroll
        for (int v = 0; v < N; v++) in[u][v] = walk.template load<In, V>(v + 1, first + u * step);
#pragma unroll
    for (int u = 0; u < ahead; u++) {
      if (first + u * step >= walk.items) break;
      C x[N][V];
#pragma unroll
      for (int v = 0; v < N; v++)
#pragma unroll
        for (int k = 0; k < V; k++) x[v][k] = loaded<C>(in[u][v].at[k]);
      Pack<Out, V> out;
      fn(x, out.at);
      walk.template store<Out, V>(0, first + u * step, out);
    }
  }
}

template <class C, class In, class Out, int N, class Fn>
void map(const char* name, const View* const (&views)[N + 1], Fn fn) {
  if (!views[0]->size()) return;
  Axes<N + 1>(views).split([&](const Axes<N + 1>& part) {
    Walk<N + 1> walk(part, packOf<In, Out>());
    launch(name, mapKernel<C, In, Out, N, Fn>, {gridFor(walk.items, N == 1 ? 4 : 2), mapThreads}, walk, fn);
  });
}

}  // namespace cuda
