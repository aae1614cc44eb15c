#pragma once
// Rows of a tensor and the threads that work on them. A row of any length, starting anywhere, is cut into packs that
// begin at multiples of 16 bytes: the first may begin before the row and the last end behind it.
#include <cuda_runtime.h>

#include <initializer_list>
#include <type_traits>

#include "core/check.h"
#include "core/view.h"
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "launch.cuh"

namespace cuda {

// Neighbouring elements in registers, as they lie in memory: two of 16 bits share a register.
template <class T, int n>
struct Words {
  using C = Compute<T>;
  static_assert(n * sizeof(T) % 4 == 0);
  uint32_t word[n * sizeof(T) / 4];

  __device__ __forceinline__ C operator[](int j) const {
    if constexpr (sizeof(T) == 8) {
      const uint64_t bits = word[2 * j] | (uint64_t)word[2 * j + 1] << 32;
      double v;
      memcpy(&v, &bits, 8);
      return v;
    } else if constexpr (sizeof(T) == 4) {
      return floatFromBits(word[j]);
    } else if constexpr (std::is_same_v<T, bf16>) {
      return floatFromBits(j % 2 ? word[j / 2] & 0xffff0000 : word[j / 2] << 16);
    } else {
      T v;
      v.bits = (uint16_t)(j % 2 ? word[j / 2] >> 16 : word[j / 2]);
      return (C)v;
    }
  }
  // of(j): element j, before it is rounded to T.
  template <class Fn>
  __device__ __forceinline__ static Words from(Fn of) {
    Words to;
    if constexpr (sizeof(T) == 8) {
#pragma unroll
      for (int j = 0; j < n; j++) {
        const double v = of(j);
        uint64_t bits;
        memcpy(&bits, &v, 8);
        to.word[2 * j] = (uint32_t)bits;
        to.word[2 * j + 1] = (uint32_t)(bits >> 32);
      }
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int j = 0; j < n; j++) to.word[j] = bitsFromFloat((float)of(j));
    } else {
#pragma unroll
      for (int j = 0; j < n; j += 2) to.word[j / 2] = pair((float)of(j), (float)of(j + 1));
    }
    return to;
  }
  __device__ __forceinline__ static uint32_t pair(float low, float high) {
#ifdef __CUDA_ARCH__  // one instruction for both
    if constexpr (std::is_same_v<T, bf16>) {
      const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
      uint32_t bits;
      memcpy(&bits, &both, 4);
      return bits;
    }
#endif
    return T(low).bits | (uint32_t)T(high).bits << 16;
  }
  // get(j): element j as it is stored.
  template <class Fn>
  __device__ __forceinline__ static Words stored(Fn get) {
    Words to;
    if constexpr (sizeof(T) == 2) {
#pragma unroll
      for (int j = 0; j < n; j += 2) {
        const T low = get(j), high = get(j + 1);
        to.word[j / 2] = low.bits | (uint32_t)high.bits << 16;
      }
      return to;
    } else {
      return from(get);
    }
  }
  __device__ __forceinline__ T element(int j) const {  // as it is stored
    if constexpr (sizeof(T) == 2) {
      T v;
      v.bits = (uint16_t)(j % 2 ? word[j / 2] >> 16 : word[j / 2]);
      return v;
    } else {
      return (*this)[j];
    }
  }
};

// Between two passes over what a thread holds: keeps the compiler from keeping all the floats that the first pass made
// of the words, which takes twice the registers and costs more than making them again.
template <int held, class T, int size>
__device__ __forceinline__ void forget([[maybe_unused]] Words<T, size> (&v)[held]) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 2)
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int i = 0; i < (int)(size * sizeof(T) / 4); i++) asm("" : "+r"(v[k].word[i]));
#endif
}

// One row of one tensor, in packs of `size`. The rows of all tensors that a thread works on are cut alike (shift: how
// many elements of the first pack lie before the row); where that does not suit a tensor's address, its packs are
// loaded and stored element by element. even: the row is made of whole packs and begins with one, so there is no such
// case.
template <class T, bool even, int size = perPack<T>>
struct Row {
  using Held = Words<T, size>;
  using Whole = Pack<uint32_t, size * sizeof(T) / 4>;
  T* at;
  int length;
  int shift;
  bool direct;

  __device__ __forceinline__ Row(const T* at, int length, int shift)
      : at(const_cast<T*>(at)), length(length), shift(even ? 0 : shift), direct(even || aligned(at - shift, size)) {}

  // Of the row's first element, for packs of T.
  __device__ static int shiftOf(const T* at) { return even ? 0 : (int)((uintptr_t)at / sizeof(T) % size); }

  __device__ int column(int pack) const { return pack * size - shift; }  // of its first element
  __device__ bool inside(int column) const { return (unsigned)column < (unsigned)length; }

  // Elements that are not in the row come as `outside`.
  __device__ __forceinline__ Held load(int pack, T outside = T(0)) const {
    const int c = column(pack);
    Held v;
    if (even ? c < length : direct && c >= 0 && c + size <= length) {
      const Whole words = *reinterpret_cast<const Whole*>(at + c);
#pragma unroll
      for (int i = 0; i < (int)(size * sizeof(T) / 4); i++) v.word[i] = words.at[i];
    } else {
      v = Held::stored([&](int j) { return !even && inside(c + j) ? at[c + j] : outside; });
    }
    return v;
  }
  __device__ __forceinline__ void store(int pack, const Held& v) const {
    const int c = column(pack);
    if (even ? c < length : direct && c >= 0 && c + size <= length) {
      Whole words;
#pragma unroll
      for (int i = 0; i < (int)(size * sizeof(T) / 4); i++) words.at[i] = v.word[i];
      *reinterpret_cast<Whole*>(at + c) = words;
    } else if (!even) {
#pragma unroll
      for (int j = 0; j < size; j++)
        if (inside(c + j)) at[c + j] = v.element(j);
    }
  }
};

// Elements column .. column + size of a parameter with one element a column; 0 beside it.
template <bool even, int size, class C>
__device__ __forceinline__ void loadParameter(C (&to)[size], const C* from, int column, int length) {
  constexpr int each = size < perPack<C> ? size : perPack<C>;
  if (even ? column < length : column >= 0 && column + size <= length && aligned(from + column, each)) {
#pragma unroll
    for (int j = 0; j < size; j += each) {
      const auto part = loadPack<each>(from + column + j);
#pragma unroll
      for (int k = 0; k < each; k++) to[j + k] = part.at[k];
    }
  } else {
#pragma unroll
    for (int j = 0; j < size; j++) to[j] = !even && (unsigned)(column + j) < (unsigned)length ? from[column + j] : C(0);
  }
}

// The number that a floating-point tensor of one element holds.
__device__ inline double numberIn(const View& v) {
  switch (v.dtype) {
    case Dtype::float64:
      return *v.as<double>();
    case Dtype::bfloat16:
      return (double)*v.as<bf16>();
    case Dtype::float16:
      return (double)*v.as<f16>();
    default:
      return (double)*v.as<float>();
  }
}

// The threads that share a row: `width` of them, a power of two up to 32, or all of the block.
template <class V>
struct Team {
  struct Shared {
    V perWarp[2][32];
  };
  V (*shared)[32] = nullptr;
  int width, rank;  // rank: which of them this thread is
  int turn = 0;

  __device__ explicit Team(int width) : width(width), rank(width > 32 ? threadIdx.x : threadIdx.x % width) {}
  __device__ Team(int width, Shared& shared) : Team(width) { this->shared = shared.perWarp; }
  __device__ int index() const { return width > 32 ? 0 : threadIdx.x / width; }  // of this team in the block
  __device__ int perBlock() const { return width > 32 ? 1 : blockDim.x / width; }
  __device__ int64_t row() const { return (int64_t)blockIdx.x * perBlock() + index(); }

  // Joins the values of the team, for all of it; join(a, b) must not mind the order of its operands. All threads of the
  // block call it.
  template <class Join>
  __device__ __forceinline__ V reduce(V v, Join join) {
#pragma unroll
    for (int bits = 16; bits; bits /= 2)
      if (bits < width) v = join(v, shuffleXor(v, bits));
    if (width > 32) {
      // The other one may still be being read; of this one all were done before they came to the barrier between.
      V* all = shared[turn];
      turn ^= 1;
      if (lane() == 0) all[warp()] = v;
      __syncthreads();
      v = all[0];
      for (int i = 1; i < warps(); i++) v = join(v, all[i]);
    }
    return v;
  }
  __device__ __forceinline__ V sum(V v) {
    return reduce(v, [](V a, V b) { return a + b; });
  }
};

// How rows are spread over threads: each thread takes packs rank, rank + width .. of its row, `held` of them at a time
// and kept in registers; `whole` if that is all of an even row, which then is read once.
struct RowPlan {
  int width, held;
  bool whole;
  Grid grid;
};

constexpr int64_t longestRow = int64_t(1) << 30;  // in elements: columns are counted in 32 bits

// For rows of n elements of these tensors, which begin at multiples of 16 bytes if `starts` do. Rows that need more
// than 4 packs a thread in `threads` threads take 8 in `threadsOf8`; longer ones are not whole.
template <class T>
RowPlan planRows(const char* op, int64_t rows, int64_t n, std::initializer_list<const void*> starts, int threads,
                 int threadsOf8, size_t shared) {
  check(n <= longestRow, op, ": rows have ", n, " elements, but at most ", longestRow, " are possible on cuda");
  constexpr int size = perPack<T>;
  bool even = n % size == 0;
  for (const void* start : starts) even = even && (uintptr_t)start % 16 == 0;
  const int packs = (int)(even ? n / size : (n + 2 * size - 2) / size);
  auto widthFor = [&](int each) { return ((packs + each - 1) / each + 31) / 32 * 32; };
  RowPlan plan{1, 4, even, {}};
  if (packs <= 32 * 4) {
    while (plan.width * 4 < packs) plan.width *= 2;
  } else if (widthFor(4) <= threads) {
    plan.width = widthFor(4);
  } else if (even && widthFor(8) <= threadsOf8) {
    plan.width = widthFor(8);
    plan.held = 8;
  } else {
    plan.width = threads < 512 ? threads : 512;
    plan.whole = false;
  }
  plan.grid.threads = plan.width <= 32 ? 128 : plan.width;
  plan.grid.blocks = blocksFor(rows, plan.width > 32 ? 1 : plan.grid.threads / plan.width);
  plan.grid.shared = shared;
  return plan;
}

template <int packs, bool all>
struct Held {
  static constexpr int held = packs;
  static constexpr bool whole = all;
};
// Calls fn with the plan's numbers as constants. float64 needs no speed: one variant.
template <class T, bool eight, class Fn>
void withPlan(const RowPlan& plan, Fn fn) {
  if constexpr (!std::is_same_v<T, double>) {
    if (plan.whole && plan.held == 4) return fn(Held<4, true>{});
    if constexpr (eight)
      if (plan.whole) return fn(Held<8, true>{});
  }
  fn(Held<4, false>{});
}

// Calls fn(first pack) for every `held` packs of this thread; whole: once, so that what is kept stays in registers.
template <bool whole, int held, bool even, class T, int size, class Fn>
__device__ __forceinline__ void eachPart(const Row<T, even, size>& row, int rank, int width, Fn fn) {
  if constexpr (whole)
    fn(rank);
  else
    for (int first = rank; row.column(first) < row.length; first += held * width) fn(first);
}

template <int held, bool even, class T, int size>
__device__ __forceinline__ void loadPart(Words<T, size> (&v)[held], const Row<T, even, size>& row, int first, int width,
                                         T outside = T(0)) {
#pragma unroll
  for (int k = 0; k < held; k++) v[k] = row.load(first + k * width, outside);
}

}  // namespace cuda
