// The optimiser over flat buffers: each element is read and written once, whatever their number, in one launch.
#include "math/adamw.h"

#include "device/rows.cuh"
#include "device/shared.cuh"
#include "kernels.h"

namespace cuda {
namespace {

using Doubles = Team<double>;

constexpr int squaresEach = 1 << 15;  // elements a block; depends on nothing, so that sums are the same bits everywhere

// The part of a flat buffer that a block takes: its packs begin where those of the buffer's start do.
struct Part {
  int64_t begin;
  int length, shift;

  __device__ Part(int64_t n, int each, int shiftOfStart) {
    const int64_t end = ((int64_t)blockIdx.x + 1) * each - shiftOfStart;
    begin = blockIdx.x ? end - each : 0;
    shift = blockIdx.x ? 0 : shiftOfStart;
    length = (int)((end < n ? end : n) - begin);
  }
};

// One block a part. In double: the square of a float can overflow.
template <class T, int held>
__global__ void __launch_bounds__(256) sumSquaresKernel(const T* x, int64_t n, double* sums) {
  Doubles team(256, sharedMemory<Doubles::Shared>());
  const Part part(n, squaresEach, Row<T, false>::shiftOf(x));
  const Row<T, false> in(x + part.begin, part.length, part.shift);
  double sum = 0;
  eachPart<false, held>(in, team.rank, 256, [&](int first) {
    Words<T, perPack<T>> v[held];
    loadPart(v, in, first, 256);
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < perPack<T>; j++) {
        const double e = (double)v[k][j];
        sum += e * e;
      }
  });
  sum = team.sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The sum of a block's worth of numbers by each thread, then of those. One block.
__device__ double sumOf(const double* x, int64_t n, Doubles& team) {
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  return team.sum(sum);
}

__global__ void __launch_bounds__(1024) sumKernel(const double* x, int64_t n, double* sum) {
  Doubles team(1024, sharedMemory<Doubles::Shared>());
  const double all = sumOf(x, n, team);
  if (threadIdx.x == 0) *sum = all;
}

__global__ void __launch_bounds__(128)
    clipCoefficientKernel(const double* sums, int64_t n, const View loss, double maxNorm, double* state) {
  Doubles team(128, sharedMemory<Doubles::Shared>());
  const double norm = sqrt(sumOf(sums, n, team));
  if (threadIdx.x) return;
  const double value = loss.given() ? numberIn(loss) : 0;
  const double coefficient = maxNorm > 0 ? maxNorm / (norm + 1e-6) : 1;
  state[1] = coefficient < 1 ? coefficient : 1;
  state[2] = norm - norm == 0 && value - value == 0;  // both finite
  state[3] = norm;
}

__global__ void countUpdateKernel(double* state) {
  if (threadIdx.x == 0) state[0] += state[2];
}

// What every element's update shares: powers that are worth computing once.
template <class C>
struct Update {
  math::Adamw<C> rule;
  bool wanted;
};

template <class C>
__global__ void adamwRuleKernel(const double* h, const double* s, Update<C>* update) {
  if (threadIdx.x == 0) *update = {{h[0], h[1], h[2], h[3], h[4], s[0], s[1]}, s[2] != 0};
}

constexpr int adamwPacks = 2;  // of each buffer, in flight in a thread

// One block a part of all the buffers.
template <class C, class G>
__global__ void __launch_bounds__(256)
    adamwKernel(C* p, const G* g, C* m, C* v, const View half, int64_t n, const Update<C>* update) {
  constexpr int size = perPack<C>;
  const Part part(n, 256 * adamwPacks * size, Row<C, false>::shiftOf(p));
  const Row<C, false> ps(p + part.begin, part.length, part.shift), ms(m + part.begin, part.length, part.shift),
      vs(v + part.begin, part.length, part.shift);
  const Row<G, false, size> gs(g + part.begin, part.length, part.shift);
  Words<C, size> pv[adamwPacks], mv[adamwPacks], vv[adamwPacks];
  Words<G, size> gv[adamwPacks];
  if (!update->wanted) return;
  loadPart(pv, ps, threadIdx.x, 256);
  loadPart(gv, gs, threadIdx.x, 256);
  loadPart(mv, ms, threadIdx.x, 256);
  loadPart(vv, vs, threadIdx.x, 256);
  const math::Adamw<C> rule = update->rule;
#pragma unroll
  for (int k = 0; k < adamwPacks; k++) {
    const int pack = threadIdx.x + k * 256;
    C newP[size], newM[size], newV[size];
#pragma unroll
    for (int j = 0; j < size; j++) {
      newP[j] = pv[k][j], newM[j] = mv[k][j], newV[j] = vv[k][j];
      rule.update(newP[j], (C)gv[k][j], newM[j], newV[j]);
    }
    ps.store(pack, Words<C, size>::from([&](int j) { return newP[j]; }));
    ms.store(pack, Words<C, size>::from([&](int j) { return newM[j]; }));
    vs.store(pack, Words<C, size>::from([&](int j) { return newV[j]; }));
    if (!half.given()) continue;
    auto copyTo = [&](auto* to) {
      using H = std::remove_pointer_t<decltype(to)>;
      Row<H, false, size>(to + part.begin, part.length, part.shift).store(pack, Words<H, size>::from([&](int j) {
                                                                            return newP[j];
                                                                          }));
    };
    if (half.dtype == Dtype::bfloat16) copyTo(half.as<bf16>());
    if (half.dtype == Dtype::float16) copyTo(half.as<f16>());
    if (half.dtype == Dtype::float32) copyTo(half.as<float>());
    if (half.dtype == Dtype::float64) copyTo(half.as<double>());
  }
}

template <class C>
void update(View p, View g, View m, View v, View half, View hyper, View state) {
  const Scratch shared(sizeof(Update<C>));
  auto* rule = shared.as<Update<C>>();
  launch("adamw", adamwRuleKernel<C>, {1, 32}, hyper.as<double>(), state.as<double>(), rule);
  constexpr int each = 256 * adamwPacks * perPack<C>;
  // One element more for each that the first pack has before the buffer.
  const Grid grid{blocksFor(p.size() + (uintptr_t)p.data / sizeof(C) % perPack<C>, each), 256};
  withFloat(g.dtype, [&](auto tag) {
    using G = typename decltype(tag)::type;
    if (p.size())
      launch("adamw", adamwKernel<C, G>, grid, p.as<C>(), g.as<G>(), m.as<C>(), v.as<C>(), half, p.size(), rule);
  });
}

}  // namespace

void sumSquares(View x, View sum) {
  const int64_t n = x.size();
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const unsigned blocks = n ? blocksFor(n + (uintptr_t)x.data / sizeof(T) % perPack<T>, squaresEach) : 0;
    const Scratch sums(blocks * sizeof(double));
    launch("sumSquares", sumSquaresKernel<T, 4>, {blocks, 256, sizeof(Doubles::Shared)}, x.as<T>(), n,
           sums.as<double>());
    launch("sumSquares", sumKernel, {1, 1024, sizeof(Doubles::Shared)}, sums.as<double>(), blocks, sum.as<double>());
  });
}

void clipCoefficient(View sums, View loss, double maxNorm, View state) {
  launch("clipCoefficient", clipCoefficientKernel, {1, 128, sizeof(Doubles::Shared)}, sums.as<double>(), sums.size(),
         loss, maxNorm, state.as<double>());
}

void countUpdate(View state) { launch("countUpdate", countUpdateKernel, {1, 32}, state.as<double>()); }

void adamw(View p, View g, View m, View v, View half, View hyper, View state) {
  if (p.dtype == Dtype::float64)
    update<double>(p, g, m, v, half, hyper, state);
  else
    update<float>(p, g, m, v, half, hyper, state);
}

}  // namespace cuda
