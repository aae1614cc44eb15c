// PolyReLU and its gradients: elementwise. Every block has a run of elements, cut where another expert's rows begin.
#include <algorithm>

#include "poly.cuh"

namespace cuda {
namespace {

constexpr int threads = 256;

template <class T>
struct Operands {
  const T *x, *dy;
  T* out;
  Runs runs{};  // of rows; without offsets a row is one pack
  int64_t cols = 0, size = 0;
  bool aligned = false;  // all operands alike
  Sets<Compute<T>> sets{};
  double* slots = nullptr;
};

// One block a run, V packs a thread at a time.
template <class T, int R, bool grad, int V>
__global__ void __launch_bounds__(threads, 3) polyReluKernel(Operands<T> a) {
  using C = Compute<T>;
  constexpr int n = perPack<T>, tile = threads * V * n;
  const int64_t g = blockIdx.x;
  const int64_t end = a.runs.begin(g + 1);
  for (int64_t row = a.runs.begin(g); row < end;) {
    const int set = a.sets.offsets ? a.sets.of(row) : 0;
    const int64_t rowsEnd = std::min(end, std::max(row + 1, a.sets.end(set, a.runs.rows)));
    C w[R + 1], slope[R];
    LongSum<C> dw[R + 1] = {};
#pragma unroll
    for (int k = 0; k <= R; k++) w[k] = a.sets.at(set, k);
    poly::polyReluSlopes(R, w, slope);
    const int64_t last = std::min(rowsEnd * a.cols, a.size);
    for (int64_t at = row * a.cols; at < last;) {
      // A tile ends where the next one can begin with a whole pack.
      const int shift = a.aligned ? shiftOf(a.x + at) : 0;
      const Stretch part{(int)threadIdx.x, threads, (int)std::min<int64_t>(tile - shift, last - at), shift, a.aligned};
      Packs<T, V> hx, hd;
      loadPacks<false>(a.x + at, part, 0, hx);
      if constexpr (grad) loadPacks<false>(a.dy + at, part, 0, hd);
      C sums[R + 1] = {};
#pragma unroll
      for (int i = 0; i < V; i++)
        if (part.reaches<T>(i)) {
          Elements<T> out;
#pragma unroll
          for (int e = 0; e < n; e++) {
            C x = C(hx[i].at[e]);
            if constexpr (grad) {
              C d = C(hd[i].at[e]);
              poly::addProducts(R, poly::positive(x), d, sums);
              out.at[e] = T(poly::polyReluGrad(R, x, d, slope));
            } else {
              out.at[e] = T(poly::polyRelu(R, x, w));
            }
          }
          storeOne<false>(a.out + at, part, i, out);
        }
      at += part.count;
      if constexpr (grad)
#pragma unroll
        for (int k = 0; k <= R; k++) dw[k].add(sums[k]);
    }
    if constexpr (grad) {
      auto& s = sharedMemory<BlockReduce<double>>();
#pragma unroll
      for (int k = 0; k <= R; k++) {
        double sum = blockSum(dw[k].value(), s);
        if (threadIdx.x == 0) a.slots[(g + set) * (R + 1) + k] = sum;
      }
    }
    row = rowsEnd;
  }
}

template <bool grad>
void run(const char* name, const View& x, const View& weight, const View& bias, const View& offsets, const View& dy,
         const View& out, const View& dweight, const View& dbias) {
  checkOffsets(name, offsets, x.rows());
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int V = grad ? 2 : 4, n = perPack<T>;
    Operands<T> a{x.as<T>(), dy.as<T>(), out.as<T>()};
    a.size = x.size();
    a.cols = offsets.given() ? x.cols() : n;
    a.runs.rows = a.size ? (offsets.given() ? x.rows() : (a.size + n - 1) / n) : 0;
    a.aligned = alike<T>(a.x, {a.dy, a.out});
    a.sets = setsOf<Compute<T>>(weight, bias, offsets);
    auto go = [&](auto R) {
      auto kernel = polyReluKernel<T, decltype(R)::value, grad, V>;
      const size_t shared = grad ? sizeof(BlockReduce<double>) : 0;
      const int64_t resident = (int64_t)residentBlocks(kernel, threads, shared) * device().processors;
      // Enough for each to have a tile; forward, blocks that come later even out what the first ones leave.
      const int64_t tiles = (a.size + threads * V * n - 1) / (threads * V * n);
      a.runs.groups =
          std::clamp<int64_t>(std::min(tiles, resident * (grad ? 1 : 4)), 1, std::max<int64_t>(a.runs.rows, 1));
      const Grid grid{dim3(a.runs.rows ? (unsigned)a.runs.groups : 0), threads, shared};
      launchRuns<grad>(name, kernel, grid, a, offsets, dweight, dbias);
    };
    // Compiled for each order: a coefficient of zero would make a NaN of an infinite x.
    switch (a.sets.order) {
#define ORDER(R) \
  case R:        \
    return go(std::integral_constant<int, R>{});
      ORDER(1) ORDER(2) ORDER(3) ORDER(4) ORDER(5) ORDER(6) ORDER(7) ORDER(8)
#undef ORDER
    }
  });
}

}  // namespace

void polyRelu(View x, View weight, View bias, View offsets, View y) {
  run<false>("polyRelu", x, weight, bias, offsets, {}, y, {}, {});
}
void polyReluGrad(View x, View weight, View offsets, View dy, View dx, View dweight, View dbias) {
  run<true>("polyReluGrad", x, weight, {}, offsets, dy, dx, dweight, dbias);
}

}  // namespace cuda
