// Mixture of experts: routing, and rows on their way to the experts and back. What each expert got is known to the
// device only. groupByExpert is in moe_group.cu, the products in gemm_grouped.cu.
#include <algorithm>
#include <limits>

#include "core/check.h"
#include "device/failure.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "device/stretch.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "math/transcendental.h"

namespace cuda {
namespace {

// ---- route

struct Routing {
  int rows, experts, k;
  bool normalise;
};

// Of each block: the sum of the probabilities of each expert, its assignments, and the sum of lse^2.
HD int routeSums(int experts) { return 2 * experts + 1; }

template <class C>
__device__ __forceinline__ C larger(C a, C b) {
  return b > a ? b : a;
}

// What a warp keeps of its row in shared memory, and what it has summed up.
template <class C>
struct RouteWarp {
  C* logits;
  double *mean, *load;

  __device__ RouteWarp(void* shared, int experts) {
    double* sums = (double*)shared;
    mean = sums + (int64_t)warp() * 2 * experts;
    load = mean + experts;
    logits = (C*)(sums + (int64_t)warps() * 2 * experts) + (int64_t)warp() * experts;
  }
  static size_t bytes(int experts) { return (size_t)experts * (2 * sizeof(double) + sizeof(C)); }
};

// A candidate for the next choice. The larger comes first, and the lower index among equals.
template <class C>
struct Choice {
  C value;
  int expert;
  int padding;  // none of it undefined: it is shuffled
};
template <class C>
__device__ __forceinline__ bool before(const Choice<C>& a, const Choice<C>& b) {
  return a.value > b.value || (a.value == b.value && a.expert < b.expert);
}

// One warp a row at a time, the row in shared memory.
template <class C>
__global__ void routeKernel(const C* logits, Routing a, C* weights, int32_t* experts, C* lse, double* sums) {
  RouteWarp<C> mine(sharedArray<unsigned char>(), a.experts);
  for (int e = lane(); e < 2 * a.experts; e += 32) mine.mean[e] = 0;
  double squares = 0;
  const C least = -std::numeric_limits<C>::infinity();
  for (int row = blockIdx.x * warps() + warp(); row < a.rows; row += gridDim.x * warps()) {
    const C* from = logits + (int64_t)row * a.experts;
    C most = least;
    for (int e = lane(); e < a.experts; e += 32) {
      const C v = from[e];
      mine.logits[e] = v == v ? v : least;  // a NaN is chosen last; it is in lse all the same
      most = larger(most, v);
    }
    most = warpReduce(most, [](C p, C q) { return larger(p, q); });
    C sum = 0;
    for (int e = lane(); e < a.experts; e += 32) sum += math::exp(from[e] - most);
    const C l = most + math::log(warpSum(sum));
    if (lane() == 0) lse[row] = l;
    squares += (double)l * (double)l;
    for (int e = lane(); e < a.experts; e += 32) mine.mean[e] += (double)math::exp(from[e] - l);

    C chosenSum = 0;
    Choice<C> last{std::numeric_limits<C>::infinity(), -1, 0};
    for (int j = 0; j < a.k; j++) {
      Choice<C> best{least, a.experts, 0};
      for (int e = lane(); e < a.experts; e += 32) {
        const Choice<C> one{mine.logits[e], e, 0};
        if (before(last, one) && before(one, best)) best = one;
      }
      last = warpReduce(best, [](const Choice<C>& p, const Choice<C>& q) { return before(q, p) ? q : p; });
      const C p = math::exp(from[last.expert] - l);
      chosenSum += p;
      if (lane() == 0) {
        experts[(int64_t)row * a.k + j] = last.expert;
        weights[(int64_t)row * a.k + j] = p;
        mine.load[last.expert] += 1;
      }
      __syncwarp();
    }
    if (a.normalise)
      for (int j = 0; j < a.k; j++)
        if (lane() == 0) weights[(int64_t)row * a.k + j] /= chosenSum;
  }
  __syncthreads();
  // The warps' sums in the order of the warps.
  double* out = sums + (int64_t)blockIdx.x * routeSums(a.experts);
  double* all = sharedArray<double>();
  for (int i = threadIdx.x; i < 2 * a.experts; i += blockDim.x) {
    double sum = 0;
    for (int w = 0; w < warps(); w++) sum += all[(int64_t)w * 2 * a.experts + i];
    out[i] = sum;
  }
  __syncthreads();
  if (lane() == 0) all[warp()] = squares;
  __syncthreads();
  if (threadIdx.x) return;
  double sum = 0;
  for (int w = 0; w < warps(); w++) sum += all[w];
  out[2 * a.experts] = sum;
}

// One block: the sums of all blocks, in their order.
template <class C>
__global__ void routeFinishKernel(const double* sums, int blocks, Routing a, C* shares, C* aux, C* z) {
  auto& s = sharedMemory<BlockReduce<double>>();
  double balance = 0, squares = 0;
  const int width = routeSums(a.experts);
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) {
    double mean = 0, load = 0;
    for (int b = 0; b < blocks; b++) {
      mean += sums[(int64_t)b * width + e];
      load += sums[(int64_t)b * width + a.experts + e];
    }
    const double share = a.rows ? load / ((double)a.rows * a.k) : 0;
    shares[e] = (C)share;
    balance += a.rows ? share * mean / a.rows : 0;
  }
  for (int b = threadIdx.x; b < blocks; b += blockDim.x) squares += sums[(int64_t)b * width + 2 * a.experts];
  balance = blockSum(balance, s);
  squares = blockSum(squares, s);
  if (threadIdx.x) return;
  *aux = (C)(balance * a.experts);
  *z = a.rows ? (C)(squares / a.rows) : C(0);
}

// Warps of a block for which `bytes` each fit the shared memory.
int warpsThatFit(size_t bytes, int most, const char* op, int experts) {
  const int warps = (int)std::min<size_t>(most, device().sharedBytes / std::max<size_t>(bytes, 1));
  check(warps >= 1, op, ": ", experts, " experts, but the shared memory of the device has room for ",
        device().sharedBytes * experts / bytes);
  return warps;
}

// One warp a row. d: the gradient of the probabilities, in shared memory.
template <class C>
__global__ void routeGradKernel(const C* logits, const int32_t* experts, const C* lse, const C* shares,
                                const C* dweights, const C* daux, const C* dz, C* dlogits, Routing a) {
  C* d = sharedArray<C>() + (int64_t)warp() * a.experts;
  const int row = blockIdx.x * warps() + warp();
  if (row >= a.rows) return;  // whole warps, and there is no barrier
  const C ofAux = daux ? *daux * (C)a.experts / (C)a.rows : C(0);
  const C ofZ = dz ? *dz * C(2) / (C)a.rows : C(0);
  const C* from = logits + (int64_t)row * a.experts;
  const int32_t* chosen = experts + (int64_t)row * a.k;
  const C l = lse[row];
  for (int e = lane(); e < a.experts; e += 32) d[e] = ofAux * shares[e];
  __syncwarp();
  if (dweights) {
    const C* dw = dweights + (int64_t)row * a.k;
    C sum = 1, along = 0;
    if (a.normalise) {
      sum = 0;
      for (int j = lane(); j < a.k; j += 32) {
        const C p = math::exp(from[chosen[j]] - l);
        sum += p;
        along += dw[j] * p;
      }
      sum = warpSum(sum);
      along = warpSum(along) / sum;
    }
    for (int j = lane(); j < a.k; j += 32) d[chosen[j]] += (dw[j] - along) / sum;  // no expert twice
  }
  __syncwarp();
  C inner = 0;
  for (int e = lane(); e < a.experts; e += 32) inner += math::exp(from[e] - l) * d[e];
  inner = warpSum(inner);
  for (int e = lane(); e < a.experts; e += 32)
    dlogits[(int64_t)row * a.experts + e] = math::exp(from[e] - l) * (d[e] - inner + ofZ * l);
}

// ---- rows to the experts and back

constexpr int rowThreads = 256, rowWarps = rowThreads / 32;

// One warp a row and `piece` packs of it: 16 bytes each, or one element where rows do not allow that.
template <class P>
__global__ void gatherRowsKernel(const P* x, const int32_t* order, P* y, int64_t rows, int k, int packs, int piece,
                                 int count, Failure failure) {
  const int64_t row = (int64_t)blockIdx.x * rowWarps + warp();
  if (row >= rows) return;
  const int assignment = order[row];
  const bool good = assignment >= 0 && assignment < count;
  if (!good && lane() == 0) report(failure, row, assignment, count - 1);
  const P* from = x + (int64_t)(good ? assignment / k : 0) * packs;
  P* to = y + row * packs;
  const int begin = blockIdx.y * piece, end = min(packs, begin + piece);
#pragma unroll 4
  for (int c = begin + lane(); c < end; c += 32) to[c] = good ? from[c] : P{};
}

// Where each assignment went: the inverse of `order`. The first of several wins; see combineKernel.
__global__ void invertKernel(const int32_t* order, int n, int32_t* at) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && order[i] >= 0 && order[i] < n) atomicMin(&at[order[i]], i);
}

template <class T>
struct Rows {
  const T* x;
  const int32_t *order, *at;
  const Compute<T>* weights;  // null: 1
  const T* dy;
  T* out;
  Compute<T>* dweights;
  int64_t rows;
  int cols, k, count;
  bool packed;
};

// One block 256 packs of a token: its k rows of x, times its weights, added up in the order of its choices.
template <class T>
__global__ void __launch_bounds__(rowThreads) combineKernel(Rows<T> a, Failure failure) {
  using C = Compute<T>;
  constexpr int n = perPack<T>;
  const int64_t token = blockIdx.x;
  if (blockIdx.y == 0)  // its share of the check that `order` has each number once
    for (int j = threadIdx.x; j < a.k; j += rowThreads) {
      const int i = (int)(token * a.k + j), o = a.order[i];
      if (o < 0 || o >= a.count || a.at[o] != i) report(failure, i, o, a.count - 1);
    }
  const int step = a.packed ? n : 1;
  const int column = (blockIdx.y * rowThreads + threadIdx.x) * step;
  if (column >= a.cols) return;
  C sum[n] = {};
#pragma unroll 4
  for (int j = 0; j < a.k; j++) {
    const int at = a.at[token * a.k + j];
    if (at < 0 || at >= a.count) continue;  // reported
    const C w = a.weights ? a.weights[token * a.k + j] : C(1);
    const T* from = a.x + (int64_t)at * a.cols + column;
    if (a.packed) {
      const auto pack = loadPack<n>(from);
#pragma unroll
      for (int e = 0; e < n; e++) sum[e] += w * C(pack.at[e]);
    } else {
      sum[0] += w * C(*from);
    }
  }
  T* to = a.out + token * a.cols + column;
  if (a.packed) {
    Pack<T, n> pack;
#pragma unroll
    for (int e = 0; e < n; e++) pack.at[e] = T(sum[e]);
    storePack(to, pack);
  } else {
    *to = T(sum[0]);
  }
}

// One warp a row of x: dx = w dy, and dw = x . dy.
template <class T>
__global__ void __launch_bounds__(rowThreads, 6) combineGradKernel(Rows<T> a, Failure failure) {
  using C = Compute<T>;
  constexpr int n = perPack<T>;
  const int64_t row = (int64_t)blockIdx.x * rowWarps + warp();
  if (row >= a.rows) return;
  const int assignment = a.order[row];
  const bool good = assignment >= 0 && assignment < a.count;
  if (!good && lane() == 0) report(failure, row, assignment, a.count - 1);
  const int use = good ? assignment : 0;
  const C w = good ? a.weights[use] : C(0);
  const T *x = a.x + row * a.cols, *dy = a.dy + (int64_t)(use / a.k) * a.cols;
  T* dx = a.out + row * a.cols;
  C dot = 0;
  if (a.packed) {
#pragma unroll 2
    for (int c = lane() * n; c < a.cols; c += 32 * n) {
      const auto px = loadPack<n>(x + c), pd = loadPack<n>(dy + c);
      Pack<T, n> out;
      C part = 0;
#pragma unroll
      for (int e = 0; e < n; e++) {
        part += C(px.at[e]) * C(pd.at[e]);
        out.at[e] = T(w * C(pd.at[e]));
      }
      dot += part;
      storePack(dx + c, out);
    }
  } else {
    for (int c = lane(); c < a.cols; c += 32) {
      const C d = C(dy[c]);
      dot += C(x[c]) * d;
      dx[c] = T(w * d);
    }
  }
  dot = warpSum(dot);
  if (good && lane() == 0) a.dweights[use] = dot;
}

}  // namespace

void route(View logits, View weights, View experts, View lse, View shares, View aux, View z, bool normalise) {
  const Routing a{(int)logits.rows(), (int)logits.cols(), (int)weights.cols(), normalise};
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    const size_t each = RouteWarp<C>::bytes(a.experts);
    const int warps = warpsThatFit(each, 4, "route", a.experts);
    const unsigned blocks = std::min<unsigned>(blocksFor(a.rows, warps), (unsigned)device().processors * 8);
    Scratch sums((size_t)blocks * routeSums(a.experts) * sizeof(double));
    launch("route", routeKernel<C>, {dim3(blocks), (unsigned)warps * 32, each * warps}, logits.as<C>(), a,
           weights.as<C>(), experts.as<int32_t>(), lse.as<C>(), sums.as<double>());
    launch("route", routeFinishKernel<C>, {dim3(1), 256, sizeof(BlockReduce<double>)}, sums.as<double>(), (int)blocks,
           a, shares.as<C>(), aux.as<C>(), z.as<C>());
  };
  logits.dtype == Dtype::float64 ? apply(Tag<double>{}) : apply(Tag<float>{});
}

void routeGrad(View logits, View experts, View lse, View shares, View dweights, View daux, View dz, View dlogits,
               bool normalise) {
  const Routing a{(int)logits.rows(), (int)logits.cols(), (int)experts.cols(), normalise};
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    const size_t each = (size_t)a.experts * sizeof(C);
    const int warps = warpsThatFit(each, 8, "routeGrad", a.experts);
    launch("routeGrad", routeGradKernel<C>, {dim3(blocksFor(a.rows, warps)), (unsigned)warps * 32, each * warps},
           logits.as<C>(), experts.as<int32_t>(), lse.as<C>(), shares.as<C>(), dweights.as<C>(), daux.as<C>(),
           dz.as<C>(), dlogits.as<C>(), a);
  };
  logits.dtype == Dtype::float64 ? apply(Tag<double>{}) : apply(Tag<float>{});
}

void gatherRows(View x, View order, View y) {
  const int64_t bytes = x.cols() * dtypeSize(x.dtype);
  const int k = (int)(order.size() / x.rows());
  constexpr int piece = 32 * 16;
  auto go = [&](auto pack) {
    using P = decltype(pack);
    const int packs = (int)(bytes / sizeof(P));
    launch("gatherRows", gatherRowsKernel<P>,
           {dim3(blocksFor(order.size(), rowWarps), blocksFor(packs, piece)), rowThreads}, x.as<P>(),
           order.as<int32_t>(), y.as<P>(), order.size(), k, packs, piece, (int)order.size(),
           failure(sentence::orderInRange, "gatherRows"));
  };
  const uint64_t all = (uint64_t)bytes | (uint64_t)x.data | (uint64_t)y.data;
  if (all % 16 == 0)
    go(uint4{});
  else if (all % 4 == 0)
    go(uint32_t{});
  else if (all % 2 == 0)
    go(uint16_t{});
  else
    go(uint8_t{});
}

void combine(View x, View order, View weights, View y) {
  const int count = (int)order.size();
  Scratch at((size_t)count * sizeof(int32_t));
  checkCuda(cudaMemsetAsync(at.as<void>(), 0x7f, (size_t)count * sizeof(int32_t), stream()), "combine");
  launch("combine", invertKernel, {dim3(blocksFor(count, 256)), 256}, order.as<int32_t>(), count, at.as<int32_t>());
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int n = perPack<T>;
    Rows<T> a{};
    a.x = x.as<T>();
    a.order = order.as<int32_t>();
    a.at = at.as<int32_t>();
    a.weights = weights.as<Compute<T>>();
    a.out = y.as<T>();
    a.rows = y.rows();
    a.cols = (int)y.cols();
    a.count = count;
    a.k = (int)(count / a.rows);
    a.packed = a.cols % n == 0 && aligned(a.x, n) && aligned(a.out, n);
    launch("combine", combineKernel<T>,
           {dim3((unsigned)a.rows, blocksFor(a.packed ? a.cols / n : a.cols, rowThreads)), rowThreads}, a,
           failure(sentence::orderOnce, "combine"));
  });
}

void combineGrad(View x, View order, View weights, View dy, View dx, View dweights) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int n = perPack<T>;
    Rows<T> a{};
    a.x = x.as<T>();
    a.order = order.as<int32_t>();
    a.weights = weights.as<Compute<T>>();
    a.dy = dy.as<T>();
    a.out = dx.as<T>();
    a.dweights = dweights.as<Compute<T>>();
    a.rows = order.size();
    a.cols = (int)dy.cols();
    a.count = (int)order.size();
    a.k = (int)(order.size() / dy.rows());
    a.packed = a.cols % n == 0 && aligned(a.x, n) && aligned(a.dy, n) && aligned(a.out, n);
    launch("combineGrad", combineGradKernel<T>, {dim3(blocksFor(a.rows, rowWarps)), rowThreads}, a,
           failure(sentence::orderInRange, "combine"));
  });
}

}  // namespace cuda
