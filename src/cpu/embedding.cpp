// isa: all
// Rows of a table by their numbers, and the gradient of the table.
#include <cstring>

#include "core/sentences.h"
#include "cpu/blocks.h"
#include "cpu/indices.h"
#include "cpu/pool.h"
#include "cpu/stream.h"
#include "kernels.h"

namespace cpu::ISA {

void embedding(View ids, View weight, View y) {
  int64_t n = weight.cols(), bytes = n * dtypeSize(weight.dtype);
  Indices checked = checkedIndices(ids, weight.shape[0]);
  parallelFor(ids.size(), rowGrain(n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      char* to = y.as<char>() + row * bytes;
      if (checked.at[row] >= 0) {
        std::memcpy(to, weight.as<char>() + checked.at[row] * bytes, bytes);
      } else {
        withFloat(y.dtype, [&](auto tag) {
          using T = typename decltype(tag)::type;
          for (int64_t i = 0; i < n; i++) ((T*)to)[i] = stored<T>(__builtin_nanf(""));
        });
      }
    }
  });
  if (checked.bad >= 0) fail(filled(sentence::vocabulary, "embedding", checked.bad, checked.value, weight.shape[0]));
}

namespace {

// A chunk owns some columns and goes through all ids in their order.
template <class C>
void scatter(View ids, View dy, View dweight, bool add) {
  constexpr int64_t width = 64;
  int64_t n = dweight.cols(), vocabulary = dweight.shape[0], count = ids.size();
  Indices checked = checkedIndices(ids, vocabulary);
  if (!add) fill(dweight, 0);
  parallelFor(n, width, [&](int64_t begin, int64_t end) {
    C space[width];
    for (int64_t row = 0; row < count; row++) {
      if (checked.at[row] < 0) continue;
      const C* d = load<C>(dy, row * n + begin, 1, end - begin, space);
      C* to = dweight.as<C>() + checked.at[row] * n + begin;
      for (int64_t i = 0; i < end - begin; i++) to[i] += d[i];
    }
  });
}

}  // namespace

void embeddingGrad(View ids, View dy, View dweight, bool add) {
  if (dweight.dtype == Dtype::float64)
    scatter<double>(ids, dy, dweight, add);
  else
    scatter<float>(ids, dy, dweight, add);
}

}  // namespace cpu::ISA
