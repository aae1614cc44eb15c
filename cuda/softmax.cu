// Softmax, its logarithm and logsumexp over the last axis. One warp a row or some rows, or one block a row; the row
// stays in registers, and one too long for that is read twice.
#include "device/exponentials.cuh"
#include "device/rows.cuh"
#include "device/shared.cuh"
#include "kernels.h"

namespace cuda {
namespace {

// y = exp(x - largest) / sum, or its logarithm.
template <class T, int held, bool whole, bool logarithm>
__global__ void __launch_bounds__(1024) softmaxKernel(const T* x, T* y, int64_t rows, int n, int width) {
  using C = Compute<T>;
  constexpr int size = perPack<T>;
  Team<Sums<T>> team(width, sharedMemory<typename Team<Sums<T>>::Shared>());
  const int64_t row = team.row();
  const int length = row < rows ? n : 0, shift = Row<T, whole>::shiftOf(x + row * n);
  const Row<T, whole> in(x + row * n, length, shift), out(y + row * n, length, shift);
  Words<T, size> v[held];
  const Sums<T> sums = sumsOf<whole>(in, team, v);
  const C largest = sums.largest, last = logarithm ? math::log(sums.total()) : C(1) / sums.total();
  eachPart<whole, held>(in, team.rank, width, [&](int first) {
    if (!whole) loadPart(v, in, first, width);
#pragma unroll
    for (int k = 0; k < held; k++) {
      out.store(first + k * width, Words<T, size>::from([&](int j) {
                  return logarithm ? v[k][j] - largest - last : exponential<T>(v[k][j], largest) * last;
                }));
    }
  });
}

// dx = y * (dy - sum(y dy)), or for the logarithm dx = dy - exp(y) * sum(dy)
template <class T, int held, bool whole, bool logarithm>
__global__ void __launch_bounds__(512)
    softmaxGradKernel(const T* y, const T* dy, T* dx, int64_t rows, int n, int width) {
  using C = Compute<T>;
  constexpr int size = perPack<T>;
  Team<C> team(width, sharedMemory<typename Team<C>::Shared>());
  const int64_t row = team.row();
  const int length = row < rows ? n : 0, shift = Row<T, whole>::shiftOf(y + row * n);
  const Row<T, whole> result(y + row * n, length, shift), grad(dy + row * n, length, shift),
      out(dx + row * n, length, shift);
  Words<T, size> v[held], d[held];
  C sum = 0;
  eachPart<whole, held>(result, team.rank, width, [&](int first) {
    loadPart(v, result, first, width);
    loadPart(d, grad, first, width);
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < size; j++) sum += logarithm ? d[k][j] : v[k][j] * d[k][j];
  });
  sum = team.sum(sum);
  forget(v);
  forget(d);
  eachPart<whole, held>(result, team.rank, width, [&](int first) {
    if (!whole) {
      loadPart(v, result, first, width);
      loadPart(d, grad, first, width);
    }
#pragma unroll
    for (int k = 0; k < held; k++) {
      out.store(first + k * width, Words<T, size>::from([&](int j) {
                  return logarithm ? d[k][j] - exponential<T>(v[k][j], C(0)) * sum : v[k][j] * (d[k][j] - sum);
                }));
    }
  });
}

// One read: each part of a row is taken in with the largest element so far.
template <class T, int held>
__global__ void __launch_bounds__(512) logsumexpKernel(const T* x, T* y, int64_t rows, int n, int width) {
  Team<Sums<T>> team(width, sharedMemory<typename Team<Sums<T>>::Shared>());
  const int64_t row = team.row();
  const Row<T, false> in(x + row * n, row < rows ? n : 0, Row<T, false>::shiftOf(x + row * n));
  Words<T, perPack<T>> v[held];
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
  const int shift = Row<T, false>::shiftOf(x + row * n);
  const Row<T, false> in(x + row * n, n, shift), out(dx + row * n, n, shift);
  const C log = (C)y[row], d = (C)dy[row];
  eachPart<false, held>(in, team.rank, width, [&](int first) {
    Words<T, size> v[held];
    loadPart(v, in, first, width);
#pragma unroll
    for (int k = 0; k < held; k++) {
      out.store(first + k * width, Words<T, size>::from([&](int j) { return exponential<T>(v[k][j], log) * d; }));
    }
  });
}

template <bool logarithm>
void forward(View x, View y, const char* op) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowPlan plan =
        planRows<T>(op, x.rows(), x.cols(), {x.data, y.data}, 1024, 0, sizeof(typename Team<Sums<T>>::Shared));
    withPlan<T, false>(plan, [&](auto h) {
      launch(op, softmaxKernel<T, h.held, h.whole, logarithm>, plan.grid, x.as<T>(), y.as<T>(), x.rows(), x.cols(),
             plan.width);
    });
  });
}

template <bool logarithm>
void backward(View y, View dy, View dx, const char* op) {
  withFloat(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowPlan plan = planRows<T>(op, y.rows(), y.cols(), {y.data, dy.data, dx.data}, 512, 0,
                                     sizeof(typename Team<Compute<T>>::Shared));
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
        planRows<T>("logsumexp", x.rows(), x.cols(), {x.data}, 256, 0, sizeof(typename Team<Sums<T>>::Shared));
    launch("logsumexp", logsumexpKernel<T, 4>, plan.grid, x.as<T>(), y.as<T>(), x.rows(), x.cols(), plan.width);
  });
}

void logsumexpGrad(View x, View y, View dy, View dx) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowPlan plan = planRows<T>("logsumexpGrad", x.rows(), x.cols(), {x.data}, 256, 0, 0);
    launch("logsumexpGrad", logsumexpGradKernel<T, 4>, plan.grid, x.as<T>(), y.as<T>(), dy.as<T>(), dx.as<T>(),
           x.rows(), x.cols(), plan.width);
  });
}

}  // namespace cuda
