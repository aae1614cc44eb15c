// What a feed-forward layer around a polynomial activation does beside its products: each row's norms from sums, the
// gradient as one pass over h and dy, the coefficients' gradients from the shares of tiles.
#include "mlp_norm.h"

#include <algorithm>

#include "device/pack.cuh"
#include "device/product.cuh"
#include "poly.cuh"

namespace cuda {
namespace {

// fn(Tag<T>{}, std::integral_constant<int, R>{}) for what polyCompiled says.
template <class Fn>
void withCompiled(Dtype type, int order, Fn fn) {
  if (type == Dtype::float16) return fn(Tag<f16>{}, std::integral_constant<int, 3>{});
  if (order == 2) return fn(Tag<bf16>{}, std::integral_constant<int, 2>{});
  if (order == 3) return fn(Tag<bf16>{}, std::integral_constant<int, 3>{});
  fn(Tag<bf16>{}, std::integral_constant<int, 4>{});
}

// The warp's sum of `parts` times N neighbours, for each of the N.
template <int N>
__device__ __forceinline__ void sumParts(const float* from, int parts, double (&total)[N]) {
#pragma unroll
  for (int k = 0; k < N; k++) total[k] = 0;
  for (int part = lane(); part < parts; part += 32)
#pragma unroll
    for (int k = 0; k < N; k++) total[k] += from[part * N + k];
#pragma unroll
  for (int k = 0; k < N; k++) total[k] = warpSum(total[k]);
}

// One warp a row.
template <class T, int R>
__global__ void __launch_bounds__(256)
    polyNormsKernel(const T* h, int64_t rows, int cols, const float* sums, int parts, float eps, float* norms) {
  const int64_t row = blockIdx.x * (int64_t)warps() + warp();
  if (row >= rows) return;
  const T* x = h + row * cols;
  double total[R];
  float scale = 1;
  auto addUp = [&] {
    float own[R] = {};
    for (int j = lane(); j < cols; j += 32) poly::addSquares(R, (float)x[j] * scale, own);
#pragma unroll
    for (int k = 0; k < R; k++) total[k] = warpSum((double)own[k]);
  };
  if (sums)
    sumParts<R>(sums + row * parts * R, parts, total);
  else
    addUp();
  if (!poly::inRange((float)total[R - 1], (float)cols, eps)) {
    int exponent = 0;
    for (int j = lane(); j < cols; j += 32) exponent = max(exponent, (int)(bitsFromFloat((float)x[j]) >> 23 & 0xff));
    exponent = warpReduce(exponent, [](int p, int q) { return p > q ? p : q; });
    scale = poly::scaleFor<float>(exponent - 127, eps);
    addUp();
  }
  float squares[R], inverse[R];
#pragma unroll
  for (int k = 0; k < R; k++) squares[k] = (float)total[k];
  poly::inverseNorms(R, squares, (float)cols, eps, scale, inverse);
  float* to = norms + row * (R + 1);
  if (lane() != 0) return;
  to[0] = scale;
#pragma unroll
  for (int k = 0; k < R; k++) to[k + 1] = inverse[k];
}

// What the pass needs of a row.
template <int R>
struct RowFactors {
  float scale, value[R + 1], slope[R], pull[R];
};

// One warp a run of rows: their factors, and their share of the coefficients' gradients.
template <int R>
__global__ void __launch_bounds__(256)
    rowFactorsKernel(const float* norms, const float* sums, int parts, float count, Runs runs, Sets<float> sets,
                     RowFactors<R>* factors, double* slots) {
  const int64_t g = blockIdx.x * (int64_t)warps() + warp();
  if (g >= runs.groups) return;
  int set = 0;
  int64_t setEnd = -1;
  float w[R + 1];
  double dw[R + 1] = {};
  auto flush = [&] {
#pragma unroll
    for (int k = 0; k <= R; k++) {
      if (lane() == 0) slots[(g + set) * (R + 1) + k] = dw[k];
      dw[k] = 0;
    }
  };
  for (int64_t row = runs.begin(g); row < runs.begin(g + 1); row++) {
    if (row >= setEnd) {
      if (setEnd >= 0) flush();
      set = sets.offsets ? sets.of(row) : 0;
      setEnd = sets.end(set, runs.rows);
#pragma unroll
      for (int k = 0; k <= R; k++) w[k] = sets.at(set, k);
    }
    double total[R + 1];
    sumParts<R + 1>(sums + row * parts * (R + 1), parts, total);
    float inverse[R], products[R + 1];
#pragma unroll
    for (int k = 0; k < R; k++) inverse[k] = norms[row * (R + 1) + k + 1];
#pragma unroll
    for (int k = 0; k <= R; k++) products[k] = (float)total[k];
    RowFactors<R> f;
    f.scale = norms[row * (R + 1)];
    poly::valueCoefficients(R, w, inverse, f.value);
    poly::gradCoefficients(R, w, inverse, products, count, f.scale, f.slope, f.pull);
    if (lane() == 0) factors[row] = f;
    dw[0] += total[0];
#pragma unroll
    for (int k = 1; k <= R; k++) dw[k] += inverse[k - 1] * total[k];
  }
  if (setEnd >= 0) flush();
}

// A warp makes so many packs a lane of a row.
constexpr int packsAtATime = 4;

// One warp a piece of a row; dh holds dy.
template <class T, int R>
__global__ void __launch_bounds__(256)
    polyNormPassKernel(const T* h, const RowFactors<R>* factors, int64_t rows, int cols, int pieces, T* dh, T* y) {
  constexpr int n = perPack<T>, V = packsAtATime;
  const int64_t index = blockIdx.x * (int64_t)warps() + warp(), row = index / pieces;
  if (row >= rows) return;
  const int first = ((int)(index % pieces) * V * 32 + lane()) * n;
  const int64_t at = row * cols + first;
  Pack<T, n> x[V], d[V];
#pragma unroll
  for (int i = 0; i < V; i++)
    if (first + i * 32 * n < cols) {
      x[i] = loadPack<n>(h + at + i * 32 * n);
      d[i] = loadPack<n>(dh + at + i * 32 * n);
    }
  const RowFactors<R> f = factors[row];
#pragma unroll
  for (int i = 0; i < V; i++)
    if (first + i * 32 * n < cols) {
      Pack<T, n> dx, value;
#pragma unroll
      for (int e = 0; e < n; e++) {
        const float z = (float)x[i].at[e] * f.scale;
        value.at[e] = T(poly::horner(R, z, f.value));
        dx.at[e] = T(poly::polyNormGrad(R, z, (float)d[i].at[e], f.slope, f.pull));
      }
      storePack(dh + at + i * 32 * n, dx);
      storePack(y + at + i * 32 * n, value);
    }
}

struct JoinShared {
  BlockReduce<double> reduce;
};

// One block a sum: its threads take tiles in turn, then join in a fixed order. Bands of tiles lie group by group.
__global__ void __launch_bounds__(256)
    joinTilesKernel(const float* sums, const __grid_constant__ Product p, float* dweight, float* dbias) {
  auto& s = sharedMemory<JoinShared>();
  const int order = p.poly.order, set = blockIdx.x / (order + 1), k = blockIdx.x % (order + 1);
  const int64_t across = (p.n + polyTile - 1) / polyTile;
  int64_t begin = 0, end = (p.m + polyTile - 1) / polyTile;
  if (p.grouped == Grouped::rows) {
    auto bands = [&](int from, int to) {
      int64_t sum = 0;
      for (int g = from; g < to; g++) {
        const int rows = clampOffset(p.offsets[g + 1], p.m) - clampOffset(p.offsets[g], p.m);
        if (rows > 0) sum += (rows + polyTile - 1) / polyTile;
      }
      return sum;
    };
    begin = p.poly.sets > 1 ? bands(0, set) : 0;
    end = begin + (p.poly.sets > 1 ? bands(set, set + 1) : bands(0, p.groups));
  }
  double sum = 0;
  for (int64_t i = begin * across + threadIdx.x; i < end * across; i += blockDim.x) sum += sums[i * (order + 1) + k];
  sum = blockSum(sum, s.reduce);
  if (threadIdx.x) return;
  if (k == 0)
    dbias[set] = (float)sum;
  else
    dweight[(int64_t)set * order + order - k] = (float)sum;
}

}  // namespace

void polyNorms(const View& h, const float* sums, int parts, double eps, const View& norms) {
  withCompiled(h.dtype, (int)norms.cols() - 1, [&](auto tag, auto R) {
    using T = typename decltype(tag)::type;
    launch("polyNormMlp: norms", polyNormsKernel<T, decltype(R)::value>, {dim3(blocksFor(h.rows(), 8))}, h.as<T>(),
           h.rows(), (int)h.cols(), sums, parts, (float)eps, norms.as<float>());
  });
}

void polyNormPass(const View& h, const View& norms, const float* sums, int parts, const View& weight, const View& bias,
                  const View& offsets, const View& dh, const View& y, const View& dweight, const View& dbias) {
  const int64_t rows = h.rows(), cols = h.cols();
  withCompiled(h.dtype, (int)weight.cols(), [&](auto tag, auto order) {
    using T = typename decltype(tag)::type;
    constexpr int R = decltype(order)::value;
    const Runs runs{rows, std::min<int64_t>(rows, device().processors * 64)};
    const Sets<float> sets = setsOf<float>(weight, bias, offsets);
    Scratch factors(rows * sizeof(RowFactors<R>)), slots(slotBytes(runs, sets.count, R));
    launch("polyNormMlp: rows", rowFactorsKernel<R>, {dim3(blocksFor(runs.groups, 8))}, norms.as<float>(), sums, parts,
           (float)cols, runs, sets, factors.as<RowFactors<R>>(), slots.as<double>());
    joinSlots(slots.as<double>(), runs, offsets, dweight, dbias);
    const int pieces = (int)blocksFor(cols, packsAtATime * 32 * perPack<T>);
    launch("polyNormMlp: pass", polyNormPassKernel<T, R>, {dim3(blocksFor(rows * pieces, 8))}, h.as<T>(),
           factors.as<RowFactors<R>>(), rows, (int)cols, pieces, dh.as<T>(), y.as<T>());
  });
}

void joinTiles(const float* sums, const Product& p, const View& dweight, const View& dbias) {
  launch("polyReluMlp: join", joinTilesKernel,
         {dim3((unsigned)(dbias.size() * (p.poly.order + 1))), 256, sizeof(JoinShared)}, sums, p, dweight.as<float>(),
         dbias.as<float>());
}

}  // namespace cuda
