// isa: all
// Cross-entropy: the logits are read once forward and once backward; no matrix of probabilities is made. Together with
// the product that makes the logits, only some rows of them exist at a time.
#include <memory>
#include <utility>

#include "core/sentences.h"
#include "cpu/blocks.h"
#include "cpu/indices.h"
#include "cpu/pool.h"
#include "cpu/rows.h"
#include "cpu/stream.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

constexpr double nan = __builtin_nan("");

void report(const Indices& targets, int64_t classes, const char* op) {
  if (targets.bad >= 0) fail(filled(sentence::targetOfClasses, op, targets.bad, targets.value, classes));
}

// The mean of the rows' losses, added up in order.
double meanOf(const double* losses, int64_t rows, const Indices& targets) {
  double sum = 0;
  for (int64_t row = 0; row < rows; row++)
    if (targets.at[row] != -1) sum += losses[row];
  return targets.bad >= 0 ? nan : targets.count ? sum / (double)targets.count : 0;
}

template <class C>
void forward(View logits, View loss, View stats, const Indices& targets) {
  int64_t rows = logits.rows(), n = logits.cols();
  std::unique_ptr<double[]> losses(new double[rows ? rows : 1]);
  parallelFor(rows, rowGrain(n, 16384), [&](int64_t begin, int64_t end) {
    C* space = (C*)scratch(0, (n + 1) * sizeof(C));
    for (int64_t row = begin; row < end; row++) {
      int64_t target = targets.at[row];
      if (target == -1) continue;
      const C* in = load<C>(logits, row * n, 1, n, space);
      C m = largest(in, n);
      double s = sumOfExponentials(in, m, n);
      losses[row] = target < 0 ? nan : __builtin_log(s) - (double)(in[target] - m);
      if (stats.given()) {
        stats.as<C>()[2 * row] = m;
        stats.as<C>()[2 * row + 1] = (C)(1 / s);
      }
    }
  });
  *loss.as<C>() = (C)meanOf(losses.get(), rows, targets);
}

// dlogits = dy / count * (exp(logit - largest) / sum - [it is the target])
template <class C>
void backward(View logits, View stats, View dy, View dlogits, const Indices& targets) {
  int64_t rows = logits.rows(), n = logits.cols();
  C space;
  C share = targets.count ? *load<C>(dy, 0, 1, 1, &space) / (C)targets.count : C(0);
  parallelFor(rows, rowGrain(n, 16384), [&](int64_t begin, int64_t end) {
    C* buffer = (C*)scratch(0, 2 * (n + 1) * sizeof(C));
    for (int64_t row = begin; row < end; row++) {
      int64_t target = targets.at[row];
      C* out = cpu::ISA::target<C>(dlogits, row * n, 1, buffer);
      if (target < 0) {
        for (int64_t i = 0; i < n; i++) out[i] = target == -1 ? C(0) : (C)nan;
      } else {
        const C* in = load<C>(logits, row * n, 1, n, buffer + n);
        C m = stats.as<C>()[2 * row], scale = stats.as<C>()[2 * row + 1] * share;
        for (int64_t i = 0; i < n; i++) out[i] = math::exp(in[i] - m) * scale;
        out[target] -= share;
      }
      store(dlogits, row * n, 1, n, out);
    }
  });
}

// Turns a row of logits into its share of the gradient, if that is wanted, and returns its loss.
template <class C>
double finishRow(C* row, int64_t n, int64_t target, bool wanted, C share) {
  if (target < 0) {
    if (wanted)
      for (int64_t i = 0; i < n; i++) row[i] = target == -1 ? C(0) : (C)nan;
    return nan;
  }
  const C m = largest(row, n), chosen = row[target] - m;
  const double s = wanted ? exponentials(row, m, row, n) : sumOfExponentials(row, m, n);
  if (wanted) {
    const C scale = (C)(1 / s) * share;
    for (int64_t i = 0; i < n; i++) row[i] *= scale;
    row[target] -= share;
  }
  return __builtin_log(s) - (double)chosen;
}

template <class C>
void linear(View x, View weight, View logits, View loss, View dx, View dweight, const Indices& targets) {
  const int64_t rows = x.shape[0], n = weight.shape[0], most = logits.shape[0];
  const bool wanted = dx.given() || dweight.given();
  const C share = targets.count ? C(1) / (C)targets.count : C(0);
  std::unique_ptr<double[]> losses(new double[rows ? rows : 1]);
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = rows - first < most ? rows - first : most;
    const View part = rowsFrom(x, first, count), z = rowsFrom(logits, 0, count);
    matmul(part, transposed(weight), z, 1, 0);
    parallelFor(count, rowGrain(n, 16384), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++)
        losses[first + row] = finishRow(z.as<C>() + row * n, n, targets.at[first + row], wanted, share);
    });
    if (dx.given()) matmul(z, weight, rowsFrom(dx, first, count), 1, 0);
    if (dweight.given()) matmul(transposed(z), part, dweight, 1, first ? 1 : 0);
  }
  if (!rows && dweight.given()) fill(dweight, 0);
  *loss.as<C>() = (C)meanOf(losses.get(), rows, targets);
}

}  // namespace

void crossEntropy(View logits, View targets, int64_t ignore, View loss, View stats) {
  Indices checked = checkedIndices(targets, logits.cols(), ignore);
  if (logits.dtype == Dtype::float64)
    forward<double>(logits, loss, stats, checked);
  else
    forward<float>(logits, loss, stats, checked);
  report(checked, logits.cols(), "crossEntropy");
}

void crossEntropyGrad(View logits, View targets, int64_t ignore, View stats, View dy, View dlogits) {
  Indices checked = checkedIndices(targets, logits.cols(), ignore);
  if (logits.dtype == Dtype::float64)
    backward<double>(logits, stats, dy, dlogits, checked);
  else
    backward<float>(logits, stats, dy, dlogits, checked);
}

void linearCrossEntropy(View x, View weight, View targets, int64_t ignore, View logits, View loss, View dx,
                        View dweight) {
  Indices checked = checkedIndices(targets, weight.shape[0], ignore);
  if (x.dtype == Dtype::float64)
    linear<double>(x, weight, logits, loss, dx, dweight, checked);
  else
    linear<float>(x, weight, logits, loss, dx, dweight, checked);
  report(checked, weight.shape[0], "linearCrossEntropy");
}

}  // namespace cpu::ISA
