// Random numbers, a thread for each Philox block of four (or two of them): number i does not depend on the grid, and is
// the one that the CPU makes.
#include <cmath>

#include "core/dtype.h"
#include "device/map.cuh"
#include "device/pack.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "math/philox.h"

namespace cuda {
namespace {

__device__ __forceinline__ philox::Words wordsOf(const int64_t* state, int64_t call, int64_t block) {
  return philox::generate((uint64_t)state[0], (uint64_t)(state[1] + call), (uint64_t)block);
}

struct Distribution {
  RandomKind kind;
  double a, b;
  double unit;     // of a uniform number: 2^-bits
  int32_t shift;   // that leaves so many bits of a word
  double low;      // truncated: the share of the normal distribution below the cut
  uint64_t range;  // integer
};

__device__ __forceinline__ void numbers(const Distribution& d, const philox::Words& words, double (&out)[4]) {
  switch (d.kind) {
    case RandomKind::uniform:
#pragma unroll
      for (int k = 0; k < 4; k++) out[k] = d.a + (d.b - d.a) * ((double)(words.w[k] >> d.shift) * d.unit);
      break;
    case RandomKind::normal:
#pragma unroll
      for (int k = 0; k < 4; k += 2) {
        philox::normals(words.w[k], words.w[k + 1], out[k], out[k + 1]);
        out[k] = d.a + d.b * out[k];
        out[k + 1] = d.a + d.b * out[k + 1];
      }
      break;
    default:
#pragma unroll
      for (int k = 0; k < 4; k++) out[k] = d.a * philox::quantile(d.low + (1 - 2 * d.low) * philox::open01(words.w[k]));
  }
}

template <class T>
__global__ void __launch_bounds__(mapThreads)
    randomKernel(const Distribution d, const int64_t* state, int64_t call, T* y, int64_t n) {
  const int64_t blocks = (n + 3) / 4, step = (int64_t)gridDim.x * mapThreads;
  for (int64_t block = blockIdx.x * (int64_t)mapThreads + threadIdx.x; block < blocks; block += step) {
    const philox::Words words = wordsOf(state, call, block);
    T out[4];
    if constexpr (std::is_integral_v<T>) {
#pragma unroll
      for (int k = 0; k < 4; k++) out[k] = (T)((int64_t)d.a + (int64_t)((words.w[k] * d.range) >> 32));
    } else {
      double values[4];
      numbers(d, words, values);
#pragma unroll
      for (int k = 0; k < 4; k++) out[k] = stored<T>(values[k]);
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (4 * block + k < n) y[4 * block + k] = out[k];
  }
}

// V elements, a multiple of four, a thread.
template <class T, int V>
__global__ void __launch_bounds__(mapThreads)
    dropoutKernel(const T* x, const int64_t* state, int64_t call, uint32_t threshold, Wide<T> scale, T* y, int64_t n,
                  bool packs) {
  using C = Wide<T>;
  const int64_t step = (int64_t)gridDim.x * mapThreads * V;
  for (int64_t i = (blockIdx.x * (int64_t)mapThreads + threadIdx.x) * V; i < n; i += step) {
    Pack<T, V> pack;
    const bool whole = packs && i + V <= n;
    if (whole) {
      pack = loadPack<V>(x + i);
    } else {
#pragma unroll
      for (int k = 0; k < V; k++) pack.at[k] = x[min(i + k, n - 1)];
    }
#pragma unroll
    for (int b = 0; b < V; b += 4) {
      const philox::Words words = wordsOf(state, call, (i + b) / 4);
#pragma unroll
      for (int k = 0; k < 4; k++)
        pack.at[b + k] = stored<T>(loaded<C>(pack.at[b + k]) * (words.w[k] < threshold ? C(0) : scale));
    }
    if (whole) {
      storePack<V>(y + i, pack);
    } else {
#pragma unroll
      for (int k = 0; k < V; k++)
        if (i + k < n) y[i + k] = pack.at[k];
    }
  }
}

// Bits of a word that a uniform number of the type takes, so that it stays below 1.
constexpr int uniformBits(Dtype t) {
  return t == Dtype::float64 ? 32 : t == Dtype::bfloat16 ? 8 : t == Dtype::float16 ? 11 : 24;
}

}  // namespace

void random(RandomKind kind, View state, int64_t call, double a, double b, View y) {
  Distribution d{};
  d.kind = kind, d.a = a, d.b = b;
  d.shift = 32 - uniformBits(y.dtype);
  d.unit = 1 / (double)((uint64_t)1 << uniformBits(y.dtype));
  if (kind == RandomKind::truncated) d.low = 0.5 * std::erfc(b * 0.70710678118654752440);
  if (kind == RandomKind::integer) d.range = (uint64_t)((int64_t)b - (int64_t)a);
  const int64_t n = y.size();
  auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("random", randomKernel<T>, {gridFor((n + 3) / 4), mapThreads}, d, state.as<const int64_t>(), call, y.as<T>(),
           n);
  };
  withDtype(y.dtype, [&](auto tag) {
    if constexpr (!std::is_same_v<typename decltype(tag)::type, bool>) run(tag);
  });
}

void dropout(View x, View state, int64_t call, double p, View y) {
  const uint32_t threshold = (uint32_t)(p < 1 ? p * 4294967296.0 : 0);
  const double scale = p < 1 ? 1 / (1 - p) : 0;
  const int64_t n = x.size();
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int V = sizeof(T) == 2 ? 8 : 4;
    launch("dropout", dropoutKernel<T, V>, {gridFor((n + V - 1) / V), mapThreads}, x.as<const T>(),
           state.as<const int64_t>(), call, threshold, (Wide<T>)scale, y.as<T>(), n,
           aligned(x.as<T>(), V) && aligned(y.as<T>(), V));
  });
}

}  // namespace cuda
