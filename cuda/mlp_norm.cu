// What a feed-forward layer around a polynomial activation does beside its products: each row's norms from sums, the
// coefficients' gradients from the shares of bands.
#include "mlp_norm.h"

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

struct JoinShared {
  BlockReduce<double> reduce;
};

// One block a sum: its threads take parts in turn, then join in a fixed order. Bands lie group by group.
__global__ void __launch_bounds__(256)
    joinBandsKernel(const float* sums, int64_t parts, const __grid_constant__ Product p, float* dweight, float* dbias) {
  auto& s = sharedMemory<JoinShared>();
  const int order = p.poly.order, set = blockIdx.x / (order + 1), k = blockIdx.x % (order + 1);
  int64_t begin = 0, end = (p.m + polyBand - 1) / polyBand;
  if (p.grouped == Grouped::rows) {
    auto bands = [&](int from, int to) {
      int64_t sum = 0;
      for (int g = from; g < to; g++) {
        const int rows = clampOffset(p.offsets[g + 1], p.m) - clampOffset(p.offsets[g], p.m);
        if (rows > 0) sum += (rows + polyBand - 1) / polyBand;
      }
      return sum;
    };
    begin = p.poly.sets > 1 ? bands(0, set) : 0;
    end = begin + (p.poly.sets > 1 ? bands(set, set + 1) : bands(0, p.groups));
  }
  double sum = 0;
  for (int64_t i = begin * parts + threadIdx.x; i < end * parts; i += blockDim.x) sum += sums[i * (order + 1) + k];
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

void joinBands(const float* sums, int parts, const Product& p, const View& dweight, const View& dbias) {
  launch("polyReluMlp: join", joinBandsKernel,
         {dim3((unsigned)(dbias.size() * (p.poly.order + 1))), 256, sizeof(JoinShared)}, sums, (int64_t)parts, p,
         dweight.as<float>(), dbias.as<float>());
}

}  // namespace cuda
