// isa: all
// Random numbers, in runs of whole Philox blocks: number i does not depend on how the work is split.
#include "cpu/blocks.h"
#include "cpu/pool.h"
#include "kernels.h"
#include "math/philox.h"

namespace cpu::ISA {
namespace {

// The words of some blocks. Out of line, so that it is vectorised once and whatever uses the words cannot prevent it.
__attribute__((noinline)) void fillWords(uint64_t seed, uint64_t call, uint64_t first, int blocks, uint32_t* words) {
#pragma omp simd
  for (int i = 0; i < blocks; i++) {
    philox::Words w = philox::generate(seed, call, first + (uint64_t)i);
    words[4 * i] = w.w[0], words[4 * i + 1] = w.w[1], words[4 * i + 2] = w.w[2], words[4 * i + 3] = w.w[3];
  }
}

// fn(words, at, n) for runs of n <= blockLength numbers from `at` on; words holds n words, rounded up to whole blocks.
template <class Fn>
void withWords(View state, int64_t call, int64_t size, Fn&& fn) {
  const uint64_t seed = (uint64_t)state.as<int64_t>()[0], number = (uint64_t)(state.as<int64_t>()[1] + call);
  parallelFor((size + blockLength - 1) / blockLength, 16, [&](int64_t begin, int64_t end) {
    uint32_t words[blockLength];
    for (int64_t run = begin; run < end; run++) {
      int64_t at = run * blockLength, n = size - at < blockLength ? size - at : blockLength;
      fillWords(seed, number, (uint64_t)at / 4, (int)((n + 3) / 4), words);
      fn(words, at, n);
    }
  });
}

// Bits of a word that a uniform number of the type takes, so that it stays below 1.
constexpr int uniformBits(Dtype t) {
  return t == Dtype::float64 ? 32 : t == Dtype::bfloat16 ? 8 : t == Dtype::float16 ? 11 : 24;
}

// A random branch costs more than the multiplication it saves.
template <class C>
__attribute__((noinline)) void dropRun(const C* x, const uint32_t* words, int64_t n, uint32_t threshold, C scale,
                                       C* y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) y[i] = x[i] * (words[i] < threshold ? C(0) : scale);
}

}  // namespace

void random(RandomKind kind, View state, int64_t call, double a, double b, View y) {
  const int shift = 32 - uniformBits(y.dtype);
  const double unit = 1 / (double)((uint64_t)1 << uniformBits(y.dtype));
  const double low = kind == RandomKind::truncated ? 0.5 * std::erfc(b * 0.70710678118654752440) : 0;
  withWords(state, call, y.size(), [&](const uint32_t* words, int64_t at, int64_t n) {
    if (kind == RandomKind::integer) {
      int64_t out[blockLength];
      const uint64_t range = (uint64_t)((int64_t)b - (int64_t)a);
      for (int64_t i = 0; i < n; i++) out[i] = (int64_t)a + (int64_t)((words[i] * range) >> 32);
      if (y.dtype == Dtype::int64)
        __builtin_memcpy(y.as<int64_t>() + at, out, n * sizeof(int64_t));
      else
        store(y, at, 1, n, out);
      return;
    }
    double block[blockLength];
    double* out = target(y, at, 1, block);
    if (kind == RandomKind::uniform) {
      for (int64_t i = 0; i < n; i++) out[i] = a + (b - a) * ((double)(words[i] >> shift) * unit);
    } else if (kind == RandomKind::normal) {
      double pairs[blockLength + 4];
      const int64_t half = (n + 1) / 2;
#pragma omp simd
      for (int64_t i = 0; i < half; i++)
        philox::normals(words[2 * i], words[2 * i + 1], pairs[2 * i], pairs[2 * i + 1]);
      for (int64_t i = 0; i < n; i++) out[i] = a + b * pairs[i];
    } else {
      for (int64_t i = 0; i < n; i++) out[i] = a * philox::quantile(low + (1 - 2 * low) * philox::open01(words[i]));
    }
    store(y, at, 1, n, out);
  });
}

void dropout(View x, View state, int64_t call, double p, View y) {
  const uint32_t threshold = (uint32_t)(p < 1 ? p * 4294967296.0 : 0);
  withBlockType(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    const C scale = p < 1 ? (C)(1 / (1 - p)) : C(0);
    withWords(state, call, x.size(), [&](const uint32_t* words, int64_t at, int64_t n) {
      C in[blockLength], out[blockLength];
      const C* from = load(x, at, 1, n, in);
      C* to = target(y, at, 1, out);
      dropRun(from, words, n, threshold, scale, to);
      store(y, at, 1, n, to);
    });
  });
}

}  // namespace cpu::ISA
