// PolyNorm in double, one warp a row and three reads: float64 tensors, gradients of rows under 8 elements (in a row of
// one only eps is left of dy - n mean(dy n)), and rows past any length that would pay.
#include <algorithm>

#include "poly.cuh"
#include "poly_norm.cuh"

namespace cuda {
namespace {

constexpr int R = poly::maxOrder;

template <class T>
struct ExactRows {
  const T *x, *up, *dy;
  T *out, *outUp;
  Runs runs{};
  int64_t cols = 0;
  double eps = 0;
  Sets<Compute<T>> sets{};
  double* slots = nullptr;
};

__device__ inline int exponentOf(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  return (int)(bits >> 52 & 0x7ff) - 1023;
}

// One warp a run of rows.
template <class T, bool gated, bool grad>
__global__ void __launch_bounds__(128) polyNormExactKernel(ExactRows<T> a) {
  constexpr int sums = grad ? 2 * R + 1 : R;
  const int64_t g = (int64_t)blockIdx.x * warps() + warp();
  const bool mine = g < a.runs.groups;
  const int64_t begin = mine ? a.runs.begin(g) : 0, end = mine ? a.runs.begin(g + 1) : 0;
  const double count = (double)a.cols;
  int set = 0;
  int64_t setEnd = -1;
  double w[R + 1], dw[R + 1] = {};
  auto flush = [&] {
    if (grad && lane() == 0)
#pragma unroll
      for (int k = 0; k <= R; k++)
        if (k <= a.sets.order) a.slots[(g + set) * (a.sets.order + 1) + k] = dw[k];
#pragma unroll
    for (int k = 0; k <= R; k++) dw[k] = 0;
  };
  for (int64_t r = begin; r < end; r++) {
    if (r >= setEnd) {
      if (setEnd >= 0) flush();
      set = a.sets.offsets ? a.sets.of(r) : 0;
      setEnd = a.sets.end(set, a.runs.rows);
#pragma unroll
      for (int k = 0; k <= R; k++) w[k] = (double)a.sets.at(set, k);
    }
    const T *x = a.x + r * a.cols, *up = a.up + r * a.cols, *dy = a.dy + r * a.cols;
    int exponent = -1023;
    for (int64_t j = lane(); j < a.cols; j += 32) {
      int of = exponentOf((double)(Compute<T>)x[j]);
      exponent = of > exponent ? of : exponent;
    }
    exponent = warpReduce(exponent, [](int p, int q) { return p > q ? p : q; });
    const double scale = poly::scaleFor<double>(exponent, a.eps);
    double v[sums] = {};
    for (int64_t j = lane(); j < a.cols; j += 32) {
      double z = (double)(Compute<T>)x[j] * scale;
      poly::addSquares(R, z, v + sums - R);
      if constexpr (grad) {
        double d = (double)(Compute<T>)dy[j];
        if constexpr (gated) d *= (double)(Compute<T>)up[j];
        poly::addProducts(R, z, d, v);
      }
    }
#pragma unroll
    for (int i = 0; i < sums; i++) v[i] = warpSum(v[i]);
    double inverse[R], value[R + 1], slope[R], pull[R];
    poly::inverseNorms(R, v + sums - R, count, a.eps, scale, inverse);
#pragma unroll
    for (int k = 1; k <= R; k++)
      if (k > a.sets.order) inverse[k - 1] = 0;
    poly::valueCoefficients(R, w, inverse, value);
    if constexpr (grad) {
      poly::gradCoefficients(R, w, inverse, v, count, scale, slope, pull);
      dw[0] += v[0];
#pragma unroll
      for (int k = 1; k <= R; k++) dw[k] += inverse[k - 1] * v[k];
    }
    for (int64_t j = lane(); j < a.cols; j += 32) {
      double z = (double)(Compute<T>)x[j] * scale;
      if constexpr (!grad) {
        double y = poly::horner(R, z, value);
        if constexpr (gated) y *= (double)(Compute<T>)up[j];
        a.out[r * a.cols + j] = T((Compute<T>)y);
      } else {
        double d = (double)(Compute<T>)dy[j];
        if constexpr (gated) {
          a.outUp[r * a.cols + j] = T((Compute<T>)(d * poly::horner(R, z, value)));
          d *= (double)(Compute<T>)up[j];
        }
        a.out[r * a.cols + j] = T((Compute<T>)poly::polyNormGrad(R, z, d, slope, pull));
      }
    }
  }
  if (setEnd >= 0) flush();
}

template <class T, bool gated, bool grad>
void exact(const char* name, const RowViews& v) {
  ExactRows<T> a{v.x.as<T>(), v.up.as<T>(), v.dy.as<T>(), v.out.as<T>(), v.outUp.as<T>()};
  a.runs.rows = v.x.size() ? v.x.rows() : 0;
  a.runs.groups = std::clamp<int64_t>((int64_t)device().processors * 4 * 8, 1, std::max<int64_t>(a.runs.rows, 1));
  a.cols = v.x.cols();
  a.eps = v.eps;
  a.sets = setsOf<Compute<T>>(v.weight, v.bias, v.offsets);
  const Grid grid{a.runs.rows ? dim3(blocksFor(a.runs.groups, 4)) : dim3(0), 128};
  launchRuns<grad>(name, polyNormExactKernel<T, gated, grad>, grid, a, v.offsets, v.dweight, v.dbias);
}

}  // namespace

void polyNormExact(const char* name, const RowViews& v) {
  const bool gated = v.up.given(), grad = v.dy.given();
  withFloat(v.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (grad)
      gated ? exact<T, true, true>(name, v) : exact<T, false, true>(name, v);
    else
      gated ? exact<T, true, false>(name, v) : exact<T, false, false>(name, v);
  });
}

}  // namespace cuda
