// The first of each row in order, with their places: short rows in shared memory, others digit by digit.
#include "core/dtype.h"
#include "device/map.cuh"
#include "device/shared.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "radix.h"

namespace cuda {
namespace {

template <class T>
using Key = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

// An element's place in the order as a number of as many bits as it has: NaN is the largest, both zeros are equal.
template <class T>
__device__ __forceinline__ Key<T> keyOf(T x, bool descending) {
  using K = Key<T>;
  constexpr int bits = sizeof(T) * 8;
  constexpr K all = (K) ~(uint64_t)0 >> (sizeof(K) * 8 - bits), sign = K(1) << (bits - 1);
  K key = 0;
  if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, uint8_t>) {
    key = (K)x;
  } else if constexpr (std::is_integral_v<T>) {
    key = (K)x ^ sign;
  } else {
    std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>> raw;
    memcpy(&raw, &x, sizeof(T));
    const Wide<T> v = loaded<Wide<T>>(x);
    if (v == 0) raw = 0;
    key = v != v ? all : (raw & sign ? ~(K)raw & all : (K)raw | sign);
  }
  return descending ? ~key & all : key;
}

template <int n>
struct Line {
  uint64_t at[n];  // key and place; larger than any where there is nothing
};

// A block a row of at most `most` elements: Batcher's bitonic sort.
template <class T, int most>
__global__ void __launch_bounds__(most / 2 < 1024 ? most / 2 : 1024)
    sortRowKernel(const T* x, int64_t n, int length, bool descending, T* values, int32_t* indices, int64_t k) {
  auto& s = sharedMemory<Line<most>>();
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < length; i += blockDim.x)
    s.at[i] = i < n ? (uint64_t)keyOf(x[row * n + i], descending) << 32 | (uint32_t)i : ~(uint64_t)0;
  __syncthreads();
  for (int run = 2; run <= length; run *= 2)
    for (int apart = run / 2; apart; apart /= 2) {
      for (int i = threadIdx.x; i < length / 2; i += blockDim.x) {
        const int low = i / apart * 2 * apart + i % apart, high = low + apart;
        const uint64_t a = s.at[low], b = s.at[high];
        if ((a > b) == !(low & run)) s.at[low] = b, s.at[high] = a;
      }
      __syncthreads();
    }
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    const int32_t at = (int32_t)(uint32_t)s.at[i];
    values[row * k + i] = x[row * n + at];
    indices[row * k + i] = at;
  }
}

template <class T>
__global__ void __launch_bounds__(mapThreads) sortKeysKernel(const T* x, int64_t count, bool descending, Key<T>* keys) {
  for (int64_t i = blockIdx.x * (int64_t)mapThreads + threadIdx.x; i < count; i += (int64_t)gridDim.x * mapThreads)
    keys[i] = keyOf(x[i], descending);
}
template <class B>
__global__ void __launch_bounds__(mapThreads)
    takeKernel(const B* x, const int32_t* at, int64_t n, int64_t k, int64_t count, B* values, int32_t* indices) {
  for (int64_t i = blockIdx.x * (int64_t)mapThreads + threadIdx.x; i < count; i += (int64_t)gridDim.x * mapThreads) {
    const int64_t row = i / k;
    const int32_t place = at[row * n + i - row * k];
    indices[i] = place;
    values[i] = x[row * n + place];
  }
}

}  // namespace

void sort(View x, bool descending, View values, View indices) {
  const int64_t n = x.cols(), k = values.cols(), rows = x.rows();
  if (!values.size()) return;
  withDtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto inBlock = [&](auto size) {
      constexpr int most = decltype(size)::value;
      int length = 2;
      while (length < n) length *= 2;
      launch("sort", sortRowKernel<T, most>,
             {(unsigned)rows, (unsigned)std::max(32, std::min(length / 2, 1024)), sizeof(Line<most>)}, x.as<const T>(),
             n, length, descending, values.as<T>(), indices.as<int32_t>(), k);
    };
    if constexpr (sizeof(T) < 8) {
      if (n <= 128) return inBlock(std::integral_constant<int, 128>{});
      if (n <= 2048) return inBlock(std::integral_constant<int, 2048>{});
    }
    Ranking<Key<T>> order(rows, n);
    launch("sort", sortKeysKernel<T>, {gridFor(rows * n), mapThreads}, x.as<const T>(), rows * n, descending,
           order.keys);
    order.sort("sort", sizeof(T) * 8);
    withBits(x.dtype, [&](auto bits) {
      using B = typename decltype(bits)::type;
      launch("sort", takeKernel<B>, {gridFor(rows * k), mapThreads}, x.as<const B>(), order.at, n, k, rows * k,
             values.as<B>(), indices.as<int32_t>());
    });
  });
}

}  // namespace cuda
