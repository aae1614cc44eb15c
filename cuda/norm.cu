// RMSNorm and LayerNorm, forward and backward. One block a row, or a warp for some rows; the row stays in registers,
// and one too long for that is read twice. Gradients of parameters: a block visits many rows and keeps the sums of its
// columns in registers, then the blocks' sums are added in order.
#include <algorithm>

#include "device/rows.cuh"
#include "device/shared.cuh"
#include "kernels.h"

namespace cuda {
namespace {

template <class C>
struct Two {
  C first, second;
  friend __device__ Two operator+(Two a, Two b) { return {a.first + b.first, a.second + b.second}; }
};

template <class T>
struct Norm {
  using C = Compute<T>;
  const T *x, *residual;  // residual, sum, weight, bias, mean and rstd may be null
  const C *weight, *bias;
  C eps;
  T *sum, *y;
  C *mean, *rstd;
  int64_t rows;
  int n, width;
};

// sum = x + residual; y = (sum - mean) * rstd * weight + bias, the mean only if centred.
template <class T, int held, bool whole, bool centred>
__global__ void __launch_bounds__(512, 1) normKernel(const Norm<T> a) {
  using C = Compute<T>;
  constexpr int size = perPack<T>;
  Team<Two<C>> team(a.width, sharedMemory<typename Team<Two<C>>::Shared>());
  const int64_t row = team.row(), at = row * a.n;
  const int length = row < a.rows ? a.n : 0, shift = Row<T, whole>::shiftOf(a.x + at);
  const Row<T, whole> x(a.x + at, length, shift), out(a.y + at, length, shift);
  Words<T, size> v[held];
  auto take = [&](int first) {
    loadPart(v, x, first, a.width);
    if (!a.residual) return;
    const Row<T, whole> more(a.residual + at, length, shift), sum(a.sum + at, length, shift);
    Words<T, size> r[held];
    loadPart(r, more, first, a.width);
#pragma unroll
    for (int k = 0; k < held; k++) {
      v[k] = Words<T, size>::from([&](int j) { return v[k][j] + r[k][j]; });  // as rounded from here on
      sum.store(first + k * a.width, v[k]);
    }
  };

  // Before the mean is known, what is near it: the mean of the row's first part, which is all of it if whole. Squares
  // of differences from that cannot cancel badly: it is as near as the row's spread times the number of parts.
  C pilot = 0;
  if (centred) {
    take(team.rank);
    C s = 0;
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < size; j++) s += v[k][j];
    pilot = team.sum({s, C(0)}).first / (C)min(a.n, x.column(held * a.width));
  }

  Two<C> sums{0, 0};  // of the differences, and of their squares
  eachPart<whole, held>(x, team.rank, a.width, [&](int first) {
    if (!centred || !whole) take(first);
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < size; j++) {
        C d = v[k][j] - pilot;
        if (centred && !x.inside(x.column(first + k * a.width) + j)) d = 0;
        sums.first += d;
        sums.second += d * d;
      }
  });
  sums = team.sum(sums);
  forget(v);
  const C off = centred ? sums.first / (C)a.n : C(0), mean = pilot + off;
  const C rstd = C(1) / math::sqrt(sums.second / (C)a.n - off * off + a.eps);
  if (team.rank == 0 && row < a.rows) {
    if (centred && a.mean) a.mean[row] = mean;
    if (a.rstd) a.rstd[row] = rstd;
  }

  eachPart<whole, held>(x, team.rank, a.width, [&](int first) {
    if (!whole) loadPart(v, Row<T, whole>((a.residual ? a.sum : a.x) + at, length, shift), first, a.width);
#pragma unroll
    for (int k = 0; k < held; k++) {
      const int pack = first + k * a.width, column = x.column(pack);
      C result[size];
#pragma unroll
      for (int j = 0; j < size; j++) result[j] = (v[k][j] - mean) * rstd;
      if (a.weight) {
        C w[size];
        loadParameter<whole>(w, a.weight, column, length);
#pragma unroll
        for (int j = 0; j < size; j++) result[j] *= w[j];
      }
      if (centred && a.bias) {
        C b[size];
        loadParameter<whole>(b, a.bias, column, length);
#pragma unroll
        for (int j = 0; j < size; j++) result[j] += b[j];
      }
      out.store(pack, Words<T, size>::from([&](int j) { return result[j]; }));
    }
  });
}

template <class T>
struct NormGrad {
  using C = Compute<T>;
  const T *x, *dy, *dsum;  // weight, mean, dsum, dx, dweight and dbias may be null
  const C *weight, *mean, *rstd;
  T* dx;
  C *dweight, *dbias;  // of each block: (blocks, n)
  int64_t rows;
  int n, width;
};

// What a row's elements need for their gradient. With h = (x - mean) * rstd and g = dy * weight:
// dx = rstd * (g - mean(g) - h * mean(g h)) + dsum, without mean(g) if not centred.
template <class T, int held, bool even, bool centred>
struct RowGrad {
  using C = Compute<T>;
  static constexpr int size = perPack<T>;
  const NormGrad<T>& a;
  const int length;
  const Row<T, even> x, dy, dsum, dx;
  const C mean, rstd;
  Words<T, size> v[held], d[held], more[held];

  __device__ RowGrad(const NormGrad<T>& a, int64_t row)
      : RowGrad(a, row, row < a.rows ? a.n : 0, row * a.n, Row<T, even>::shiftOf(a.x + row * a.n)) {}
  __device__ RowGrad(const NormGrad<T>& a, int64_t row, int length, int64_t at, int shift)
      : a(a),
        length(length),
        x(a.x + at, length, shift),
        dy(a.dy + at, length, shift),
        dsum(a.dsum + at, length, shift),
        dx(a.dx + at, length, shift),
        mean(centred && length ? a.mean[row] : C(0)),
        rstd(length ? a.rstd[row] : C(0)) {}

  __device__ __forceinline__ void load(int first) {
    loadPart(v, x, first, a.width);
    loadPart(d, dy, first, a.width);
    if (a.dsum) loadPart(more, dsum, first, a.width);
  }
  __device__ __forceinline__ C hat(int k, int j) const { return (v[k][j] - mean) * rstd; }
  __device__ __forceinline__ void weight(C (&w)[size], int pack) const {
    if (a.weight) return loadParameter<even>(w, a.weight, x.column(pack), length);
#pragma unroll
    for (int j = 0; j < size; j++) w[j] = 1;
  }
  __device__ __forceinline__ void forgetFloats() {
    forget(v);
    forget(d);
  }
  // Adds this part's g h and g; elements beside the row have dy = 0.
  __device__ __forceinline__ void add(int first, Two<C>& sums) const {
#pragma unroll
    for (int k = 0; k < held; k++) {
      C w[size];
      weight(w, first + k * a.width);
#pragma unroll
      for (int j = 0; j < size; j++) {
        const C g = d[k][j] * w[j];
        sums.first += g * hat(k, j);
        if (centred) sums.second += g;
      }
    }
  }
  __device__ __forceinline__ void finish(int first, Two<C> means) const {
#pragma unroll
    for (int k = 0; k < held; k++) {
      const int pack = first + k * a.width;
      C w[size];
      weight(w, pack);
      dx.store(pack, Words<T, size>::from([&](int j) {
                 const C result = rstd * (d[k][j] * w[j] - (centred ? means.second : C(0)) - hat(k, j) * means.first);
                 return a.dsum ? result + more[k][j] : result;
               }));
    }
  }
};

constexpr int teamColumns = 128;  // packs of a row that a warp or less holds

template <class C, int size>
struct NormGradShared {
  typename Team<Two<C>>::Shared team;
  C columns[teamColumns * size];
};

// Adds the columns' sums of all teams of the block into `to`, the block's row of partial sums.
template <class C, int held, int size>
__device__ void joinColumns(const Team<Two<C>>& team, C (&sums)[held][size], int n, C* columns, C* to) {
#pragma unroll
  for (int k = 0; k < held; k++)
#pragma unroll
    for (int j = 0; j < size; j++)
#pragma unroll
      for (int bits = 16; bits; bits /= 2)
        if (bits >= team.width) sums[k][j] += shuffleXor(sums[k][j], bits);
  C* row = team.width > 32 ? to : columns;
  const int turns = team.width > 32 ? 1 : warps();
  for (int turn = 0; turn < turns; turn++) {
    if (turns == 1 || (warp() == turn && lane() < team.width))
#pragma unroll
      for (int k = 0; k < held; k++) {
        const int column = (team.rank + k * team.width) * size;
        if (column >= n) continue;
#pragma unroll
        for (int j = 0; j < size; j++) row[column + j] = turn ? row[column + j] + sums[k][j] : sums[k][j];
      }
    if (team.width <= 32) __syncthreads();
  }
  if (team.width > 32) return;
  for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = columns[i];
  __syncthreads();
}

// Even rows; those of a block lie gridDim.x teams apart.
template <class T, int held, bool centred>
__global__ void __launch_bounds__(centred ? 384 : 512) normGradKernel(const NormGrad<T> a) {
  using C = Compute<T>;
  constexpr int size = perPack<T>;
  auto& shared = sharedMemory<NormGradShared<C, size>>();
  Team<Two<C>> team(a.width, shared.team);
  C dweight[held][size], dbias[held][size];
#pragma unroll
  for (int k = 0; k < held; k++)
#pragma unroll
    for (int j = 0; j < size; j++) dweight[k][j] = dbias[k][j] = 0;
  for (int64_t first = (int64_t)blockIdx.x * team.perBlock(); first < a.rows;
       first += (int64_t)gridDim.x * team.perBlock()) {
    RowGrad<T, held, true, centred> row(a, first + team.index());
    row.load(team.rank);
    Two<C> sums{0, 0};
    row.add(team.rank, sums);
    sums = team.sum(sums);
    row.forgetFloats();
    if (a.dx) row.finish(team.rank, {sums.first / (C)a.n, sums.second / (C)a.n});
    row.forgetFloats();
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < size; j++) {
        dweight[k][j] += row.d[k][j] * row.hat(k, j);
        if (centred) dbias[k][j] += row.d[k][j];
      }
  }
  const int64_t mine = (int64_t)blockIdx.x * a.n;
  if (a.dweight) joinColumns(team, dweight, a.n, shared.columns, a.dweight + mine);
  if (centred && a.dbias) joinColumns(team, dbias, a.n, shared.columns, a.dbias + mine);
}

// dx alone, of rows that normGradKernel does not take. One team a row, two reads.
template <class T, int held, bool centred>
__global__ void __launch_bounds__(512) normGradRowsKernel(const NormGrad<T> a) {
  using C = Compute<T>;
  Team<Two<C>> team(a.width, sharedMemory<typename Team<Two<C>>::Shared>());
  RowGrad<T, held, false, centred> row(a, team.row());
  Two<C> sums{0, 0};
  eachPart<false, held>(row.x, team.rank, a.width, [&](int first) {
    row.load(first);
    row.add(first, sums);
  });
  sums = team.sum(sums);
  eachPart<false, held>(row.x, team.rank, a.width, [&](int first) {
    row.load(first);
    row.finish(first, {sums.first / (C)a.n, sums.second / (C)a.n});
  });
}

// dweight and dbias of those. One thread a column and a share of the rows.
template <class T, bool centred>
__global__ void __launch_bounds__(128) normGradColumnsKernel(const NormGrad<T> a, int64_t each, unsigned strips) {
  using C = Compute<T>;
  const int64_t share = blockIdx.x / strips;
  const int column = (int)(blockIdx.x % strips) * 128 + threadIdx.x;
  if (column >= a.n) return;
  C dweight = 0, dbias = 0;
  const int64_t end = min(a.rows, (share + 1) * each);
#pragma unroll 4
  for (int64_t row = share * each; row < end; row++) {
    const C d = (C)a.dy[row * a.n + column];
    dweight += d * (((C)a.x[row * a.n + column] - (centred ? a.mean[row] : C(0))) * a.rstd[row]);
    dbias += d;
  }
  if (a.dweight) a.dweight[share * a.n + column] = dweight;
  if (centred && a.dbias) a.dbias[share * a.n + column] = dbias;
}

struct ColumnShared {
  double sums[32][32];
};

// out = the column sums of partial (count, n). One block for 32 columns; its warps take rows in turn.
template <class C>
__global__ void __launch_bounds__(1024) columnSumsKernel(const C* partial, int count, int n, C* out) {
  auto& shared = sharedMemory<ColumnShared>();
  const int column = blockIdx.x * 32 + lane();
  double sum = 0;
  if (column < n)
#pragma unroll 4
    for (int i = warp(); i < count; i += warps()) sum += (double)partial[(int64_t)i * n + column];
  shared.sums[warp()][lane()] = sum;
  __syncthreads();
  if (warp() || column >= n) return;
  for (int i = 1; i < warps(); i++) sum += shared.sums[i][lane()];
  out[column] = (C)sum;
}

template <bool centred>
void forward(View x, View residual, View weight, View bias, double eps, View sum, View y, View mean, View rstd,
             const char* op) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const RowPlan plan =
        planRows<T>(op, x.rows(), x.cols(), {x.data, residual.data, weight.data, bias.data, sum.data, y.data}, 512, 512,
                    sizeof(typename Team<Two<C>>::Shared));
    const Norm<T> a{x.as<T>(), residual.as<T>(), weight.as<C>(), bias.as<C>(), (C)eps,        sum.as<T>(),
                    y.as<T>(), mean.as<C>(),     rstd.as<C>(),   x.rows(),     (int)x.cols(), plan.width};
    withPlan<T, true>(plan, [&](auto h) { launch(op, normKernel<T, h.held, h.whole, centred>, plan.grid, a); });
  });
}

// Blocks that share the rows, however many there are: the same on every GPU, so that the sums are the same bits.
constexpr int fewBlocks = 132;

template <bool centred>
void backward(View x, View weight, View mean, View rstd, View dy, View dsum, View dx, View dweight, View dbias,
              const char* op) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    constexpr int most = centred ? 384 : 512;
    const int64_t rows = x.rows(), n = x.cols();
    RowPlan plan = planRows<T>(op, rows, n, {x.data, weight.data, dy.data, dsum.data, dx.data}, most, 0, 0);
    const bool whole = !std::is_same_v<T, double> && plan.whole;
    const int64_t each = std::max<int64_t>(16, (rows + 127) / 128);  // rows of a block's share, if not whole
    const int64_t shares = whole ? std::min<int64_t>(plan.grid.blocks.x, fewBlocks * (most / plan.grid.threads))
                                 : (rows + each - 1) / each;
    const int64_t sums = shares * n * ((int)dweight.given() + (int)dbias.given());
    const Scratch partial(sums * sizeof(C));
    C* forWeight = dweight.given() ? partial.as<C>() : nullptr;
    C* forBias = dbias.given() ? partial.as<C>() + (dweight.given() ? shares * n : 0) : nullptr;
    const NormGrad<T> a{x.as<T>(),  dy.as<T>(), dsum.as<T>(), weight.as<C>(), mean.as<C>(), rstd.as<C>(),
                        dx.as<T>(), forWeight,  forBias,      rows,           (int)n,       plan.width};
    if constexpr (!std::is_same_v<T, double>)
      if (whole) {
        plan.grid.blocks = (unsigned)shares;
        plan.grid.shared = sizeof(NormGradShared<C, perPack<T>>);
        launch(op, normGradKernel<T, 4, centred>, plan.grid, a);
      }
    if (!whole) {
      plan.grid.shared = sizeof(typename Team<Two<C>>::Shared);
      if (dx.given()) launch(op, normGradRowsKernel<T, 4, centred>, plan.grid, a);
      const unsigned strips = blocksFor(n, 128);
      if (sums) launch(op, normGradColumnsKernel<T, centred>, {strips * (unsigned)shares, 128}, a, each, strips);
    }
    auto join = [&](const C* from, View to) {
      const unsigned warps = (unsigned)std::clamp<int64_t>(shares / 16, 1, 32);  // what a warp adds is worth its wait
      const Grid grid{blocksFor(n, 32), 32 * warps, sizeof(ColumnShared)};
      if (to.given()) launch(op, columnSumsKernel<C>, grid, from, shares, n, to.as<C>());
    };
    join(forWeight, dweight);
    join(forBias, dbias);
  });
}

}  // namespace

void rmsNorm(View x, View residual, View weight, double eps, View sum, View y, View rstd) {
  forward<false>(x, residual, weight, {}, eps, sum, y, {}, rstd, "rmsNorm");
}
void rmsNormGrad(View x, View weight, View rstd, View dy, View dsum, View dx, View dweight) {
  backward<false>(x, weight, {}, rstd, dy, dsum, dx, dweight, {}, "rmsNormGrad");
}
void layerNorm(View x, View residual, View weight, View bias, double eps, View sum, View y, View mean, View rstd) {
  forward<true>(x, residual, weight, bias, eps, sum, y, mean, rstd, "layerNorm");
}
void layerNormGrad(View x, View weight, View mean, View rstd, View dy, View dsum, View dx, View dweight, View dbias) {
  backward<true>(x, weight, mean, rstd, dy, dsum, dx, dweight, dbias, "layerNormGrad");
}

}  // namespace cuda
