#pragma once
// PolyNorm, its gated form and their gradients, where every row has 8 elements or more and C is float: a row is read
// once, stays in the registers of a group of threads while its sums are made, and is written once. See poly_exact.cuh
// for the rest.
#include <algorithm>

#include "device/cluster.cuh"
#include "poly.cuh"

namespace cuda {

// Threads of a block. Two blocks a processor at the least: one loads while the other one sums.
template <int R, bool grad>
constexpr unsigned mostThreads = grad ? (R == 3 ? 384 : 320) : 512;

template <class T>
struct RowsOf {
  const T *x, *up, *dy;
  T *out, *outUp;  // y; or the gradients of x and up
  Runs runs{};
  int cols = 0, shift = 0;  // shift: of the first row, the same in all operands
  int chunks = 1;  // pieces of a row, as long as a group of threads can hold; the last stays, the others are read twice
  float eps = 0;
  Sets<float> sets{};
  double* slots = nullptr;
};

// Sums of a row: of z^2k, and before them of d z^k from k = 0 on (in gradients).
template <int R, bool grad>
constexpr int rowSums = powerOfTwo(grad ? 2 * R + 1 : R);

constexpr int mostCluster = 8;

// What the warps of a block, and the blocks of a cluster, show each other. Two of each in turn: whoever is ahead writes
// to the other one, and no further ahead than that can anyone be.
template <int N>
struct RowShared {
  float perWarp[2][32][N];
  double perBlock[2][mostCluster][N];
};

// A group of threads that has one row at a time: `lanes` neighbours of a warp, or (0) a block or a cluster of blocks.
template <int N, int lanes>
struct Group {
  static constexpr int span = lanes ? lanes : 32;
  RowShared<N>* shared;
  unsigned parts, part;  // blocks of the cluster
  int turn = 0;

  // Joins what each warp's lane l has of the value l % N; all get the whole.
  template <class Join>
  __device__ __forceinline__ double whole(float mine, Join join) {
    double total = mine;
    if constexpr (lanes == 0) {
      const int l = lane();
      if (warps() > 1) {
        if (l < N) shared->perWarp[turn][warp()][l] = mine;
        __syncthreads();
        const int n = warps();
        // Every lane starts from a warp that is there: there may be fewer warps than lanes for a value.
        int w = l / N;
        total = w < n ? (double)shared->perWarp[turn][w][l % N] : 0;
        for (w += 32 / N; w < n; w += 32 / N) total = join(total, (double)shared->perWarp[turn][w][l % N]);
        for (int bits = N; bits < 32; bits *= 2) total = join(total, shuffleXor(total, bits));
      }
      if (parts > 1) {
        if (warp() == 0 && l < N)
          for (unsigned p = 0; p < parts; p++) *sharedOf(&shared->perBlock[turn][part][l], p) = total;
        clusterSync();
        total = shared->perBlock[turn][0][l % N];
        for (unsigned p = 1; p < parts; p++) total = join(total, shared->perBlock[turn][p][l % N]);
      }
      turn ^= 1;
    }
    return total;
  }
};

// Rows in runs, one run a group. lanes 16: several rows a block; 0: a block, or a cluster, a row.
template <class T, int R, bool gated, bool grad, int V, int lanes, bool chunked>
__global__ void __launch_bounds__(lanes ? 128 : mostThreads<R, grad>, lanes ? 6 : 2) polyNormKernel(RowsOf<T> a) {
  constexpr int N = rowSums<R, grad>, n = perPack<T>;
  constexpr int firstSquare = grad ? R + 1 : 0;
  using Rows = Group<N, lanes>;
  constexpr int span = Rows::span;
  Rows group{nullptr, 1, 0};
  if constexpr (lanes == 0) {
    group.shared = &sharedMemory<RowShared<N>>();
    group.parts = clusterSize();
    group.part = clusterRank();
    if (group.parts > 1) clusterSync();
  }
  const int l = lane() % span;  // this lane's power
  const int g = lanes ? blockIdx.x * (blockDim.x / span) + threadIdx.x / span : blockIdx.x / group.parts;
  Stretch row;
  row.t = lanes ? l : (int)(group.part * blockDim.x + threadIdx.x);
  row.step = lanes ? lanes : (int)(group.parts * blockDim.x);
  row.aligned = true;
  const bool mine = g < (int)a.runs.groups;
  const int begin = mine ? (int)a.runs.begin(g) : 0, end = mine ? (int)a.runs.begin(g + 1) : 0;
  const float count = (float)a.cols;
  const bool keepsSlots = grad && l <= a.sets.order && (lanes || (threadIdx.x < 32 && group.part == 0));

  int set = 0, setEnd = -1;
  float w = 0;              // this lane's coefficient
  float broadcastBias = 0;  // all lanes'
  double dw = 0;            // and its gradient's share
  auto flush = [&] {
    if (keepsSlots) a.slots[(int64_t)(g + set) * (a.sets.order + 1) + l] = dw;
    dw = 0;
  };

  // Lanes that share a warp take as many steps.
  const int last = lanes ? begin + (int)a.runs.longest() : end;
  for (int r = begin; r < last; r++) {
    const bool valid = lanes == 0 || r < end;
    row.count = valid ? a.cols : 0;
    row.shift = (a.shift + r % n * (a.cols % n)) % n;
    if (valid && r >= setEnd) {
      if (setEnd >= 0) flush();
      set = a.sets.offsets ? a.sets.of(r) : 0;
      setEnd = (int)a.sets.end(set, a.runs.rows);
      w = a.sets.at(set, l);
      broadcastBias = a.sets.at(set, 0);
    }

    const int64_t at = (int64_t)r * a.cols;
    const int chunks = chunked ? a.chunks : 1;
    Packs<T, V> hx, hu, hd;
    auto load = [&](int chunk) {
      loadPacks<true>(a.x + at, row, chunk * V, hx);
      if constexpr (gated) loadPacks<true>(a.up + at, row, chunk * V, hu);
      if constexpr (grad) loadPacks<true>(a.dy + at, row, chunk * V, hd);
    };

    auto forget = [&] {
      hx.forget();
      if constexpr (gated) hu.forget();
      if constexpr (grad) hd.forget();
    };
    if constexpr (!chunked) load(0);

    float scale = 1, squares;
    double total;
    for (bool again = false;; again = true) {
      float sums[N] = {};
      forget();
      for (int chunk = 0; chunk < chunks; chunk++) {
        if constexpr (chunked) load(chunk);
#pragma unroll
        for (int i = 0; i < V; i++)
          if (row.reaches<T>(chunk * V + i)) {
            const Elements<T> px = hx[i], pu = hu[i], pd = hd[i];
#pragma unroll
            for (int e = 0; e < n; e++) {
              float z = float(px.at[e]) * scale;
              poly::addSquares(R, z, sums + firstSquare);
              if constexpr (grad) {
                float d = float(pd.at[e]);
                if constexpr (gated) d *= float(pu.at[e]);
                poly::addProducts(R, z, d, sums);
              }
            }
          }
      }
      total = group.whole(scatterSum<N, span>(sums), [](double p, double q) { return p + q; });
      squares = __shfl_sync(~0u, (float)total, (firstSquare + l - 1 + N) % N, span);
      const float highest = __shfl_sync(~0u, (float)total, firstSquare + R - 1, span);
      const bool fine = again || !valid || poly::inRange(highest, count, a.eps);
      if (__all_sync(~0u, fine)) break;
      // Rare: powers that leave the range of floats. Once more, with x near 1.
      int exponent = 0;
      for (int chunk = 0; chunk < chunks; chunk++) {
        if constexpr (chunked) load(chunk);
#pragma unroll
        for (int i = 0; i < V; i++) {
          const Elements<T> px = hx[i];
#pragma unroll
          for (int e = 0; e < n; e++) {
            int of = (int)(bitsFromFloat(float(px.at[e])) >> 23 & 0xff);
            exponent = of > exponent ? of : exponent;
          }
        }
      }
      auto larger = [](auto p, auto q) { return p > q ? p : q; };
      const double largest = group.whole(warpReduce<span>((float)exponent, larger), larger);
      if (!fine) scale = poly::scaleFor<float>((int)largest - 127, a.eps);
    }

    forget();
    // Lane k has all that belongs to power k.
    float eps = a.eps;
    if (scale != 1)
      for (int k = 0; k < l; k++) eps = eps * scale * scale;
    const bool used = l >= 1 && l <= a.sets.order;
    const float inverse = used ? poly::inverseNorm(squares, count, eps) : 0;
    const float product = (float)total;
    float value[R + 1], slope[R], pull[R];
    if constexpr (!grad || gated) {
      value[0] = broadcastBias;
      float of = w * inverse;
#pragma unroll
      for (int k = 1; k <= R; k++) value[k] = __shfl_sync(~0u, of, k, span);
    }
    if constexpr (grad) {
      float ofSlope = 0, ofPull = 0;
      if (used) poly::gradCoefficient(l, w, inverse, product, count, scale, ofSlope, ofPull);
#pragma unroll
      for (int k = 1; k <= R; k++) {
        slope[k - 1] = __shfl_sync(~0u, ofSlope, k, span);
        pull[k - 1] = __shfl_sync(~0u, ofPull, k, span);
      }
      if (valid) dw += l == 0 ? total : inverse * total;
    }

    // The last chunk is still there.
    for (int chunk = chunks - 1; chunk >= 0; chunk--) {
      if (chunked && chunk < chunks - 1) load(chunk);
#pragma unroll
      for (int i = 0; i < V; i++)
        if (row.reaches<T>(chunk * V + i)) {
          const Elements<T> px = hx[i], pu = hu[i], pd = hd[i];
          Elements<T> out, outUp;
#pragma unroll
          for (int e = 0; e < n; e++) {
            float z = float(px.at[e]) * scale;
            if constexpr (!grad) {
              float y = poly::horner(R, z, value);
              if constexpr (gated) y *= float(pu.at[e]);
              out.at[e] = T(y);
            } else {
              float d = float(pd.at[e]);
              if constexpr (gated) {
                outUp.at[e] = T(d * poly::horner(R, z, value));
                d *= float(pu.at[e]);
              }
              out.at[e] = T(poly::polyNormGrad(R, z, d, slope, pull));
            }
          }
          storeOne<true>(a.out + at, row, chunk * V + i, out);
          if constexpr (gated && grad) storeOne<true>(a.outUp + at, row, chunk * V + i, outUp);
        }
    }
  }
  if (setEnd >= 0) flush();
  // A block must not end while others may still write to it: the last exchange was waited for by all.
}

// How a row is shared out.
struct Shape {
  int lanes;  // 16: a half warp has a row; 0: a block or a cluster
  unsigned threads, cluster;
  int chunks;
};

// Packs that the rows take, wherever they start.
template <class T>
int64_t packsOf(int64_t cols, int shift) {
  constexpr int n = perPack<T>;
  return shift == 0 && cols % n == 0 ? cols / n : (cols + 2 * n - 2) / n;
}

// Packs of a row that a thread holds, and what else fits the registers.
template <bool gated, bool grad>
constexpr int packsEach(int R) {
  return (grad && R == 8 ? 2 : 4) / (gated ? 2 : 1);
}
constexpr int packsOfShort = 2;

// Short and very long rows have kernels of order 4 and 8 only.
template <bool gated, bool grad>
Shape shapeOf(int64_t packs, int R) {
  if (R <= 4 && packs <= 16 * packsOfShort) return {16, 128, 1, 1};
  const bool clusters = device().capability >= 90;
  const unsigned most = R == 3 ? mostThreads<3, grad> : mostThreads<4, grad>;
  int64_t each = packsEach<gated, grad>(R);
  unsigned cluster = 1;
  for (; clusters && cluster < mostCluster && packs > each * most; each *= 2) cluster *= 2;
  const unsigned threads = (unsigned)std::min<int64_t>(((packs + each - 1) / each + 31) / 32 * 32, most);
  return {0, threads, cluster, (int)((packs + each * threads - 1) / (each * threads))};
}

// Launches the rows of one dtype and order.
template <class T, int R, bool gated, bool grad>
void launchRows(const char* name, RowsOf<T> a, const View& offsets, const View& dweight, const View& dbias) {
  constexpr int V = packsEach<gated, grad>(R);
  const Shape shape = shapeOf<gated, grad>(packsOf<T>(a.cols, a.shift), R);
  auto go = [&](auto kernel, const Shape& shape, size_t shared) {
    const int64_t perBlock = shape.lanes ? shape.threads / shape.lanes : 1;
    int64_t groups =
        (int64_t)residentBlocks(kernel, shape.threads, shared) * device().processors * perBlock / shape.cluster;
    if (!grad) groups *= 4;  // blocks that come later even out what the first ones leave
    a.runs.groups = std::clamp<int64_t>(groups, 1, std::max<int64_t>(a.runs.rows, 1));
    a.chunks = shape.chunks;
    const Grid grid{a.runs.rows ? dim3(blocksFor(a.runs.groups, perBlock) * shape.cluster) : dim3(0), shape.threads,
                    shared, shape.cluster};
    launchRuns<grad>(name, kernel, grid, a, offsets, dweight, dbias);
  };
  if constexpr (R == 4)
    if (shape.lanes) return go(polyNormKernel<T, R, gated, grad, packsOfShort, 16, false>, shape, 0);
  const size_t shared = sizeof(RowShared<rowSums<R, grad>>);
  if constexpr (R >= 4)
    if (shape.chunks > 1) return go(polyNormKernel<T, R, gated, grad, V, 0, true>, shape, shared);
  go(polyNormKernel<T, R, gated, grad, V, 0, false>, shape, shared);
}

struct RowViews {
  View x, up, weight, bias, offsets;
  double eps;
  View dy, out, outUp = {}, dweight = {}, dbias = {};
};

// In poly_exact.cu: any row, in double.
void polyNormExact(const char* name, const RowViews& v);

template <bool gated, bool grad>
void polyNormRows(const char* name, const RowViews& v) {
  const int64_t cols = v.x.cols(), rows = v.x.size() ? v.x.rows() : 0;
  checkOffsets(name, v.offsets, v.x.rows());
  // In a row of a few elements dy - n mean(dy n) all but cancels.
  if (v.x.dtype == Dtype::float64 || (grad && cols < 8) || cols > (1 << 30) || rows > (1 << 30))
    return polyNormExact(name, v);
  withFloat(v.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (!std::is_same_v<T, double>) {
      RowsOf<T> a{v.x.as<T>(), v.up.as<T>(), v.dy.as<T>(), v.out.as<T>(), v.outUp.as<T>()};
      a.runs = {rows, 1};
      a.cols = (int)cols;
      a.shift = shiftOf(a.x);
      if (!alike<T>(a.x, {a.up, a.dy, a.out, a.outUp})) return polyNormExact(name, v);
      a.eps = (float)v.eps;
      a.sets = setsOf<float>(v.weight, v.bias, v.offsets);
      int order = a.sets.order;
      if (order < 4) {
        const Shape shape = shapeOf<gated, grad>(packsOf<T>(cols, a.shift), 4);
        if (shape.lanes || shape.chunks > 1) order = 4;
      }
      withOrder<T>(order, [&](auto R) {
        launchRows<T, decltype(R)::value, gated, grad>(name, a, v.offsets, v.dweight, v.dbias);
      });
    }
  });
}

}  // namespace cuda
