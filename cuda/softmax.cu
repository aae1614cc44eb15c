// Softmax, its logarithm and logsumexp over the last axis. One warp a row or some rows, or one block a row; the row
// stays in registers, and one too long for that is read twice.
#include "device/exponentials.cuh"
#include "device/rows.cuh"
#include "device/shared.cuh"
#include "kernels.h"

namespace cuda {
namespace {

template <class T>
using Sums = Exponentials<Compute<T>>;

// Of the row that `team` is at: its sum of exponentials. `v` holds the row afterwards, if whole.
template <bool whole, int held, class T, int size>
__device__ __forceinline__ Sums<T> sumsOf(const Row<T>& in, Team<Sums<T>>& team, Pack<T, size> (&v)[held]) {
  using C = Compute<T>;
  Sums<T> mine;
  eachPart<whole, held>(in, team.rank, team.width, [&](int first) {
    loadPart(v, in, first, team.width, T(lowest<C>()));
    mine.template add<T, held * size>([&](int i) { return (C)v[i / size].at[i % size]; });
  });
  return team.reduce(mine, Sums<T>::join);
}

// y = exp(x - largest) / sum, or its logarithm.
template <class T, int held, bool whole, bool logarithm>
__global__ void __launch_bounds__(1024) softmaxKernel(const T* x, T* y, int64_t rows, int n, int width) {
  using C = Compute<T>;
  constexpr int size = perPack<T>;
  Team<Sums<T>> team(width, sharedMemory<typename Team<Sums<T>>::Shared>());
  const int64_t row = team.row();
  const int length = row < rows ? n : 0, shift = Row<T>::shiftOf(x + row * n);
  const Row<T> in(x + row * n, length, shift), out(y + row * n, length, shift);
  Pack<T, size> v[held];
  const Sums<T> sums = sumsOf<whole>(in, team, v);
  const C largest = sums.largest, last = logarithm ? math::log(sums.total()) : C(1) / sums.total();
  eachPart<whole, held>(in, team.rank, width, [&](int first) {
    if (!whole) loadPart(v, in, first, width);
#pragma unroll
    for (int k = 0; k < held; k++) {
      Pack<T, size> result;
#pragma unroll
      for (int j = 0; j < size; j++) {
        const C element = (C)v[k].at[j];
        result.at[j] = T(logarithm ? element - largest - last : exponential<T>(element, largest) * last);
      }
      out.store(first + k * width, result);
    }
  });
}

// dx = y * (dy - sum(y dy)), or for the logarithm dx = dy - exp(y) * sum(dy)
template <class T, int held, bool whole, bool logarithm>
__global__ void __launch_bounds__(1024)
    softmaxGradKernel(const T* y, const T* dy, T* dx, int64_t rows, int n, int width) {
  using C = Compute<T>;
  constexpr int size = perPack<T>;
  Team<C> team(width, sharedMemory<typename Team<C>::Shared>());
  const int64_t row = team.row();
  const int length = row < rows ? n : 0, shift = Row<T>::shiftOf(y + row * n);
  const Row<T> result(y + row * n, length, shift), grad(dy + row * n, length, shift), out(dx + row * n, length, shift);
  Pack<T, size> v[held], d[held];
  C sum = 0;
  eachPart<whole, held>(result, team.rank, width, [&](int first) {
    loadPart(v, result, first, width);
    loadPart(d, grad, first, width);
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < size; j++) sum += logarithm ? (C)d[k].at[j] : (C)v[k].at[j] * (C)d[k].at[j];
  });
  sum = team.sum(sum);
  eachPart<whole, held>(result, team.rank, width, [&](int first) {
    if (!whole) {
      loadPart(v, result, first, width);
      loadPart(d, grad, first, width);
    }
#pragma unroll
    for (int k = 0; k < held; k++) {
      Pack<T, size> to;
#pragma unroll
      for (int j = 0; j < size; j++) {
        const C p = (C)v[k].at[j], g = (C)d[k].at[j];
        to.at[j] = T(logarithm ? g - exponential<T>(p, C(0)) * sum : p * (g - sum));
      }
      out.store(first + k * width, to);
    }
  });
}

// One read: each part of a row is taken in with the largest element so far.
template <class T, int held>
__global__ void __launch_bounds__(512) logsumexpKernel(const T* x, T* y, int64_t rows, int n, int width) {
  Team<Sums<T>> team(width, sharedMemory<typename Team<Sums<T>>::Shared>());
  const int64_t row = team.row();
  const Row<T> in(x + row * n, row < rows ? n : 0, Row<T>::shiftOf(x + row * n));
  Pack<T, perPack<T>> v[held];
  const Sums<T> sums = sumsOf<false>(in, team, v);
  if (row < rows && team.rank == 0) y[row] = T(sums.base() + math::log(sums.sum));
}

// dx = exp(x - y) * dy
template <class T, int held>
__global__ void __launch_bounds__(512)
    logsumexpGradKernel(const T* x, const T* y, const T* dy, T* dx, int64_t rows, int n, int width) {
  using C = Compute<T>;
  constexpr int size = perPack<T>;
  const Team<C> team(width);
  const int64_t row = team.row();
  if (row >= rows) return;
  const int shift = Row<T>::shiftOf(x + row * n);
  const Row<T> in(x + row * n, n, shift), out(dx + row * n, n, shift);
  const C log = (C)y[row], d = (C)dy[row];
  eachPart<false, held>(in, team.rank, width, [&](int first) {
    Pack<T, size> v[held];
    loadPart(v, in, first, width);
#pragma unroll
    for (int k = 0; k < held; k++) {
#pragma unroll
      for (int j = 0; j < size; j++) v[k].at[j] = T(exponential<T>((C)v[k].at[j], log) * d);
      out.store(first + k * width, v[k]);
    }
  });
}

template <bool logarithm>
void forward(View x, View y, const char* op) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowPlan plan =
        planRows<T>(x.rows(), x.cols(), x.data, 1024, true, sizeof(typename Team<Sums<T>>::Shared), op);
    withPlan<T, true>(plan, [&](auto h) {
      launch(op, softmaxKernel<T, h.held, h.whole, logarithm>, plan.grid, x.as<T>(), y.as<T>(), x.rows(), x.cols(),
             plan.width);
    });
  });
}

template <bool logarithm>
void backward(View y, View dy, View dx, const char* op) {
  withFloat(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowPlan plan =
        planRows<T>(y.rows(), y.cols(), y.data, 1024, false, sizeof(typename Team<Compute<T>>::Shared), op);
    withPlan<T, false>(plan, [&](auto h) {
      launch(op, softmaxGradKernel<T, h.held, h.whole, logarithm>, plan.grid, y.as<T>(), dy.as<T>(), dx.as<T>(),
             y.rows(), y.cols(), plan.width);
    });
  });
}

}  // namespace

void softmax(View x, View y) { forward<false>(x, y, "softmax"); }
void logSoftmax(View x, View y) { forward<true>(x, y, "logSoftmax"); }
void softmaxGrad(View y, View dy, View dx) { backward<false>(y, dy, dx, "softmaxGrad"); }
void logSoftmaxGrad(View y, View dy, View dx) { backward<true>(y, dy, dx, "logSoftmaxGrad"); }

void logsumexp(View x, View y) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowPlan plan =
        planRows<T>(x.rows(), x.cols(), x.data, 256, false, sizeof(typename Team<Sums<T>>::Shared), "logsumexp");
    launch("logsumexp", logsumexpKernel<T, 4>, plan.grid, x.as<T>(), y.as<T>(), x.rows(), x.cols(), plan.width);
  });
}

void logsumexpGrad(View x, View y, View dy, View dx) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowPlan plan = planRows<T>(x.rows(), x.cols(), x.data, 256, false, 0, "logsumexpGrad");
    launch("logsumexpGrad", logsumexpGradKernel<T, 4>, plan.grid, x.as<T>(), y.as<T>(), dy.as<T>(), dx.as<T>(),
           x.rows(), x.cols(), plan.width);
  });
}

}  // namespace cuda
