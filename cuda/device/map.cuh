#pragma once
// y = f(a, ..) over views of any strides: what the elementwise rows and others like them are made of.
#include "device/convert.cuh"
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
inline unsigned gridFor(int64_t items, int perThread = 1) {
  int64_t blocks = (items + mapThreads * perThread - 1) / (mapThreads * perThread);
  return (unsigned)std::min<int64_t>(blocks, (int64_t)device().processors * 32);
}

// A thread loads `ahead` packs of each input before it computes with the first; what is not packed goes element by
// element, as many ahead. Inputs are of type In, computed with as C; fn makes R of them, which is stored as Out.
template <class C, class R, class In, class Out, int N, class Fn>
__global__ void __launch_bounds__(mapThreads) mapKernel(const __grid_constant__ Walk<N + 1> walk, const Fn fn) {
  constexpr int V = packOf<In, Out>(), ahead = N == 1 ? 4 : 2;
  const uint32_t step = gridDim.x * mapThreads, thread = blockIdx.x * mapThreads + threadIdx.x;
  C x[N][V];
  R y[V];
  for (uint32_t first = thread; first < walk.packs; first += step * ahead) {
    Pack<In, V> in[ahead][N];
    int64_t to[ahead];
#pragma unroll
    for (int u = 0; u < ahead; u++) {
      if (first + u * step >= walk.packs) break;
      int64_t at[N + 1];
      walk.template locatePack<V>(first + u * step, at);
      to[u] = at[0];
#pragma unroll
      for (int v = 0; v < N; v++) in[u][v] = loadPackOf<In, V>(walk, v + 1, at[v + 1]);
    }
#pragma unroll
    for (int u = 0; u < ahead; u++) {
      if (first + u * step >= walk.packs) break;
#pragma unroll
      for (int v = 0; v < N; v++)
#pragma unroll
        for (int k = 0; k < V; k++) x[v][k] = loaded<C>(in[u][v].at[k]);
      fn(x, y);
      Pack<Out, V> out;
#pragma unroll
      for (int k = 0; k < V; k++) out.at[k] = stored<Out>(y[k]);
      storePack<V>(walk.template as<Out>(0) + to[u], out);
    }
  }
  for (uint32_t first = walk.packs * V + thread; first < walk.count; first += step * V) {
    int64_t to[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
      int64_t at[N + 1];
      walk.locateElement(min(first + k * step, walk.count - 1), at);
      to[k] = at[0];
#pragma unroll
      for (int v = 0; v < N; v++) x[v][k] = loaded<C>(walk.template as<In>(v + 1)[at[v + 1]]);
    }
    fn(x, y);
#pragma unroll
    for (int k = 0; k < V; k++)
      if (first + k * step < walk.count) walk.template as<Out>(0)[to[k]] = stored<Out>(y[k]);
  }
}

template <class C, class R, class In, class Out, int N, class Fn>
void mapPart(const char* name, const Axes<N + 1>& part, Fn fn) {
  constexpr int V = packOf<In, Out>(), ahead = N == 1 ? 4 : 2;
  const Walk<N + 1> walk(part, V);
  launch(name, mapKernel<C, R, In, Out, N, Fn>,
         {walk.packs ? gridFor(walk.packs, ahead) : gridFor(walk.count, V), mapThreads}, walk, fn);
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
