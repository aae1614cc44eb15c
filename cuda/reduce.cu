// Sums, means and extremes over any axes. Floats are summed in double, as on the CPU: the conversions fit into the time
// that memory takes. Long reductions are cut into pieces by the shape alone and joined in order by a second launch.
#include <algorithm>
#include <cstdlib>

#include "core/dtype.h"
#include "device/order.cuh"
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "device/walk.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "math/reduce.h"

namespace cuda {
namespace {

constexpr unsigned threads = 256;
constexpr int warpsOfBlock = threads / 32;
constexpr int64_t enoughBlocks = 1024;  // that keep any GPU busy; not its own number: results are the same on all

struct Plan {
  const void* x;
  Loop kept, reduced;
  int64_t results, length;  // places kept, and reduced
  int64_t pieces, piece;    // of the length, and their length
  bool packs;               // the innermost axis can be read by packs
  Dtype dtype;              // of y
  void* y;                  // or the partial results, one for each result and piece
  double scale;
};

template <class A>
__device__ __forceinline__ void put(const Plan& plan, int64_t at, A value) {
  if constexpr (std::is_same_v<A, double>) value *= plan.scale;
  withDtype(plan.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    ((T*)plan.y)[at] = stored<T>(value);
  });
}

struct Total {
  template <class A>
  __device__ A first() const {
    return Sum::first<A>();
  }
  template <class A>
  __device__ A join(A a, A b) const {
    return Sum::join(a, b);
  }
};
struct Extreme {
  bool largest;
  template <class A>
  __device__ A first() const {
    return largest ? Largest::first<A>() : Smallest::first<A>();
  }
  template <class A>
  __device__ A join(A a, A b) const {
    return largest ? Largest::join(a, b) : Smallest::join(a, b);
  }
};
// What is joined: sums of floats in double, all else in the type that the elements are computed in.
template <class F, class T>
using Running = std::conditional_t<std::is_same_v<F, Total> && std::is_same_v<Wide<T>, float>, double, Wide<T>>;

template <class T>
constexpr int packOf = sizeof(T) == 1 ? 8 : perPack<T>;

// n <= V elements from `at` on, each `step` behind the last.
template <int V, class T>
__device__ __forceinline__ Pack<T, V> loadSome(const T* x, int64_t at, int64_t step, int n, bool whole) {
  if (whole) return loadPack<V>(x + at);
  Pack<T, V> pack;
#pragma unroll
  for (int k = 0; k < V; k++) pack.at[k] = x[at + (k < n ? k * step : 0)];
  return pack;
}

// `group` neighbouring threads a result, or piece of one: some lanes of a warp, or the whole block.
template <class T, class F>
__global__ void __launch_bounds__(threads, 2) reduceRowsKernel(const __grid_constant__ Plan plan, int group, F f) {
  using A = Running<F, T>;
  auto& s = sharedMemory<BlockReduce<A>>();
  constexpr int V = packOf<T>, ahead = 4;
  const T* x = (const T*)plan.x;
  const int64_t items = plan.results * plan.pieces,
                item = blockIdx.x * (int64_t)(threads / group) + threadIdx.x / group;
  const int64_t result = item / plan.pieces, part = item - result * plan.pieces;
  A sum = f.template first<A>();
  int64_t from = 0, to = 0;
  if (item < items) {
    plan.kept.locate(result, from, to);
    const int64_t end = min(plan.length, (part + 1) * plan.piece);
    const int width = plan.packs ? V : 1;
    const int64_t step = (int64_t)group * width;
    for (int64_t i = part * plan.piece + threadIdx.x % group * width; i < end; i += step * ahead) {
      if (plan.packs) {
        Pack<T, V> in[ahead];
#pragma unroll
        for (int u = 0; u < ahead; u++)
          if (i + u * step < end) in[u] = loadPack<V>(x + from + plan.reduced.locate(i + u * step));
#pragma unroll
        for (int u = 0; u < ahead; u++)
          if (i + u * step < end)
#pragma unroll
            for (int k = 0; k < V; k++) sum = f.join(sum, (A)loaded<Wide<T>>(in[u].at[k]));
      } else {
        T in[ahead];
#pragma unroll
        for (int u = 0; u < ahead; u++)
          if (i + u * step < end) in[u] = x[from + plan.reduced.locate(i + u * step)];
#pragma unroll
        for (int u = 0; u < ahead; u++)
          if (i + u * step < end) sum = f.join(sum, (A)loaded<Wide<T>>(in[u]));
      }
    }
  }
  auto join = [&](A a, A b) { return f.join(a, b); };
  if (group > 32) {
    sum = blockReduce(sum, s, join);
  } else {
    for (int bits = group / 2; bits; bits /= 2) sum = join(sum, shuffleXor(sum, bits));
  }
  if (item >= items || threadIdx.x % group) return;
  if (plan.pieces > 1)
    ((A*)plan.y)[item] = sum;
  else
    put(plan, to, sum);
}

template <class A, int V>
struct Columns {
  A at[warpsOfBlock][32 * V];
};

// A block a panel of neighbouring results, `lanes` packs wide, and a piece of the rows above them. The warps, and what
// lanes are left, take rows in turn.
template <class T, class F>
__global__ void __launch_bounds__(threads, 2)
    reduceColumnsKernel(const __grid_constant__ Plan plan, const __grid_constant__ Loop outer, int lanes,
                        int64_t panels, F f) {
  using A = Running<F, T>;
  constexpr int V = packOf<T>, ahead = 4;
  auto& s = sharedMemory<Columns<A, V>>();
  const T* x = (const T*)plan.x;
  const int inner = plan.kept.rank - 1;
  const int64_t cols = plan.kept.shape[inner], stepX = plan.kept.x[inner], stepY = plan.kept.y[inner];
  const int64_t line = blockIdx.x / panels, panel = (blockIdx.x - line * panels) * lanes * V;
  const int64_t at = line / plan.pieces, part = line - at * plan.pieces;
  int64_t from = 0, to = 0;
  outer.locate(at, from, to);
  const int64_t column = panel + lane() % lanes * V;
  const int n = (int)max((int64_t)0, min((int64_t)V, cols - column));
  A sum[V];
#pragma unroll
  for (int k = 0; k < V; k++) sum[k] = f.template first<A>();
  if (n) {
    const int rows = 32 / lanes, step = warpsOfBlock * rows;
    const int64_t end = min(plan.length, (part + 1) * plan.piece);
    for (int64_t r = part * plan.piece + warp() * rows + lane() / lanes; r < end; r += step * ahead) {
      Pack<T, V> in[ahead];
#pragma unroll
      for (int u = 0; u < ahead; u++)
        if (r + u * step < end)
          in[u] = loadSome<V>(x, from + plan.reduced.locate(r + u * step) + column * stepX, stepX, n, plan.packs);
#pragma unroll
      for (int u = 0; u < ahead; u++)
        if (r + u * step < end)
#pragma unroll
          for (int k = 0; k < V; k++) sum[k] = f.join(sum[k], (A)loaded<Wide<T>>(in[u].at[k]));
    }
  }
#pragma unroll
  for (int k = 0; k < V; k++) {
    for (int bits = lanes; bits < 32; bits *= 2) sum[k] = f.join(sum[k], shuffleXor(sum[k], bits));
    if (lane() < lanes) s.at[warp()][lane() * V + k] = sum[k];
  }
  __syncthreads();
  for (int c = threadIdx.x; c < lanes * V && panel + c < cols; c += threads) {
    A all = s.at[0][c];
    for (int w = 1; w < warpsOfBlock; w++) all = f.join(all, s.at[w][c]);
    if (plan.pieces > 1)
      ((A*)plan.y)[line * cols + panel + c] = all;
    else
      put(plan, to + (panel + c) * stepY, all);
  }
}

// Cuts the length so that there are enough blocks of at least so many places each.
void cut(Plan& plan, int64_t blocks, int64_t least) {
  const int64_t wanted = (enoughBlocks + blocks - 1) / blocks, most = std::max<int64_t>(1, plan.length / least);
  const int64_t each = (plan.length + std::min(wanted, most) - 1) / std::min(wanted, most);
  plan.piece = std::max<int64_t>(32, (each + 31) / 32 * 32);
  plan.pieces = std::max<int64_t>(1, (plan.length + plan.piece - 1) / plan.piece);
}

// Whether every pack along the innermost axis is whole and in its place.
template <class T>
bool packable(const Plan& plan, bool columns) {
  constexpr int V = packOf<T>;
  const Loop& inner = columns ? plan.kept : plan.reduced;
  if (!inner.rank || inner.x[inner.rank - 1] != 1 || inner.shape[inner.rank - 1] % V || !aligned((T*)plan.x, V))
    return false;
  for (const Loop* loop : {&plan.kept, &plan.reduced})
    for (int i = 0; i < loop->rank - (loop == &inner); i++)
      if (loop->x[i] % V) return false;
  return true;
}

template <class T, class F>
void rows(const char* name, Plan plan, F f) {
  using A = Running<F, T>;
  cut(plan, plan.results, 8192);
  plan.packs = packable<T>(plan, false);
  const int64_t loads = plan.piece / (plan.packs ? packOf<T> : 1);
  int group = 1;
  while (group < 32 && group * 4 < loads) group *= 2;
  if (loads > 1024) group = threads;
  auto all = [&](const Plan& one) {
    launch(name, reduceRowsKernel<T, F>,
           {blocksFor(one.results * one.pieces, threads / group), threads, sizeof(BlockReduce<A>)}, one, group, f);
  };
  if (plan.pieces == 1) return all(plan);
  Scratch partial(plan.results * plan.pieces * sizeof(A));
  Plan second = plan;
  plan.y = partial.as<void>();
  all(plan);
  second.x = plan.y;
  second.length = plan.pieces;
  second.reduced = Loop();
  second.reduced.push(plan.pieces, 1, 0);
  second.reduced.finish();
  // Each result's partial values lie together.
  int64_t stride = second.results * plan.pieces;
  for (int i = 0; i < second.kept.rank; i++) second.kept.x[i] = stride /= second.kept.shape[i];
  second.pieces = 1;
  second.piece = second.length;
  second.packs = false;
  group = 32;
  launch(name, reduceRowsKernel<A, F>, {blocksFor(second.results, threads / group), threads, sizeof(BlockReduce<A>)},
         second, group, f);
}

template <class T, class F>
void columns(const char* name, Plan plan, F f) {
  using A = Running<F, T>;
  const int inner = plan.kept.rank - 1;
  const int64_t cols = plan.kept.shape[inner];
  Loop outer = plan.kept;
  outer.rank--;
  auto all = [&](auto tag, const Plan& one, const Loop& before) {
    using U = typename decltype(tag)::type;
    constexpr int V = packOf<U>;
    int lanes = 1;
    while (lanes < 32 && lanes * V < cols) lanes *= 2;
    const int64_t panels = (cols + lanes * V - 1) / (lanes * V);
    launch(name, reduceColumnsKernel<U, F>,
           {(unsigned)(before.count() * one.pieces * panels), threads, sizeof(Columns<A, V>)}, one, before, lanes,
           panels, f);
  };
  cut(plan, outer.count() * ((cols + 32 * packOf<T> - 1) / (32 * packOf<T>)), 128);
  plan.packs = packable<T>(plan, true);
  if (plan.pieces == 1) return all(Tag<T>{}, plan, outer);
  Scratch partial(plan.results * plan.pieces * sizeof(A));
  Plan second = plan;
  plan.y = partial.as<void>();
  all(Tag<T>{}, plan, outer);
  second.x = plan.y;
  second.length = plan.pieces;
  second.reduced = Loop();
  second.reduced.push(plan.pieces, cols, 0);
  second.reduced.finish();
  // The partial values: outer places, pieces, columns.
  int64_t stride = second.results * plan.pieces;
  for (int i = 0; i < inner; i++) second.kept.x[i] = stride /= second.kept.shape[i];
  second.kept.x[inner] = 1;
  outer = second.kept;
  outer.rank--;
  second.pieces = 1;
  second.piece = second.length;
  second.packs = packable<A>(second, true);
  all(Tag<A>{}, second, outer);
}

template <class F>
void reduceWith(View x, View y, double scale, F f) {
  Plan plan{};
  int order[maxRank], n = 0;
  for (int axis = 0; axis < x.rank; axis++) {
    if (x.shape[axis] == 1) continue;
    int at = n++;
    for (; at > 0 && std::abs(x.stride[order[at - 1]]) < std::abs(x.stride[axis]); at--) order[at] = order[at - 1];
    order[at] = axis;
  }
  bool innerIsKept = false;
  for (int i = 0; i < n; i++) {
    const int axis = order[i];
    innerIsKept = y.shape[axis] != 1;
    (innerIsKept ? plan.kept : plan.reduced).push(x.shape[axis], x.stride[axis], innerIsKept ? y.stride[axis] : 0);
  }
  plan.kept.finish();
  plan.reduced.finish();
  plan.x = x.data;
  plan.y = y.data;
  plan.dtype = y.dtype;
  plan.scale = scale;
  plan.results = plan.kept.count();
  plan.length = plan.reduced.count();
  auto typed = [&](auto tag) {
    using T = typename decltype(tag)::type;
    innerIsKept ? columns<T>("reduce", plan, f) : rows<T>("reduce", plan, f);
  };
  withDtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    typed(Tag<std::conditional_t<std::is_same_v<T, bool>, uint8_t, T>>{});
  });
}

}  // namespace

void reduce(ReduceOp op, View x, View y) {
  if (!y.size()) return;
  switch (op) {
    case ReduceOp::sum:
      return reduceWith(x, y, 1, Total{});
    case ReduceOp::mean:
      return reduceWith(x, y, (double)y.size() / (double)x.size(), Total{});
    case ReduceOp::max:
      return reduceWith(x, y, 1, Extreme{true});
    case ReduceOp::min:
      return reduceWith(x, y, 1, Extreme{false});
  }
}

namespace {

struct Place {
  int64_t order, at;
};
// The larger one, the first of several.
__device__ inline Place better(Place a, Place b) {
  return a.order > b.order || (a.order == b.order && a.at < b.at) ? a : b;
}

// A block a piece of a row.
template <class T>
__global__ void __launch_bounds__(threads)
    argmaxKernel(const T* x, int64_t cols, int64_t pieces, int64_t piece, Place* found) {
  auto& s = sharedMemory<BlockReduce<Place>>();
  const int64_t row = blockIdx.x / pieces, part = blockIdx.x - row * pieces;
  const int64_t end = min(cols, (part + 1) * piece);
  Place best{INT64_MIN, cols};
#pragma unroll 4
  for (int64_t i = part * piece + threadIdx.x; i < end; i += threads)
    best = better(best, Place{orderOf(x[row * cols + i]), i});
  best = blockReduce(best, s, better);
  if (threadIdx.x == 0) found[blockIdx.x] = best;
}

// A warp a row.
__global__ void __launch_bounds__(threads)
    argmaxJoinKernel(const Place* found, int64_t rows, int64_t pieces, int32_t* y) {
  const int64_t row = blockIdx.x * (int64_t)warpsOfBlock + warp();
  Place best{INT64_MIN, INT64_MAX};
  if (row < rows)
    for (int64_t i = lane(); i < pieces; i += 32) best = better(best, found[row * pieces + i]);
  best = warpReduce(best, better);
  if (row < rows && lane() == 0) y[row] = (int32_t)best.at;
}

}  // namespace

void argmax(View x, View y) {
  const int64_t rows = x.rows(), cols = x.cols();
  if (!rows) return;
  Plan plan{};
  plan.length = cols;
  cut(plan, rows, 8192);
  Scratch found(rows * plan.pieces * sizeof(Place));
  withDtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch("argmax", argmaxKernel<T>, {(unsigned)(rows * plan.pieces), threads, sizeof(BlockReduce<Place>)},
           (const T*)x.data, cols, plan.pieces, plan.piece, found.as<Place>());
  });
  launch("argmax", argmaxJoinKernel, {blocksFor(rows, warpsOfBlock), threads}, found.as<const Place>(), rows,
         plan.pieces, y.as<int32_t>());
}

}  // namespace cuda
