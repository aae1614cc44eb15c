// isa: all
// Sums, means and extremes over any axes. Floats are summed in double, in an order that the shape alone decides.
#include <vector>

#include "cpu/blocks.h"
#include "cpu/pool.h"
#include "kernels.h"
#include "math/reduce.h"

namespace cpu::ISA {
namespace {

struct Axes {
  int rank = 0;
  int64_t shape[maxRank] = {}, x[maxRank] = {}, y[maxRank] = {};  // lengths, strides of x and of y

  void push(int64_t length, int64_t strideX, int64_t strideY) {
    if (rank && x[rank - 1] == strideX * length && y[rank - 1] == strideY * length) {
      shape[rank - 1] *= length;
      x[rank - 1] = strideX;
      y[rank - 1] = strideY;
    } else {
      shape[rank] = length, x[rank] = strideX, y[rank] = strideY;
      rank++;
    }
  }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  void locate(int64_t index, int64_t& atX, int64_t& atY) const {
    for (int i = rank - 1; i >= 0; i--) {
      int64_t at = index % shape[i];
      index /= shape[i];
      atX += at * x[i];
      atY += at * y[i];
    }
  }
};

// The axes of x, kept ones and reduced ones, each from the longest stride to the shortest.
struct Plan {
  Axes kept, reduced;
  bool innerIsKept = false;

  Plan(const View& x, const View& y) {
    int order[maxRank], n = 0;
    auto distance = [&](int axis) { return x.stride[axis] < 0 ? -x.stride[axis] : x.stride[axis]; };
    for (int axis = 0; axis < x.rank; axis++) {
      if (x.shape[axis] == 1) continue;
      int at = n++;
      for (; at > 0 && distance(order[at - 1]) < distance(axis); at--) order[at] = order[at - 1];
      order[at] = axis;
    }
    for (int i = 0; i < n; i++) {
      int axis = order[i];
      bool keep = y.shape[axis] != 1;
      (keep ? kept : reduced).push(x.shape[axis], x.stride[axis], keep ? y.stride[axis] : 0);
      innerIsKept = keep;
    }
  }
};

constexpr int64_t pieceLength = 32768;  // elements of x that one chunk reads, about
constexpr int64_t manyItems = 16;       // with so many results, each is made by one chunk

// The running value of a whole block of elements.
template <class F, class A, class C>
A reduceBlock(F, A sum, const C* in, int64_t n) {
  if constexpr (std::is_same_v<F, Sum>) {
    A s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++) s += (A)in[i];
    return sum + s;
  } else {
    constexpr int lanes = 16;
    int64_t i = 0;
    if (n >= 2 * lanes) {
      A best[lanes];
      for (int l = 0; l < lanes; l++) best[l] = (A)in[l];
      for (i = lanes; i + lanes <= n; i += lanes)
#pragma omp simd
        for (int l = 0; l < lanes; l++) best[l] = F::join(best[l], (A)in[i + l]);
      for (int l = 0; l < lanes; l++) sum = F::join(sum, best[l]);
    }
    for (; i < n; i++) sum = F::join(sum, (A)in[i]);
    return sum;
  }
}

template <class T, class A>
void put(const View& y, int64_t at, A value, double scale) {
  if constexpr (std::is_same_v<A, double>) value *= scale;
  y.as<T>()[at] = stored<T>(value);
}

// A chunk goes along the reduced axes for one result, or for a piece of one.
template <class F, class A, class C>
void alongRows(F f, const View& x, const View& y, const Plan& plan, double scale) {
  int64_t results = plan.kept.count(), length = plan.reduced.count();
  int64_t pieces = results >= manyItems ? 1 : (length + pieceLength - 1) / pieceLength;
  if (pieces < 1) pieces = 1;
  std::vector<A> partial(pieces > 1 ? results * pieces : 0);
  const Axes& r = plan.reduced;
  int64_t run = r.rank ? r.shape[r.rank - 1] : 1, step = r.rank ? r.x[r.rank - 1] : 1;
  auto piece = [&](int64_t from, int64_t begin, int64_t end) {
    A sum = F::template first<A>();
    C block[blockLength];
    for (int64_t i = begin; i < end;) {
      int64_t at = from, unused = 0, n = run - i % run;
      r.locate(i, at, unused);
      if (n > end - i) n = end - i;
      for (int64_t k = 0; k < n; k += blockLength) {
        int64_t m = n - k < blockLength ? n - k : blockLength;
        sum = reduceBlock(f, sum, load(x, at + k * step, step, m, block), m);
      }
      i += n;
    }
    return sum;
  };
  parallelFor(results * pieces, pieces > 1 ? 1 : rowGrain(length), [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; item++) {
      int64_t atX = 0, atY = 0, p = item % pieces;
      plan.kept.locate(item / pieces, atX, atY);
      if (pieces > 1)
        partial[item] = piece(atX, p * pieceLength, (p + 1) * pieceLength < length ? (p + 1) * pieceLength : length);
      else
        withDtype(y.dtype, [&](auto tag) { put<typename decltype(tag)::type>(y, atY, piece(atX, 0, length), scale); });
    }
  });
  if (pieces == 1) return;
  for (int64_t i = 0; i < results; i++) {
    A sum = F::template first<A>();
    for (int64_t p = 0; p < pieces; p++) sum = F::join(sum, partial[i * pieces + p]);
    int64_t atX = 0, atY = 0;
    plan.kept.locate(i, atX, atY);
    withDtype(y.dtype, [&](auto tag) { put<typename decltype(tag)::type>(y, atY, sum, scale); });
  }
}

constexpr int64_t panel = 4096;  // columns that a chunk goes through together: their sums stay in the first cache

// The innermost axis is kept: a chunk adds up rows for a panel of neighbouring results, or some of the rows.
template <class F, class A, class C>
void alongColumns(const View& x, const View& y, const Plan& plan, double scale) {
  Axes outer = plan.kept;
  outer.rank--;
  const int64_t cols = plan.kept.shape[outer.rank], stepX = plan.kept.x[outer.rank], stepY = plan.kept.y[outer.rank];
  const int64_t panels = (cols + panel - 1) / panel, items = outer.count() * panels, length = plan.reduced.count();
  const int64_t width = cols < panel ? cols : panel;
  int64_t rows = length < 1 ? 1 : length;
  if (items < manyItems) {
    int64_t least = pieceLength / width, even = (length + 63) / 64;
    rows = least > even ? least : even;
    if (rows < 1) rows = 1;
  }
  const int64_t pieces = length <= rows ? 1 : (length + rows - 1) / rows;
  std::vector<A> partial(pieces > 1 ? items * pieces * width : 0);
  auto columns = [&](int64_t item) {
    int64_t left = cols - item % panels * panel;
    return left < panel ? left : panel;
  };
  auto finish = [&](int64_t item, const A* sum) {
    int64_t atX = 0, atY = item % panels * panel * stepY;
    outer.locate(item / panels, atX, atY);
    withDtype(y.dtype, [&](auto tag) {
      for (int64_t j = 0, n = columns(item); j < n; j++)
        put<typename decltype(tag)::type>(y, atY + j * stepY, sum[j], scale);
    });
  };
  parallelFor(items * pieces, pieces > 1 ? 1 : rowGrain(length * width), [&](int64_t first, int64_t last) {
    A own[panel];
    C space[4][blockLength];
    for (int64_t index = first; index < last; index++) {
      const int64_t item = index / pieces, begin = index % pieces * rows, n = columns(item);
      const int64_t end = begin + rows < length ? begin + rows : length;
      int64_t start = item % panels * panel * stepX, unused = 0;
      outer.locate(item / panels, start, unused);
      A* sum = pieces > 1 ? partial.data() + index * width : own;
      for (int64_t j = 0; j < n; j++) sum[j] = F::template first<A>();
      for (int64_t i = begin; i < end; i += 4) {  // four rows at a time: the sums are loaded and stored less often
        const int64_t count = end - i < 4 ? end - i : 4;
        int64_t at[4];
        for (int64_t r = 0; r < count; r++) {
          at[r] = start;
          plan.reduced.locate(i + r, at[r], unused);
        }
        for (int64_t k = 0; k < n; k += blockLength) {
          const int64_t m = n - k < blockLength ? n - k : blockLength;
          const C* in[4];
          for (int64_t r = 0; r < count; r++) in[r] = load(x, at[r] + k * stepX, stepX, m, space[r]);
          if (count == 4) {
#pragma omp simd
            for (int64_t j = 0; j < m; j++)
              sum[k + j] =
                  F::join(F::join(F::join(F::join(sum[k + j], (A)in[0][j]), (A)in[1][j]), (A)in[2][j]), (A)in[3][j]);
          } else {
            for (int64_t r = 0; r < count; r++)
#pragma omp simd
              for (int64_t j = 0; j < m; j++) sum[k + j] = F::join(sum[k + j], (A)in[r][j]);
          }
        }
      }
      if (pieces == 1) finish(item, sum);
    }
  });
  if (pieces == 1) return;
  for (int64_t item = 0; item < items; item++) {
    const int64_t n = columns(item);
    parallelFor(n, 512, [&](int64_t begin, int64_t end) {
      A* sum = partial.data() + item * pieces * width;
      for (int64_t p = 1; p < pieces; p++)
        for (int64_t j = begin; j < end; j++) sum[j] = F::join(sum[j], sum[p * width + j]);
    });
    finish(item, partial.data() + item * pieces * width);
  }
}

template <class F>
void reduceWith(F f, View x, View y, double scale) {
  Plan plan(x, y);
  withBlockType(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    using A = std::conditional_t<std::is_same_v<F, Sum> && std::is_same_v<C, float>, double, C>;
    if (plan.innerIsKept)
      alongColumns<F, A, C>(x, y, plan, scale);
    else
      alongRows<F, A, C>(f, x, y, plan, scale);
  });
}

}  // namespace

void reduce(ReduceOp op, View x, View y) {
  if (!y.size()) return;
  switch (op) {
    case ReduceOp::sum:
      return reduceWith(Sum{}, x, y, 1);
    case ReduceOp::mean:
      return reduceWith(Sum{}, x, y, (double)y.size() / (double)x.size());
    case ReduceOp::max:
      return reduceWith(Largest{}, x, y, 1);
    case ReduceOp::min:
      return reduceWith(Smallest{}, x, y, 1);
  }
}

void argmax(View x, View y) {
  int64_t rows = x.rows(), cols = x.cols();
  withDtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Wide<T>;
    parallelFor(rows, rowGrain(cols), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const T* in = x.as<T>() + row * cols;
        C best = loaded<C>(in[0]);
        int64_t at = 0;
        for (int64_t i = 1; i < cols && best == best; i++) {  // the first NaN wins
          C v = loaded<C>(in[i]);
          if (v > best || v != v) best = v, at = i;
        }
        y.as<int32_t>()[row] = (int32_t)at;
      }
    });
  });
}

}  // namespace cpu::ISA
