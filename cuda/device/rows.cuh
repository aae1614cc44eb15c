#pragma once
// Rows of a tensor and the threads that work on them. A row of any length, starting anywhere, is cut into packs that
// begin at multiples of 16 bytes: the first may begin before the row and the last end behind it.
#include <cuda_runtime.h>

#include <type_traits>

#include "core/check.h"
#include "core/view.h"
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "launch.cuh"

namespace cuda {

// One row of one tensor, in packs of `size`. The rows of all tensors that a thread works on are cut alike (shift: how
// many elements of the first pack lie before the row); where that does not suit a tensor's address, its packs are
// loaded and stored element by element.
template <class T, int size = perPack<T>>
struct Row {
  T* at;
  int length;
  int shift;
  bool direct;

  __device__ Row(const T* at, int length, int shift)
      : at(const_cast<T*>(at)), length(length), shift(shift), direct(aligned(at - shift, size)) {}

  // Of the row's first element, for packs of T.
  static __device__ int shiftOf(const T* at) { return (int)((uintptr_t)at / sizeof(T) % size); }

  __device__ int column(int pack) const { return pack * size - shift; }  // of its first element
  __device__ bool inside(int column) const { return (unsigned)column < (unsigned)length; }

  // Elements that are not in the row come as `outside`.
  __device__ __forceinline__ Pack<T, size> load(int pack, T outside = T(0)) const {
    const int c = column(pack);
    if (direct && c >= 0 && c + size <= length) return loadPack<size>(at + c);
    Pack<T, size> v;
#pragma unroll
    for (int j = 0; j < size; j++) v.at[j] = inside(c + j) ? at[c + j] : outside;
    return v;
  }
  __device__ __forceinline__ void store(int pack, const Pack<T, size>& v) const {
    const int c = column(pack);
    if (direct && c >= 0 && c + size <= length) return storePack<size>(at + c, v);
#pragma unroll
    for (int j = 0; j < size; j++)
      if (inside(c + j)) at[c + j] = v.at[j];
  }
};

// Elements column .. column + size of a parameter with one element a column.
template <int size, class C>
__device__ __forceinline__ Pack<C, size> loadParameter(const C* from, int column, int length, C outside = C(0)) {
  constexpr int each = size < perPack<C> ? size : perPack<C>;
  Pack<C, size> v;
  if (column >= 0 && column + size <= length && aligned(from + column, each)) {
#pragma unroll
    for (int j = 0; j < size; j += each) {
      const auto part = loadPack<each>(from + column + j);
#pragma unroll
      for (int k = 0; k < each; k++) v.at[j + k] = part.at[k];
    }
  } else {
#pragma unroll
    for (int j = 0; j < size; j++) v.at[j] = (unsigned)(column + j) < (unsigned)length ? from[column + j] : outside;
  }
  return v;
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
      V* all = shared[turn];  // the other one may still be being read
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
// and kept in registers; `whole` if that is the whole row, which then is read once.
struct RowPlan {
  int width, held;
  bool whole;
  Grid grid;
};

// The longest row of which x has several, in elements: columns are counted in 32 bits.
constexpr int64_t longestRow = int64_t(1) << 30;

// Rows that need more than 4 packs a thread in `threads` threads take 8 in 1024 if `eight`, else they are not whole.
template <class T>
RowPlan planRows(int64_t rows, int64_t n, const void* start, int threads, bool eight, size_t shared, const char* op) {
  check(n <= longestRow, op, ": rows have ", n, " elements, but at most ", longestRow, " are possible on cuda");
  constexpr int size = perPack<T>;
  const bool even = n % size == 0 && (uintptr_t)start % 16 == 0;
  const int packs = (int)(even ? n / size : (n + 2 * size - 2) / size);
  auto warpsFor = [&](int each) { return ((packs + each - 1) / each + 31) / 32 * 32; };
  RowPlan plan{1, 4, true, {}};
  if (packs <= 32 * 4) {
    while (plan.width * 4 < packs) plan.width *= 2;
  } else if (warpsFor(4) <= threads) {
    plan.width = warpsFor(4);
  } else if (eight && warpsFor(8) <= 1024) {
    plan.width = warpsFor(8);
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
      if (plan.held == 8) return fn(Held<8, true>{});
  }
  fn(Held<4, false>{});
}

// Calls fn(first pack) for every `held` packs of this thread; whole: once, so that what is kept stays in registers.
template <bool whole, int held, class T, int size, class Fn>
__device__ __forceinline__ void eachPart(const Row<T, size>& row, int rank, int width, Fn fn) {
  if constexpr (whole)
    fn(rank);
  else
    for (int first = rank; row.column(first) < row.length; first += held * width) fn(first);
}

template <int held, class T, int size>
__device__ __forceinline__ void loadPart(Pack<T, size> (&v)[held], const Row<T, size>& row, int first, int width,
                                         T outside = T(0)) {
#pragma unroll
  for (int k = 0; k < held; k++) v[k] = row.load(first + k * width, outside);
}

}  // namespace cuda
