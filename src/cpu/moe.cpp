// isa: all
// Mixture of experts: routing, grouping rows by expert, products of each group with its own matrix, and recombining.
// Nothing here is ever longer or shorter than N * k rows; what each expert got stands in `offsets`, on the device.
#include <cmath>
#include <string>
#include <vector>

#include "core/sentences.h"
#include "cpu/packed.h"
#include "cpu/product.h"
#include "cpu/stream.h"
#include "kernels.h"
#include "math/transcendental.h"

namespace cpu::ISA {
namespace {

constexpr int64_t routeRows = 256;

template <class C>
void softmaxRow(const C* logits, int64_t experts, C lse, C* p) {
  for (int64_t e = 0; e < experts; e++) p[e] = math::exp(logits[e] - lse);
}

template <class C>
C logSumExp(const C* logits, int64_t experts) {
  C largest = logits[0], sum = 0;
  for (int64_t e = 1; e < experts; e++) largest = logits[e] > largest ? logits[e] : largest;
  for (int64_t e = 0; e < experts; e++) sum += math::exp(logits[e] - largest);
  return largest + math::log(sum);
}

// The k largest, the lower index first among equals.
template <class C>
void largest(const C* logits, int64_t experts, int64_t k, int32_t* chosen) {
  for (int64_t j = 0; j < k; j++) {
    int32_t best = -1;
    for (int32_t e = 0; e < (int32_t)experts; e++) {
      if (best >= 0 && !(logits[e] > logits[best])) continue;
      bool taken = false;
      for (int64_t i = 0; i < j; i++) taken |= chosen[i] == e;
      if (!taken) best = e;
    }
    chosen[j] = best;
  }
}

// Where each assignment went: the inverse of `order`. Reports an order that is no permutation, and stays in bounds.
std::vector<int32_t> positions(const View& order, const char* op) {
  const int32_t* o = order.as<int32_t>();
  const int64_t n = order.size();
  std::vector<int32_t> at(n, 0);
  std::vector<bool> seen(n, false);
  for (int64_t i = 0; i < n; i++) {
    if (o[i] < 0 || o[i] >= n || seen[o[i]]) {
      cpu::fail(filled(sentence::orderOnce, op, i, o[i], n - 1));
      return at;
    }
    seen[o[i]] = true;
    at[o[i]] = (int32_t)i;
  }
  return at;
}

bool orderInRange(const View& order, const char* op) {
  const int32_t* o = order.as<int32_t>();
  const int64_t n = order.size();
  for (int64_t i = 0; i < n; i++)
    if (o[i] < 0 || o[i] >= n) {
      cpu::fail(filled(sentence::orderInRange, op, i, o[i], n - 1));
      return false;
    }
  return true;
}

bool offsetsFit(const View& offsets, int64_t rows, const char* op) {
  const int32_t* o = offsets.as<int32_t>();
  const int64_t experts = offsets.size() - 1;
  bool fits = o[0] == 0 && o[experts] == rows;
  for (int64_t e = 0; e < experts; e++) fits &= o[e] <= o[e + 1];
  if (!fits) cpu::fail(filled(sentence::offsetsOfRows, op, o[0], o[experts], rows));
  return fits;
}

void zero(View y) { __builtin_memset(y.data, 0, y.size() * dtypeSize(y.dtype)); }

struct Group {
  int64_t expert, begin, end;
};

// The rows of each expert, in panels of nearly equal height.
std::vector<Group> groups(const View& offsets, int64_t most) {
  const int32_t* o = offsets.as<int32_t>();
  std::vector<Group> all;
  for (int64_t e = 0; e + 1 < offsets.size(); e++) {
    const int64_t rows = o[e + 1] - o[e], pieces = (rows + most - 1) / most;
    for (int64_t i = 0; i < pieces; i++) all.push_back({e, o[e] + rows * i / pieces, o[e] + rows * (i + 1) / pieces});
  }
  return all;
}

template <class T>
Matrix<T> matrixOf(const View& x, int64_t expert) {
  return {x.as<T>() + expert * x.stride[0], matrixLayout(x.shape[1], x.shape[2], x.stride[1], x.stride[2])};
}

// All the experts' matrices packed at once, where that is worth it and no huge matter.
bool suitsPackedGroups(int64_t experts, int64_t rows, int64_t n, int64_t k) {
  return rows >= 2 * packedRows * experts && suitsPacked(rows, n, k) && packedSize(n, k) * experts <= (int64_t)1 << 26;
}

void groupedPacked(const View& x, const View& w, const View& offsets, const View& y) {
  const int64_t k = x.cols(), n = y.cols(), size = packedSize(n, k), parts = packedParts(n, k);
  const int32_t* o = offsets.as<int32_t>();
  float* packed = (float*)scratch(3, w.shape[0] * size * sizeof(float));
  parallelChunks(w.shape[0] * parts, [&](int64_t chunk) {
    const int64_t e = chunk / parts;
    if (o[e] < o[e + 1]) packPart(matrixOf<float>(w, e), k, n, packed + e * size, chunk % parts, parts);
  });
  const std::vector<Group> all = groups(offsets, rowBlock);
  parallelChunks((int64_t)all.size(), [&](int64_t chunk) {
    const Group& g = all[chunk];
    const Matrix<float> a{x.as<float>() + g.begin * k, matrixLayout(g.end - g.begin, k, k, 1)};
    multiplyBlock(a, g.end - g.begin, packed + g.expert * size, 0, packedPanels(n), n, k, 1, 0,
                  y.as<float>() + g.begin * n, n);
  });
}

// The rows of x are packed as they lie, each expert's part where the rows before it end.
void groupedGradPacked(const View& x, const View& dy, const View& offsets, const View& dw, bool add) {
  const int64_t experts = dw.shape[0], outs = dw.shape[1], ins = dw.shape[2];
  const int64_t parts = packedParts(ins, x.rows() / experts + 1), blocks = (outs + rowBlock - 1) / rowBlock;
  const int32_t* o = offsets.as<int32_t>();
  float* packed = (float*)scratch(3, packedSize(ins, x.rows()) * sizeof(float));
  auto rows = [&](int64_t e) { return (int64_t)o[e + 1] - o[e]; };
  parallelChunks(experts * parts, [&](int64_t chunk) {
    const int64_t e = chunk / parts;
    const Matrix<float> b{x.as<float>() + o[e] * ins, matrixLayout(rows(e), ins, ins, 1)};
    packPart(b, rows(e), ins, packed + packedSize(ins, o[e]), chunk % parts, parts);
  });
  parallelChunks(experts * blocks, [&](int64_t chunk) {
    const int64_t e = chunk / blocks, i = chunk % blocks * rowBlock, count = std::min(rowBlock, outs - i);
    float* to = dw.as<float>() + (e * outs + i) * ins;
    if (rows(e) == 0) {
      if (!add) std::fill(to, to + count * ins, 0.0f);
      return;
    }
    const Matrix<float> a{dy.as<float>() + o[e] * outs, matrixLayout(outs, rows(e), 1, outs)};
    multiplyBlock(a.fromRow(i), count, packed + packedSize(ins, o[e]), 0, packedPanels(ins), ins, rows(e), 1,
                  add ? 1 : 0, to, ins);
  });
}

}  // namespace

void route(View logits, View weights, View experts, View lse, View shares, View aux, View z, bool normalise) {
  const int64_t rows = logits.rows(), count = logits.cols(), k = weights.cols();
  const int64_t chunks = (rows + routeRows - 1) / routeRows, width = 2 * count + 1;
  std::vector<double> partial(chunks * width, 0.0);  // a chunk: sum of probabilities, assignments, sum of lse^2
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    parallelChunks(chunks, [&](int64_t chunk) {
      double *mean = &partial[chunk * width], *load = mean + count, *square = load + count;
      C* p = (C*)scratch(0, count * sizeof(C));
      for (int64_t i = chunk * routeRows; i < std::min(rows, (chunk + 1) * routeRows); i++) {
        const C* row = logits.as<C>() + i * count;
        int32_t* chosen = experts.as<int32_t>() + i * k;
        C* w = weights.as<C>() + i * k;
        const C l = logSumExp(row, count);
        lse.as<C>()[i] = l;
        softmaxRow(row, count, l, p);
        largest(row, count, k, chosen);
        C sum = 0;
        for (int64_t j = 0; j < k; j++) sum += w[j] = p[chosen[j]];
        if (normalise)
          for (int64_t j = 0; j < k; j++) w[j] /= sum;
        for (int64_t e = 0; e < count; e++) mean[e] += (double)p[e];
        for (int64_t j = 0; j < k; j++) load[chosen[j]] += 1;
        *square += (double)l * (double)l;
      }
    });
    for (int64_t chunk = 1; chunk < chunks; chunk++)
      for (int64_t i = 0; i < width; i++) partial[i] += partial[chunk * width + i];
    double balance = 0;
    for (int64_t e = 0; e < count; e++) {
      const double share = rows ? partial[count + e] / (double)(rows * k) : 0;
      shares.as<C>()[e] = (C)share;
      balance += rows ? share * partial[e] / (double)rows : 0;
    }
    *aux.as<C>() = (C)(balance * (double)count);
    *z.as<C>() = rows ? (C)(partial[2 * count] / (double)rows) : C(0);
  };
  logits.dtype == Dtype::float64 ? apply(Tag<double>{}) : apply(Tag<float>{});
}

void routeGrad(View logits, View experts, View lse, View shares, View dweights, View daux, View dz, View dlogits,
               bool normalise) {
  const int64_t rows = logits.rows(), count = logits.cols(), k = experts.cols();
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    const C ofAux = daux.given() ? *daux.as<C>() * (C)count / (C)rows : C(0);
    const C ofZ = dz.given() ? *dz.as<C>() * C(2) / (C)rows : C(0);
    parallelFor(rows, routeRows, [&](int64_t begin, int64_t end) {
      C* p = (C*)scratch(0, 2 * count * sizeof(C));
      C* d = p + count;  // the gradient of p
      for (int64_t i = begin; i < end; i++) {
        const C* row = logits.as<C>() + i * count;
        const int32_t* chosen = experts.as<int32_t>() + i * k;
        const C l = lse.as<C>()[i];
        softmaxRow(row, count, l, p);
        for (int64_t e = 0; e < count; e++) d[e] = ofAux * shares.as<C>()[e];
        if (dweights.given()) {
          const C* dw = dweights.as<C>() + i * k;
          C sum = 1, along = 0;
          if (normalise) {
            sum = 0;
            for (int64_t j = 0; j < k; j++) sum += p[chosen[j]];
            for (int64_t j = 0; j < k; j++) along += dw[j] * (p[chosen[j]] / sum);
          }
          for (int64_t j = 0; j < k; j++) d[chosen[j]] += (dw[j] - along) / sum;
        }
        C inner = 0;
        for (int64_t e = 0; e < count; e++) inner += p[e] * d[e];
        for (int64_t e = 0; e < count; e++) dlogits.as<C>()[i * count + e] = p[e] * (d[e] - inner + ofZ * l);
      }
    });
  };
  logits.dtype == Dtype::float64 ? apply(Tag<double>{}) : apply(Tag<float>{});
}

void groupByExpert(View experts, View order, View offsets) {
  const int64_t n = experts.size(), count = offsets.size() - 1;
  const int32_t* expert = experts.as<int32_t>();
  std::vector<int32_t> next(count + 1, 0);
  int64_t bad = -1;
  auto of = [&](int64_t i) { return expert[i] >= 0 && expert[i] < count ? expert[i] : 0; };
  for (int64_t i = 0; i < n; i++) {
    if (bad < 0 && (expert[i] < 0 || expert[i] >= count)) bad = i;
    next[of(i) + 1]++;
  }
  for (int64_t e = 0; e < count; e++) next[e + 1] += next[e];
  for (int64_t e = 0; e <= count; e++) offsets.as<int32_t>()[e] = next[e];
  for (int64_t i = 0; i < n; i++) order.as<int32_t>()[next[of(i)]++] = (int32_t)i;
  if (bad >= 0) cpu::fail(filled(sentence::expert, "groupByExpert", bad, expert[bad], count));
}

void gatherRows(View x, View order, View y) {
  if (!orderInRange(order, "gatherRows")) return zero(y);
  const int64_t k = order.size() / x.rows(), bytes = x.cols() * dtypeSize(x.dtype);
  parallelFor(order.size(), rowGrain(x.cols()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      __builtin_memcpy(y.as<char>() + i * bytes, x.as<char>() + order.as<int32_t>()[i] / k * bytes, bytes);
  });
}

// y (n, d) = sum over j of weights (n, j) times the row of x that holds assignment n * k + j; weights are 1 if left
// out.
void combine(View x, View order, View weights, View y) {
  const std::vector<int32_t> at = positions(order, "combine");
  const int64_t rows = y.rows(), cols = y.cols(), k = order.size() / rows;
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    parallelFor(rows, rowGrain(cols * k), [&](int64_t begin, int64_t end) {
      C* sum = (C*)scratch(0, cols * sizeof(C));
      for (int64_t n = begin; n < end; n++) {
        for (int64_t j = 0; j < k; j++) {
          const T* row = x.as<T>() + at[n * k + j] * cols;
          const C w = weights.given() ? weights.as<C>()[n * k + j] : C(1);
          if (j == 0)
            for (int64_t c = 0; c < cols; c++) sum[c] = w * (C)row[c];
          else
            for (int64_t c = 0; c < cols; c++) sum[c] += w * (C)row[c];
        }
        T* to = y.as<T>() + n * cols;
        for (int64_t c = 0; c < cols; c++) to[c] = T(sum[c]);
      }
    });
  });
}

void combineGrad(View x, View order, View weights, View dy, View dx, View dweights) {
  if (!orderInRange(order, "combine")) {
    zero(dweights);
    return zero(dx);
  }
  const int64_t cols = dy.cols(), k = order.size() / dy.rows();
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    parallelFor(order.size(), rowGrain(cols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int32_t assignment = order.as<int32_t>()[i];
        const T *row = x.as<T>() + i * cols, *d = dy.as<T>() + assignment / k * cols;
        T* to = dx.as<T>() + i * cols;
        const C w = weights.as<C>()[assignment];
        C dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < cols; c++) dot += (C)row[c] * (C)d[c];
        for (int64_t c = 0; c < cols; c++) to[c] = T(w * (C)d[c]);
        dweights.as<C>()[assignment] = dot;
      }
    });
  });
}

void groupedMatmul(View x, View w, View offsets, View y) {
  if (!offsetsFit(offsets, x.rows(), "groupedMatmul")) return zero(y);
  const int64_t depth = x.cols(), cols = y.cols();
  if (x.dtype == Dtype::float32 && suitsPackedGroups(w.shape[0], x.rows(), cols, depth))
    return groupedPacked(x, w, offsets, y);
  const std::vector<Group> all = groups(offsets, 384);
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallelChunks((int64_t)all.size(), [&](int64_t chunk) {
      const Group& g = all[chunk];
      const int64_t rows = g.end - g.begin;
      const Matrix<T> a{x.as<T>() + g.begin * depth, matrixLayout(rows, depth, depth, 1)}, b = matrixOf<T>(w, g.expert);
      T* to = y.as<T>() + g.begin * cols;
      if (suitsDots(rows, a, b))
        multiplyDots(a, b, rows, 0, cols, depth, 1.0, 0.0, to, cols);
      else
        multiply(a, b, rows, cols, depth, 1.0, 0.0, to, cols);
    });
  });
}

void groupedMatmulGradWeight(View x, View dy, View offsets, View dw, bool add) {
  if (!offsetsFit(offsets, x.rows(), "groupedMatmul")) {
    if (!add) zero(dw);
    return;
  }
  const int32_t* o = offsets.as<int32_t>();
  const int64_t experts = dw.shape[0], outs = dw.shape[1], ins = dw.shape[2];
  if (x.dtype == Dtype::float32 && x.rows() >= experts && suitsPacked(outs, ins, x.rows()))
    return groupedGradPacked(x, dy, offsets, dw, add);
  const int64_t pieces = outs >= 384 ? 2 : 1, height = (outs + pieces - 1) / pieces;
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto into = [&](auto* y) {
      parallelChunks(experts * pieces, [&](int64_t chunk) {
        const int64_t e = chunk / pieces, from = chunk % pieces * height, rows = o[e + 1] - o[e];
        const int64_t taken = std::min(height, outs - from);
        auto* to = y + (e * outs + from) * ins;
        if (rows == 0) {
          if (!add) __builtin_memset((void*)to, 0, taken * ins * sizeof *to);
          return;
        }
        const Matrix<T> a{dy.as<T>() + o[e] * outs, matrixLayout(outs, rows, 1, outs)};
        const Matrix<T> b{x.as<T>() + o[e] * ins, matrixLayout(rows, ins, ins, 1)};
        multiply(a.fromRow(from), b, taken, ins, rows, 1.0, add ? 1.0 : 0.0, to, ins);
      });
    };
    x.dtype == dw.dtype ? into(dw.as<T>()) : into(dw.as<Compute<T>>());
  });
}

}  // namespace cpu::ISA
