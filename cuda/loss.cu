// Cross-entropy: the logits are read once forward and once backward, which may be in place; no matrix of probabilities
// is made. Together with the product that makes the logits, only some rows of them exist at a time.
#include <utility>

#include "device/exponentials.cuh"
#include "device/failure.cuh"
#include "device/rows.cuh"
#include "device/shared.cuh"
#include "kernels.h"

namespace cuda {
namespace {

// Class numbers of any integer type.
struct Targets {
  const void* data;
  Dtype dtype;
  int64_t ignore, classes;

  __device__ int64_t at(int64_t row) const {
    if (dtype == Dtype::int64) return ((const int64_t*)data)[row];
    if (dtype == Dtype::uint8) return ((const uint8_t*)data)[row];
    return ((const int32_t*)data)[row];
  }
  __device__ bool ignored(int64_t target) const { return target == ignore; }
  __device__ bool valid(int64_t target) const { return target != ignore && target >= 0 && target < classes; }
};
Targets targetsOf(View targets, int64_t ignore, int64_t classes) {
  return {targets.data, targets.dtype, ignore, classes};
}

// The loss of each row, NaN where its target is out of range, and its statistics. One team a row.
template <class T, int held>
__global__ void __launch_bounds__(512) crossEntropyKernel(const T* logits, Targets targets, int64_t rows, int width,
                                                          Compute<T>* losses, Compute<T>* stats, Failure failure) {
  using C = Compute<T>;
  Team<Sums<T>> team(width, sharedMemory<typename Team<Sums<T>>::Shared>());
  const int64_t row = team.row(), n = targets.classes;
  const T* start = logits + row * n;
  const int64_t target = row < rows ? targets.at(row) : 0;
  const bool wanted = row < rows && !targets.ignored(target);
  const Row<T, false> in(start, wanted ? (int)n : 0, Row<T, false>::shiftOf(start));
  Words<T, perPack<T>> v[held];
  const Sums<T> sums = sumsOf<false>(in, team, v);
  if (!wanted || team.rank) return;
  const bool valid = targets.valid(target);
  if (!valid) report(failure, row, target, n);
  losses[row] = valid ? math::log(sums.total()) - ((C)start[target] - sums.largest) : C(NAN);
  if (stats) {
    stats[2 * row] = sums.largest;
    stats[2 * row + 1] = C(1) / sums.total();
  }
}

template <class C>
struct Mean {
  double sum;
  int64_t count;
  friend __device__ Mean operator+(Mean a, Mean b) { return {a.sum + b.sum, a.count + b.count}; }
};

// The mean loss, or without losses the share of a row in the gradient, dy / count. One block: rows are few numbers.
template <class C>
__global__ void __launch_bounds__(1024)
    meanLossKernel(const C* losses, Targets targets, int64_t rows, C* loss, const View dy, C* share) {
  Team<Mean<C>> team(1024, sharedMemory<typename Team<Mean<C>>::Shared>());
  Mean<C> all{0, 0};
#pragma unroll 4
  for (int64_t row = threadIdx.x; row < rows; row += 1024) {
    const int64_t target = targets.at(row);
    if (targets.ignored(target)) continue;
    all.count += targets.valid(target);
    if (losses) all.sum += (double)losses[row];
  }
  all = team.sum(all);
  if (threadIdx.x) return;
  // If every target is out of range there is a NaN, but no count.
  if (loss) *loss = (C)(all.count ? all.sum / (double)all.count : all.sum);
  if (!share) return;
  const C d = dy.given() ? (C)numberIn(dy) : C(1);
  *share = all.count ? d / (C)all.count : C(0);
}

// share * (exp(logit - largest) / sum - [it is the target]); 0 where ignored, NaN where the target is out of range.
template <class T>
struct Gradient {
  using C = Compute<T>;
  int target;
  bool valid;
  C largest, scale, share, otherwise;

  __device__ Gradient(const Targets& targets, int64_t target)
      : target((int)target), valid(targets.valid(target)), otherwise(targets.ignored(target) ? C(0) : C(NAN)) {}
  __device__ C of(C logit, int column) const {
    const C y = exponential<T>(logit, largest) * scale;
    return !valid ? otherwise : column == target ? y - share : y;
  }
};

// One team a row; each element is read and written by one thread.
template <class T, int held>
__global__ void __launch_bounds__(512)
    crossEntropyGradKernel(const T* logits, Targets targets, int64_t rows, int width, const Compute<T>* stats,
                           const Compute<T>* share, T* dlogits) {
  constexpr int size = perPack<T>;
  const Team<Compute<T>> team(width);
  const int64_t row = team.row(), at = row * targets.classes;
  if (row >= rows) return;
  const int shift = Row<T, false>::shiftOf(logits + at);
  const Row<T, false> in(logits + at, (int)targets.classes, shift), out(dlogits + at, (int)targets.classes, shift);
  Gradient<T> gradient(targets, targets.at(row));
  gradient.share = *share;
  gradient.largest = stats[2 * row];
  gradient.scale = stats[2 * row + 1] * gradient.share;
  eachPart<false, held>(in, team.rank, width, [&](int first) {
    Words<T, size> v[held];
    loadPart(v, in, first, width);
#pragma unroll
    for (int k = 0; k < held; k++) {
      const int pack = first + k * width;
      out.store(pack, Words<T, size>::from([&](int j) { return gradient.of(v[k][j], out.column(pack) + j); }));
    }
  });
}

// Of rows of logits that lie `step` apart: their losses, and if share is given their gradients of type T, which take
// the place of the logits: those of 16 bits the first half of each row. A row that stays in registers is read once.
template <class C, class T, int held, bool whole>
__global__ void __launch_bounds__(held == 8 ? 768 : 1024)
    finishRowsKernel(C* logits, int64_t step, Targets targets, int64_t first, int64_t rows, int width, const C* share,
                     C* losses, Failure failure) {
  constexpr int size = perPack<C>;
  Team<Sums<C>> team(width, sharedMemory<typename Team<Sums<C>>::Shared>());
  const int64_t row = team.row(), n = targets.classes;
  C* start = logits + row * step;
  const int shift = Row<C, whole>::shiftOf(start);
  const int64_t target = row < rows ? targets.at(first + row) : 0;
  Gradient<C> gradient(targets, target);
  const Row<C, whole> in(start, row < rows && gradient.valid ? (int)n : 0, shift);
  const Row<T, whole, size> out((T*)start, row < rows ? (int)n : 0, shift);
  // Before the team joins its sums, and so before anybody can overwrite it.
  const C chosen = row < rows && gradient.valid ? start[target] : C(NAN);
  Words<C, size> v[held];
  const Sums<C> sums = sumsOf<whole>(in, team, v);
  __syncwarp();
  if (team.rank == 0 && row < rows && !targets.ignored(target)) {
    if (!gradient.valid) report(failure, first + row, target, n);
    losses[first + row] = math::log(sums.total()) - (chosen - sums.largest);
  }
  if (!share) return;
  gradient.share = *share;
  gradient.largest = sums.largest;
  gradient.scale = gradient.share / sums.total();
  auto store = [&](int part) {
#pragma unroll
    for (int k = 0; k < held; k++) {
      const int pack = part + k * width;
      out.store(pack, Words<T, size>::from([&](int j) { return gradient.of(v[k][j], out.column(pack) + j); }));
    }
  };
  if constexpr (whole) {
    store(team.rank);
  } else {
    // As many turns for all threads of the block, so that they can wait for each other: a narrow gradient is written
    // over logits of this part and of parts before it, which others must have read.
    const int packs = (int)((n + 2 * size - 2) / size);
    for (int part = team.rank; part - team.rank < packs; part += held * width) {
      loadPart(v, in, part, width);
      if (sizeof(T) < sizeof(C)) __syncthreads();
      store(part);
    }
  }
}

template <class C>
void meanLoss(const C* losses, const Targets& targets, int64_t rows, C* loss, View dy, C* share, const char* op) {
  launch(op, meanLossKernel<C>, {1, 1024, sizeof(typename Team<Mean<C>>::Shared)}, losses, targets, rows, loss, dy,
         share);
}

// x and weight of type T.
template <class T>
void linear(View x, View weight, const Targets& targets, View logits, View loss, View dx, View dweight) {
  using C = Compute<T>;
  const char* op = "linearCrossEntropy";
  const int64_t rows = x.shape[0], most = logits.shape[0], step = logits.stride[0];
  const bool wanted = dx.given() || dweight.given();
  const Scratch losses(rows * sizeof(C)), share(sizeof(C));
  const Failure failed = failure(sentence::targetOfClasses, op);
  if (wanted) meanLoss<C>(nullptr, targets, rows, nullptr, {}, share.as<C>(), op);
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = rows - first < most ? rows - first : most;
    const View part = rowsFrom(x, first, count), z = rowsFrom(logits, 0, count);
    View dz = z;
    dz.dtype = x.dtype;
    dz.stride[0] = step * (int64_t)(sizeof(C) / sizeof(T));
    matmul(part, transposed(weight), z, 1, 0);
    const RowPlan plan =
        planRows<C>(op, count, targets.classes, {z.data}, 1024, 768, sizeof(typename Team<Sums<C>>::Shared));
    withPlan<C, true>(plan, [&](auto h) {
      launch(op, finishRowsKernel<C, T, h.held, h.whole>, plan.grid, z.as<C>(), step, targets, first, count, plan.width,
             wanted ? share.as<C>() : nullptr, losses.as<C>(), failed);
    });
    if (dx.given()) matmul(dz, weight, rowsFrom(dx, first, count), 1, 0);
    if (dweight.given()) matmul(transposed(dz), part, dweight, 1, first ? 1 : 0);
  }
  if (!rows && dweight.given()) fill(dweight, 0);
  meanLoss<C>(losses.as<C>(), targets, rows, loss.as<C>(), {}, nullptr, op);
}

}  // namespace

void crossEntropy(View logits, View targets, int64_t ignore, View loss, View stats) {
  withFloat(logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const char* op = "crossEntropy";
    const int64_t rows = logits.rows(), n = logits.cols();
    const Targets of = targetsOf(targets, ignore, n);
    const Scratch losses(rows * sizeof(C));
    const RowPlan plan = planRows<T>(op, rows, n, {logits.data}, 256, 0, sizeof(typename Team<Sums<T>>::Shared));
    launch(op, crossEntropyKernel<T, 4>, plan.grid, logits.as<T>(), of, rows, plan.width, losses.as<C>(), stats.as<C>(),
           failure(sentence::targetOfClasses, op));
    meanLoss<C>(losses.as<C>(), of, rows, loss.as<C>(), {}, nullptr, op);
  });
}

void crossEntropyGrad(View logits, View targets, int64_t ignore, View stats, View dy, View dlogits) {
  withFloat(logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const char* op = "crossEntropyGrad";
    const int64_t rows = logits.rows(), n = logits.cols();
    const Targets of = targetsOf(targets, ignore, n);
    const Scratch share(sizeof(C));
    meanLoss<C>(nullptr, of, rows, nullptr, dy, share.as<C>(), op);
    const RowPlan plan = planRows<T>(op, rows, n, {logits.data}, 256, 0, 0);
    launch(op, crossEntropyGradKernel<T, 4>, plan.grid, logits.as<T>(), of, rows, plan.width, stats.as<C>(),
           share.as<C>(), dlogits.as<T>());
  });
}

void linearCrossEntropy(View x, View weight, View targets, int64_t ignore, View logits, View loss, View dx,
                        View dweight) {
  const Targets of = targetsOf(targets, ignore, weight.shape[0]);
  if (x.dtype == Dtype::float64)
    linear<double>(x, weight, of, logits, loss, dx, dweight);
  else if (x.dtype == Dtype::bfloat16)
    linear<bf16>(x, weight, of, logits, loss, dx, dweight);
  else
    linear<float>(x, weight, of, logits, loss, dx, dweight);
}

}  // namespace cuda
