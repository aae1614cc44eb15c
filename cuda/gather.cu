// Elements chosen by index, and their gradients; running sums.
#include "core/dtype.h"
#include "device/failure.cuh"
#include "device/index.cuh"
#include "device/map.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "radix.h"
#include "select.h"

namespace cuda {
namespace {

int64_t stepOf(const View& x) { return x.rank ? x.stride[x.rank - 1] : 1; }

// All axes but the last, of two views.
Loop linesOf(const View& a, const View& b) {
  Loop lines;
  for (int axis = 0; axis + 1 < a.rank; axis++)
    if (a.shape[axis] != 1) lines.push(a.shape[axis], a.stride[axis], b.stride[axis]);
  lines.finish();
  return lines;
}

// walk: y, index, and the beginnings of x's rows.
template <class B>
__global__ void __launch_bounds__(mapThreads)
    gatherKernel(const __grid_constant__ Walk<3> walk, Dtype dtype, const char* index, int64_t n, int64_t inner,
                 int64_t length, int64_t step, B none, Failure failure) {
  for (uint32_t i = blockIdx.x * mapThreads + threadIdx.x; i < walk.count; i += gridDim.x * mapThreads) {
    int64_t at[3];
    walk.locateElement(i, at);
    const int64_t id = indexAt(walk.as<void>(1), dtype, at[1]);
    const bool valid = id >= 0 && id < length;
    walk.as<B>(0)[at[0]] = valid ? walk.as<B>(2)[at[2] + id * step] : none;
    if (!valid) {  // told at its position in the index as it was given
      const int64_t place = (walk.as<char>(1) - index) / dtypeSize(dtype) + at[1], row = place / n;
      report(failure, (row / inner * n + place % n) * inner + row % inner, id, length);
    }
  }
}

__global__ void __launch_bounds__(mapThreads)
    scatterKeysKernel(const void* index, Dtype dtype, int64_t count, int64_t length, uint32_t* keys) {
  for (int64_t i = blockIdx.x * (int64_t)mapThreads + threadIdx.x; i < count; i += (int64_t)gridDim.x * mapThreads) {
    const int64_t id = indexAt(index, dtype, i);
    keys[i] = (uint32_t)(id >= 0 && id < length ? id : length);
  }
}

template <class B>
__global__ void __launch_bounds__(mapThreads)
    oneHotKernel(const void* ids, Dtype dtype, B* y, int64_t rows, int64_t classes, B one, Failure failure) {
  for (int64_t i = blockIdx.x * (int64_t)mapThreads + threadIdx.x; i < rows * classes;
       i += (int64_t)gridDim.x * mapThreads) {
    const int64_t row = i / classes, column = i - row * classes, id = indexAt(ids, dtype, row);
    y[i] = id == column ? one : B(0);
    if (column == 0 && (id < 0 || id >= classes)) report(failure, row, id, classes);
  }
}

template <class A>
struct Scan {
  A perWarp[mapThreads / 32];
};

// A block a row, some elements a thread at a time.
template <class A>
__global__ void __launch_bounds__(mapThreads)
    cumsumKernel(const void* x, Dtype from, void* y, Dtype to, const __grid_constant__ Loop lines, int64_t n,
                 int64_t stepX, int64_t stepY, bool reverse) {
  constexpr int each = 4, tile = each * mapThreads;
  auto& s = sharedMemory<Scan<A>>();
  int64_t atX = 0, atY = 0;
  lines.locate(blockIdx.x, atX, atY);
  A carry = 0;
  for (int64_t begin = 0; begin < n; begin += tile) {
    A v[each], sum = 0;
    auto place = [&](int k) {
      const int64_t i = begin + (int64_t)threadIdx.x * each + k;
      return reverse ? n - 1 - i : i;
    };
    withDtype(from, [&](auto tag) {
      using T = typename decltype(tag)::type;
#pragma unroll
      for (int k = 0; k < each; k++) {
        const int64_t i = place(k);
        v[k] = i >= 0 && i < n ? loaded<A>(((const T*)x)[atX + i * stepX]) : A(0);
      }
    });
#pragma unroll
    for (int k = 0; k < each; k++) sum = v[k] += sum;
    A before = sum;  // of the lanes up to this one
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
      const A other = __shfl_up_sync(~0u, before, by);
      if (lane() >= by) before += other;
    }
    if (lane() == 31) s.perWarp[warp()] = before;
    __syncthreads();
    A base = carry;
    for (int w = 0; w < (int)mapThreads / 32; w++) {
      if (w < warp()) base += s.perWarp[w];
      carry += s.perWarp[w];
    }
    const A left = __shfl_up_sync(~0u, before, 1);
    if (lane() > 0) base += left;
    withDtype(to, [&](auto tag) {
      using T = typename decltype(tag)::type;
#pragma unroll
      for (int k = 0; k < each; k++) {
        const int64_t i = place(k);
        if (i >= 0 && i < n) ((T*)y)[atY + i * stepY] = stored<T>(base + v[k]);
      }
    });
    __syncthreads();
  }
}

// A thread a row, where rows lie beside each other.
template <class A>
__global__ void __launch_bounds__(mapThreads)
    cumsumAcrossKernel(const void* x, Dtype from, void* y, Dtype to, const __grid_constant__ Loop lines, int64_t rows,
                       int64_t n, int64_t stepX, int64_t stepY, bool reverse) {
  const int64_t row = blockIdx.x * (int64_t)mapThreads + threadIdx.x;
  if (row >= rows) return;
  int64_t atX = 0, atY = 0;
  lines.locate(row, atX, atY);
  A sum = 0;
#pragma unroll 4
  for (int64_t k = 0; k < n; k++) {
    const int64_t i = reverse ? n - 1 - k : k;
    withDtype(from, [&](auto tag) {
      using T = typename decltype(tag)::type;
      sum += loaded<A>(((const T*)x)[atX + i * stepX]);
    });
    withDtype(to, [&](auto tag) {
      using T = typename decltype(tag)::type;
      ((T*)y)[atY + i * stepY] = stored<T>(sum);
    });
  }
}

template <class B>
B missingBits(Dtype t) {
  B bits = 0;
  withDtype(t, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T value = missing<T>();
    std::memcpy(&bits, &value, std::min(sizeof(T), sizeof(B)));
  });
  return bits;
}

}  // namespace

void gather(View x, View index, int64_t inner, View y) {
  if (!y.size()) return;
  const int64_t n = index.cols(), length = x.cols();
  View rows = x;
  if (rows.rank) rows.shape[rows.rank - 1] = n, rows.stride[rows.rank - 1] = 0;
  const Failure told = failure(sentence::indexOnAxis, "gather");
  withBits(x.dtype, [&](auto tag) {
    using B = typename decltype(tag)::type;
    Axes<3>({&y, &index, &rows}).split([&](const Axes<3>& part) {
      const Walk<3> walk(part, 1);
      launch("gather", gatherKernel<B>, {gridFor(walk.count), mapThreads}, walk, index.dtype, index.as<const char>(), n,
             inner, length, stepOf(x), missingBits<B>(x.dtype), told);
    });
  });
}

void scatterAdd(View index, View dy, View dx) {
  const int64_t n = index.cols(), rows = index.rows(), length = dx.cols();
  if (!index.size()) return;
  Ranking<uint32_t> order(rows, n);
  launch("scatterAdd", scatterKeysKernel, {gridFor(rows * n), mapThreads}, index.as<const void>(), index.dtype,
         rows * n, length, order.keys);
  order.sort("scatterAdd", bitsOf((uint64_t)length));
  Sums sums{};
  sums.lines = linesOf(dy, dx);
  sums.columns = sums.inner = 1;
  sums.stepDy = stepOf(dy), sums.stepDx = stepOf(dx);
  sums.limit = (uint32_t)length;
  addByKey("scatterAdd", order, sums, dy, dx);
}

void indexSelect(View x, View ids, View y) {
  selectRows("indexSelect", sentence::idOnAxis, x, ids, y, x.shape[0], x.shape[1], x.shape[2]);
}

void indexAdd(View ids, View dy, View dx) { addRows("indexAdd", ids, dy, dx, dx.shape[0], dx.shape[1], dx.shape[2]); }

void oneHot(View ids, View y) {
  const int64_t classes = y.cols(), rows = ids.size();
  withDtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T element = stored<T>(1.0f);
    withBits(y.dtype, [&](auto size) {
      using B = typename decltype(size)::type;
      B one = 0;
      std::memcpy(&one, &element, std::min(sizeof(T), sizeof(B)));
      launch("oneHot", oneHotKernel<B>, {gridFor(rows * classes), mapThreads}, ids.as<const void>(), ids.dtype,
             y.as<B>(), rows, classes, one, failure(sentence::idOfClasses, "oneHot"));
    });
  });
}

void cumsum(View x, bool reverse, View y) {
  const int64_t n = x.cols(), rows = x.rows();
  if (!y.size()) return;
  const Loop lines = linesOf(x, y);
  auto run = [&](auto tag) {
    using A = typename decltype(tag)::type;
    if (stepOf(x) != 1 && rows >= 1024)
      launch("cumsum", cumsumAcrossKernel<A>, {blocksFor(rows, mapThreads), mapThreads}, x.as<const void>(), x.dtype,
             y.as<void>(), y.dtype, lines, rows, n, stepOf(x), stepOf(y), reverse);
    else
      launch("cumsum", cumsumKernel<A>, {(unsigned)rows, mapThreads, sizeof(Scan<A>)}, x.as<const void>(), x.dtype,
             y.as<void>(), y.dtype, lines, n, stepOf(x), stepOf(y), reverse);
  };
  isFloat(x.dtype) ? run(Tag<double>{}) : run(Tag<int64_t>{});
}

}  // namespace cuda
