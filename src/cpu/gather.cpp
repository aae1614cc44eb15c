// isa: all
// Elements chosen by index, and their gradients: every element of a gradient is added up by one chunk, in order.
#include <algorithm>

#include "core/sentences.h"
#include "cpu/blocks.h"
#include "cpu/indices.h"
#include "cpu/pool.h"
#include "cpu/stream.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

// Where the rows along the last axis of a view begin.
int64_t rowStart(const View& x, int64_t row) {
  int64_t at = 0;
  for (int axis = x.rank - 2; axis >= 0; axis--) {
    at += row % x.shape[axis] * x.stride[axis];
    row /= x.shape[axis];
  }
  return at;
}
int64_t stepOf(const View& x) { return x.rank ? x.stride[x.rank - 1] : 1; }

void report(const Indices& checked, const char* sentence, const char* op, int64_t limit) {
  if (checked.bad >= 0) fail(filled(sentence, op, checked.bad, checked.value, limit));
}

template <class B>
B missingBits(Dtype t) {
  B bits = 0;
  withDtype(t, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T value = missing<T>();
    __builtin_memcpy(&bits, &value, sizeof(T) < sizeof(B) ? sizeof(T) : sizeof(B));
  });
  return bits;
}

}  // namespace

void gather(View x, View index, int64_t inner, View y) {
  int64_t n = index.cols(), length = x.cols();
  Indices checked = checkedIndices(index, length);
  withBits(x.dtype, [&](auto tag) {
    using B = typename decltype(tag)::type;
    const B none = missingBits<B>(x.dtype);
    parallelFor(index.rows(), rowGrain(n), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const B* from = x.as<B>() + rowStart(x, row);
        B* to = y.as<B>() + rowStart(y, row);
        for (int64_t i = 0; i < n; i++) {
          int64_t at = checked.at[row * n + i];
          to[i * stepOf(y)] = at < 0 ? none : from[at * stepOf(x)];
        }
      }
    });
  });
  if (checked.bad >= 0) {  // told as the first position in the index as it was given
    int64_t first = INT64_MAX;
    for (int64_t i = 0, size = index.size(); i < size; i++) {
      int64_t row = i / n, given = (row / inner * n + i % n) * inner + row % inner;
      if (checked.at[i] == -2 && given < first) first = given, checked.bad = i;
    }
    View found = index;
    found.data = index.as<char>() + checked.bad * dtypeSize(index.dtype);
    found.rank = 0;
    checked.value = checkedIndices(found, 0).value;
    checked.bad = first;
  }
  report(checked, sentence::indexOnAxis, "gather", length);
}

void scatterAdd(View index, View dy, View dx) {
  int64_t n = index.cols();
  Indices checked = checkedIndices(index, dx.cols());
  auto add = [&](auto tag) {
    using C = typename decltype(tag)::type;
    parallelFor(index.rows(), rowGrain(n), [&](int64_t begin, int64_t end) {
      C space[blockLength];
      for (int64_t row = begin; row < end; row++) {
        C* to = dx.as<C>() + rowStart(dx, row);
        int64_t from = rowStart(dy, row);
        for (int64_t i = 0; i < n; i += blockLength) {
          int64_t m = n - i < blockLength ? n - i : blockLength;
          const C* d = load<C>(dy, from + i * stepOf(dy), stepOf(dy), m, space);
          for (int64_t k = 0; k < m; k++)
            if (int64_t at = checked.at[row * n + i + k]; at >= 0) to[at * stepOf(dx)] += d[k];
        }
      }
    });
  };
  if (dx.dtype == Dtype::float64)
    add(Tag<double>{});
  else
    add(Tag<float>{});
}

void indexSelect(View x, View ids, View y) {
  int64_t length = x.shape[1], inner = x.shape[2], count = ids.size();
  Indices checked = checkedIndices(ids, length);
  withBits(x.dtype, [&](auto tag) {
    using B = typename decltype(tag)::type;
    const B none = missingBits<B>(x.dtype);
    parallelFor(x.shape[0] * count, rowGrain(inner), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        int64_t at = checked.at[row % count];
        B* to = y.as<B>() + row * inner;
        if (at < 0)
          std::fill(to, to + inner, none);
        else
          __builtin_memcpy(to, x.as<B>() + (row / count * length + at) * inner, inner * sizeof(B));
      }
    });
  });
  report(checked, sentence::idOnAxis, "indexSelect", length);
}

void indexAdd(View ids, View dy, View dx) {
  int64_t length = dx.shape[1], inner = dx.shape[2], count = ids.size();
  Indices checked = checkedIndices(ids, length);
  constexpr int64_t width = 64;
  const int64_t parts = (inner + width - 1) / width;
  auto add = [&](auto tag) {
    using C = typename decltype(tag)::type;
    parallelFor(dx.shape[0] * parts, 1, [&](int64_t begin, int64_t end) {
      C space[width];
      for (int64_t item = begin; item < end; item++) {
        int64_t outer = item / parts, column = item % parts * width;
        int64_t n = inner - column < width ? inner - column : width;
        for (int64_t k = 0; k < count; k++) {
          if (checked.at[k] < 0) continue;
          const C* d = load<C>(dy, (outer * count + k) * inner + column, 1, n, space);
          C* to = dx.as<C>() + (outer * length + checked.at[k]) * inner + column;
          for (int64_t i = 0; i < n; i++) to[i] += d[i];
        }
      }
    });
  };
  if (dx.dtype == Dtype::float64)
    add(Tag<double>{});
  else
    add(Tag<float>{});
}

void oneHot(View ids, View y) {
  int64_t classes = y.cols();
  Indices checked = checkedIndices(ids, classes);
  withDtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallelFor(ids.size(), rowGrain(classes), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        T* to = y.as<T>() + row * classes;
        for (int64_t i = 0; i < classes; i++) to[i] = stored<T>(0.0f);
        if (checked.at[row] >= 0) to[checked.at[row]] = stored<T>(1.0f);
      }
    });
  });
  report(checked, sentence::idOfClasses, "oneHot", classes);
}

void cumsum(View x, bool reverse, View y) {
  int64_t n = x.cols();
  withBlockType(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    using A = std::conditional_t<std::is_same_v<C, float>, double, C>;
    parallelFor(x.rows(), rowGrain(n), [&](int64_t begin, int64_t end) {
      C in[blockLength], out[blockLength];
      for (int64_t row = begin; row < end; row++) {
        int64_t from = rowStart(x, row), to = rowStart(y, row);
        A sum = 0;
        for (int64_t i = 0; i < n; i += blockLength) {
          int64_t m = n - i < blockLength ? n - i : blockLength;
          int64_t at = reverse ? n - i - m : i;
          const C* v = load<C>(x, from + at * stepOf(x), stepOf(x), m, in);
          for (int64_t k = 0; k < m; k++) {
            int64_t j = reverse ? m - 1 - k : k;
            sum += (A)v[j];
            out[j] = (C)sum;
          }
          C* direct = target(y, to + at * stepOf(y), stepOf(y), out);
          if (direct != out) __builtin_memcpy(direct, out, m * sizeof(C));
          store<C>(y, to + at * stepOf(y), stepOf(y), m, out);
        }
      }
    });
  });
}

namespace {

// An element's place in the order, as an integer: NaN is the largest number, and both zeros are equal.
int64_t orderOf(double v) {
  if (v != v) return INT64_MAX;
  v += 0.0;
  int64_t bits;
  __builtin_memcpy(&bits, &v, 8);
  return bits < 0 ? (int64_t)((uint64_t)1 << 63) - bits - 1 : bits;
}
int64_t orderOf(int64_t v) { return v; }

struct Ranked {
  int64_t order;
  int64_t at;
  bool operator<(const Ranked& o) const { return order != o.order ? order < o.order : at < o.at; }
};

}  // namespace

void sort(View x, bool descending, View values, View indices) {
  const int64_t n = x.cols(), k = values.cols();
  constexpr int64_t few = 16;  // so many are kept in order as the elements come by
  withBlockType(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    using W = std::conditional_t<std::is_same_v<C, int64_t>, int64_t, double>;
    parallelFor(x.rows(), rowGrain(n, 4096), [&](int64_t begin, int64_t end) {
      Ranked best[few + 1];
      auto* ranked = k <= few ? best : (Ranked*)scratch(0, n * sizeof(Ranked));
      for (int64_t row = begin; row < end; row++) {
        const int64_t from = row * n;
        C in[blockLength];
        int64_t found = 0;
        for (int64_t i = 0; i < n; i += blockLength) {
          const int64_t m = n - i < blockLength ? n - i : blockLength;
          const C* v = load<C>(x, from + i, 1, m, in);
          for (int64_t j = 0; j < m; j++) {
            const int64_t order = orderOf((W)v[j]);
            const Ranked one = {descending ? ~order : order, i + j};
            if (k > few) {
              ranked[i + j] = one;
            } else if (found < k || one < best[k - 1]) {
              int64_t place = found < k ? found++ : k - 1;
              for (; place > 0 && one < best[place - 1]; place--) best[place] = best[place - 1];
              best[place] = one;
            }
          }
        }
        if (k > few) {
          if (k < n) std::nth_element(ranked, ranked + k, ranked + n);
          std::sort(ranked, ranked + k);
        }
        withBits(x.dtype, [&](auto bits) {
          using B = typename decltype(bits)::type;
          for (int64_t i = 0; i < k; i++) {
            values.as<B>()[row * k + i] = x.as<B>()[from + ranked[i].at];
            indices.as<int32_t>()[row * k + i] = (int32_t)ranked[i].at;
          }
        });
      }
    });
  });
}

}  // namespace cpu::ISA
