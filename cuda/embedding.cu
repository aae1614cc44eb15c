// Rows of a table by their numbers, and the gradient of the table: equal ids are brought together by a sort, so that
// each row's sum has one order.
#include "core/dtype.h"
#include "device/failure.cuh"
#include "device/index.cuh"
#include "device/map.cuh"
#include "device/pack.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "radix.h"
#include "select.h"

namespace cuda {
namespace {

// `group` neighbouring lanes a row, a pack of V each at a time.
template <class B, int V>
__global__ void __launch_bounds__(mapThreads)
    selectRowsKernel(const B* x, const void* ids, Dtype dtype, B* y, int64_t rows, int64_t count, int64_t length,
                     int64_t inner, int group, B none, Failure failure) {
  constexpr int ahead = 4;
  const int64_t perBlock = mapThreads / group, first = threadIdx.x % group * V, step = group * V;
  for (int64_t row = blockIdx.x * perBlock + threadIdx.x / group; row < rows; row += gridDim.x * perBlock) {
    const int64_t outer = row / count, at = row - outer * count, id = indexAt(ids, dtype, at);
    const bool valid = id >= 0 && id < length;
    if (!valid && first == 0) report(failure, at, id, length);
    const B* from = x + (outer * length + (valid ? id : 0)) * inner;
    B* to = y + row * inner;
    for (int64_t i = first; i < inner; i += step * ahead) {
      Pack<B, V> packs[ahead];
#pragma unroll
      for (int u = 0; u < ahead; u++)
        if (valid && i + u * step < inner) packs[u] = loadPack<V>(from + i + u * step);
#pragma unroll
      for (int u = 0; u < ahead; u++) {
        if (i + u * step >= inner) break;
        if (!valid)
#pragma unroll
          for (int k = 0; k < V; k++) packs[u].at[k] = none;
        storePack<V>(to + i + u * step, packs[u]);
      }
    }
  }
}

// An id out of range comes behind all others.
__global__ void __launch_bounds__(mapThreads)
    idKeysKernel(const void* ids, Dtype dtype, int64_t n, int64_t length, uint32_t* keys) {
  for (int64_t i = blockIdx.x * (int64_t)mapThreads + threadIdx.x; i < n; i += (int64_t)gridDim.x * mapThreads) {
    const int64_t id = indexAt(ids, dtype, i);
    keys[i] = (uint32_t)(id >= 0 && id < length ? id : length);
  }
}

}  // namespace

void selectRows(const char* name, const char* sentence, View x, View ids, View y, int64_t outer, int64_t length,
                int64_t inner) {
  const int64_t count = ids.size(), rows = outer * count;
  if (!rows || !inner) return;
  const Failure told = failure(sentence, name);
  // The bits of a missing element, repeated.
  uint64_t none = 0;
  withDtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T value = missing<T>();
    for (size_t at = 0; at < sizeof none; at += sizeof(T)) std::memcpy((char*)&none + at, &value, sizeof(T));
  });
  auto run = [&](auto type, auto width, int64_t elements) {
    using B = typename decltype(type)::type;
    constexpr int V = decltype(width)::value;
    int group = 1;
    while (group < 32 && group * V < elements) group *= 2;
    launch(name, selectRowsKernel<B, V>, {gridFor(rows * group), mapThreads}, x.as<const B>(), ids.as<const void>(),
           ids.dtype, y.as<B>(), rows, count, length, elements, group, (B)none, told);
  };
  const int64_t words = inner * dtypeSize(x.dtype) / 8;
  if (inner * dtypeSize(x.dtype) % 16 == 0 && aligned(x.as<uint64_t>(), 2) && aligned(y.as<uint64_t>(), 2))
    return run(Tag<uint64_t>{}, std::integral_constant<int, 2>{}, words);
  withBits(x.dtype, [&](auto tag) { run(tag, std::integral_constant<int, 1>{}, inner); });
}

void addRows(const char* name, View ids, View dy, View dx, int64_t outer, int64_t length, int64_t inner) {
  const int64_t n = ids.size();
  if (!n || !outer || !inner || !length) return;
  Ranking<uint32_t> order(1, n);
  launch(name, idKeysKernel, {gridFor(n), mapThreads}, ids.as<const void>(), ids.dtype, n, length, order.keys);
  order.sort(name, bitsOf((uint64_t)length));
  Sums sums{};
  sums.lines.finish();
  sums.columns = outer * inner;
  sums.inner = inner;
  sums.outerDy = n * inner, sums.outerDx = length * inner;
  sums.stepDy = sums.stepDx = inner;
  sums.limit = (uint32_t)length;
  addByKey(name, order, sums, dy, dx);
}

void embedding(View ids, View weight, View y) {
  selectRows("embedding", sentence::vocabulary, weight, ids, y, 1, weight.shape[0], weight.cols());
}

void embeddingGrad(View ids, View dy, View dweight, bool add) {
  if (!add) fill(dweight, 0);
  addRows("embeddingGrad", ids, dy, dweight, 1, dweight.shape[0], dweight.cols());
}

}  // namespace cuda
