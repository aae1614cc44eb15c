// SwiGLU and its gradients: elementwise.
#include <algorithm>

#include "device/stretch.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace cuda {
namespace {

constexpr int threads = 256;

template <class T>
struct Gated {
  const T *gate, *up, *dy;
  T *out, *outUp;  // y; or the gradients
  int64_t size;
  int shift = 0;         // of the first element
  bool aligned = false;  // all operands alike
};

// One block a tile of V packs a thread.
template <class T, bool grad, int V>
__global__ void __launch_bounds__(threads) swigluKernel(Gated<T> a) {
  using C = Compute<T>;
  constexpr int n = perPack<T>, tile = threads * V * n;
  const int64_t begin = (int64_t)blockIdx.x * tile - a.shift, at = begin < 0 ? 0 : begin;
  const Stretch part{(int)threadIdx.x, threads, (int)(std::min<int64_t>(begin + tile, a.size) - at),
                     blockIdx.x ? 0 : a.shift, a.aligned};
  Packs<T, V> gate, up, dy;
  loadPacks<false>(a.gate + at, part, 0, gate);
  loadPacks<false>(a.up + at, part, 0, up);
  if constexpr (grad) loadPacks<false>(a.dy + at, part, 0, dy);
#pragma unroll
  for (int i = 0; i < V; i++)
    if (part.reaches<T>(i)) {
      Elements<T> out, outUp;
#pragma unroll
      for (int e = 0; e < n; e++) {
        C g = C(gate[i].at[e]), u = C(up[i].at[e]);
        if constexpr (grad) {
          C dg, du;
          Swiglu::df(g, u, C(dy[i].at[e]), dg, du);
          out.at[e] = T(dg);
          outUp.at[e] = T(du);
        } else {
          out.at[e] = T(Swiglu::f(g, u));
        }
      }
      storeOne<false>(a.out + at, part, i, out);
      if constexpr (grad) storeOne<false>(a.outUp + at, part, i, outUp);
    }
}

template <bool grad>
void run(const char* name, const View& gate, const View& up, const View& dy, const View& out, const View& outUp) {
  withFloat(gate.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int n = perPack<T>, V = grad ? 1 : 2;
    Gated<T> a{gate.as<T>(), up.as<T>(), dy.as<T>(), out.as<T>(), outUp.as<T>(), gate.size()};
    a.aligned = alike<T>(a.gate, {a.up, a.dy, a.out, a.outUp});
    a.shift = a.aligned ? shiftOf(a.gate) : 0;
    launch(name, swigluKernel<T, grad, V>, {dim3(a.size ? blocksFor(a.size + a.shift, threads * V * n) : 0), threads},
           a);
  });
}

}  // namespace

void swiglu(View gate, View up, View y) { run<false>("swiglu", gate, up, {}, y, {}); }
void swigluGrad(View gate, View up, View dy, View dgate, View dup) {
  run<true>("swigluGrad", gate, up, dy, dgate, dup);
}

}  // namespace cuda
