#pragma once
// y = f(a, ..) over views of any strides: what the elementwise rows and others like them are made of.
#include "core/dtype.h"
#include "device/walk.cuh"
#include "launch.cuh"

namespace cuda {

constexpr unsigned mapThreads = 256;

// Elements of a pack: what 16 bytes of the widest type hold, at most 8.
template <class... T>
constexpr int packOf() {
  constexpr int widest = (int)std::max({sizeof(T)...});
  return widest >= 2 ? 16 / widest : 8;
}

// So many blocks that the last ones to finish do not matter, each of which goes on through the items.
inline unsigned gridFor(int64_t items) {
  const int64_t blocks = (items + mapThreads - 1) / mapThreads;
  return (unsigned)std::min<int64_t>(blocks, (int64_t)device().processors * 32);
}

template <class In, int V, int N>
__device__ __forceinline__ void loadItem(const Walk<N + 1>& walk, uint32_t item, Pack<In, V> (&in)[N]) {
  int64_t at[N + 1];
  if (item < walk.packs) {
    walk.template locatePack<V>(item, at);
#pragma unroll
    for (int v = 0; v < N; v++) in[v] = loadPackOf<In, V>(walk, v + 1, at[v + 1]);
    return;
  }
#pragma unroll
  for (int k = 0; k < V; k++) {
    walk.locateElement(min(walk.template elementOf<V>(item, k), walk.count - 1), at);
#pragma unroll
    for (int v = 0; v < N; v++) in[v].at[k] = walk.template as<In>(v + 1)[at[v + 1]];
  }
}

template <int N>
constexpr int atLeast = N == 1   ? 4
                        : N == 2 ? 3
                                 : 2;  // blocks at a time on a processor: registers for N operands

// Inputs are of type In, computed with as C; fn makes R of them, which is stored as Out. The next item's elements are
// on their way while fn has the last one's.
template <class C, class R, class In, class Out, int N, class Fn>
__global__ void __launch_bounds__(mapThreads, atLeast<N>)
    mapKernel(const __grid_constant__ Walk<N + 1> walk, const Fn fn) {
  constexpr int V = packOf<In, Out>();
  const uint32_t step = gridDim.x * mapThreads;
  Pack<In, V> in[N];
  uint32_t item = blockIdx.x * mapThreads + threadIdx.x;
  if (item < walk.items) loadItem(walk, item, in);
  for (; item < walk.items; item += step) {
    C x[N][V];
    R y[V];
    Pack<Out, V> out;
#pragma unroll
    for (int v = 0; v < N; v++)
#pragma unroll
      for (int k = 0; k < V; k++) x[v][k] = loaded<C>(in[v].at[k]);
    if (item + step < walk.items) loadItem(walk, item + step, in);
    fn(x, y);
#pragma unroll
    for (int k = 0; k < V; k++) out.at[k] = stored<Out>(y[k]);
    int64_t at[N + 1];
    if (item < walk.packs) {
      walk.template locatePack<V>(item, at);
      storePack<V>(walk.template as<Out>(0) + at[0], out);
      continue;
    }
#pragma unroll
    for (int k = 0; k < V; k++) {
      const uint32_t i = walk.template elementOf<V>(item, k);
      if (i >= walk.count) break;
      walk.locateElement(i, at);
      walk.template as<Out>(0)[at[0]] = out.at[k];
    }
  }
}

template <class C, class R, class In, class Out, int N, class Fn>
void mapPart(const char* name, const Axes<N + 1>& part, Fn fn) {
  const Walk<N + 1> walk(part, packOf<In, Out>());
  launch(name, mapKernel<C, R, In, Out, N, Fn>, {gridFor(walk.items), mapThreads}, walk, fn);
}
template <class C, class R, class In, class Out, int N, class Fn>
void map(const char* name, const View* const (&views)[N + 1], Fn fn) {
  if (!views[0]->size()) return;
  Axes<N + 1>(views).split([&](const Axes<N + 1>& part) { mapPart<C, R, In, Out, N>(name, part, fn); });
}

template <int N>
struct Dtypes {
  Dtype at[N];
};

// As mapKernel, for dtypes that are not worth kernels of their own: chosen as the elements come.
template <class C, class R, int N, class Fn>
__global__ void __launch_bounds__(mapThreads)
    mapAnyKernel(const __grid_constant__ Walk<N + 1> walk, const Dtypes<N + 1> types, const Fn fn) {
  const uint32_t step = gridDim.x * mapThreads;
  for (uint32_t i = blockIdx.x * mapThreads + threadIdx.x; i < walk.count; i += step) {
    C x[N][1] = {};
    R y[1] = {};
    int64_t at[N + 1];
    walk.locateElement(i, at);
#pragma unroll
    for (int v = 0; v < N; v++)
      withDtype(types.at[v + 1], [&](auto tag) {
        using T = typename decltype(tag)::type;
        x[v][0] = loaded<C>(walk.template as<T>(v + 1)[at[v + 1]]);
      });
    fn(x, y);
    withDtype(types.at[0], [&](auto tag) {
      using T = typename decltype(tag)::type;
      walk.template as<T>(0)[at[0]] = stored<T>(y[0]);
    });
  }
}

template <class C, class R, int N, class Fn>
void mapAny(const char* name, const View* const (&views)[N + 1], Fn fn) {
  if (!views[0]->size()) return;
  Dtypes<N + 1> types;
  for (int v = 0; v <= N; v++) types.at[v] = views[v]->dtype;
  Axes<N + 1>(views).split([&](const Axes<N + 1>& part) {
    const Walk<N + 1> walk(part, 1);
    launch(name, mapAnyKernel<C, R, N, Fn>, {gridFor(walk.count), mapThreads}, walk, types, fn);
  });
}

}  // namespace cuda
