#pragma once
// What the polynomial kernels share: sets of coefficients, groups of threads that each take a run of rows, and the sums
// that become coefficient gradients.
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "device/stretch.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "math/poly.h"

namespace cuda {

// The coefficients of every expert; without offsets there is one set. C is the type that x is computed in.
template <class C>
struct Sets {
  const C *weight, *bias;  // bias: null in most gradients
  const int32_t* offsets;
  int count, order;

  // By power, as math/poly.h has them; 0 above the order, so that a kernel may be compiled for a higher one.
  __device__ __forceinline__ C at(int set, int k) const {
    if (k == 0) return bias ? bias[set] : C(0);
    return k <= order ? weight[(int64_t)set * order + order - k] : C(0);
  }
  // Where the rows of a set end. Offsets that do not fit were reported; they lead nowhere out of bounds.
  __device__ __forceinline__ int64_t end(int set, int64_t rows) const {
    return offsets && set + 1 < count ? (int64_t)offsets[set + 1] : rows;
  }
  __device__ __forceinline__ int of(int64_t row) const {
    int low = 0, high = count - 1;
    while (low < high) {
      int middle = (low + high) / 2;
      if (row < (int64_t)offsets[middle + 1])
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
};

template <class C>
Sets<C> setsOf(const View& weight, const View& bias, const View& offsets) {
  return {weight.as<C>(), bias.as<C>(), offsets.as<int32_t>(), offsets.given() ? (int)offsets.size() - 1 : 1,
          (int)weight.cols()};
}

// Reports offsets, if given, that do not rise from 0 to the number of rows.
void checkOffsets(const char* op, const View& offsets, int64_t rows);

// Group g of `groups` has the rows [begin(g), begin(g + 1)): runs as equal as can be, fewer groups than rows.
struct Runs {
  int64_t rows, groups;
  HD int64_t begin(int64_t g) const { return rows * g / groups; }
  HD int64_t of(int64_t row) const { return ((row + 1) * groups - 1) / rows; }
  HD int64_t longest() const { return (rows + groups - 1) / groups; }
};

// A group's share of the coefficient gradients of a set goes to the slot group + set: both rise along the rows, so no
// two share one. (order + 1) sums a slot, by power from the bias on.
inline size_t slotBytes(const Runs& runs, int sets, int order) {
  return (size_t)(runs.groups + sets) * (order + 1) * sizeof(double);
}
// Adds up the slots of each set in the order of the groups.
void joinSlots(const double* slots, const Runs& runs, const View& offsets, const View& dweight, const View& dbias);

// Launches a kernel of rows; of a gradient, with slots that are then added up.
template <bool grad, class Kernel, class Rows>
void launchRuns(const char* name, Kernel kernel, const Grid& grid, Rows& a, const View& offsets, const View& dweight,
                const View& dbias) {
  if constexpr (grad) {
    const Scratch slots(slotBytes(a.runs, a.sets.count, a.sets.order));
    a.slots = slots.as<double>();
    launch(name, kernel, grid, a);
    joinSlots(a.slots, a.runs, offsets, dweight, dbias);
  } else {
    launch(name, kernel, grid, a);
  }
}

template <int N, int half, int span, class T>
__device__ __forceinline__ T scatterStep(T (&v)[N]) {
  const bool upper = lane() & half;
#pragma unroll
  for (int i = 0; i < half; i++) {
    T give = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
    v[i] = keep + shuffleXor(give, half);
  }
  if constexpr (half > 1) {
    return scatterStep<N, half / 2, span>(v);
  } else {
    T sum = v[0];
#pragma unroll
    for (int bits = N; bits < span; bits *= 2) sum += shuffleXor(sum, bits);
    return sum;
  }
}
// The lanes' sums of N values each, N a power of two up to `span`: lane l of each `span` gets that of v[l % N]. About
// N + log2(span / N) exchanges, where N single sums would take N log2(span).
template <int N, int span, class T>
__device__ __forceinline__ T scatterSum(T (&v)[N]) {
  static_assert(N > 1 && N <= span && (N & (N - 1)) == 0);
  return scatterStep<N, N / 2, span>(v);
}

constexpr int powerOfTwo(int n) { return n <= 1 ? 1 : 2 * powerOfTwo((n + 1) / 2); }

// A sum of many terms that keeps what each addition rounds off.
template <class T>
struct LongSum {
  T high, low;
  HD void add(T v) {
    T sum = high + v, shift = sum - high;
    low += (high - (sum - shift)) + (v - shift);
    high = sum;
  }
  HD double value() const { return (double)high + (double)low; }
};

// The orders that a kernel is compiled for: fn(std::integral_constant<int, R>), R at least `order`.
template <class T, class Fn>
void withOrder(int order, Fn fn) {
  if (order > 4) return fn(std::integral_constant<int, 8>{});
  if constexpr (std::is_same_v<T, bf16>) {
    if (order <= 2) return fn(std::integral_constant<int, 2>{});
    if (order == 3) return fn(std::integral_constant<int, 3>{});
  }
  fn(std::integral_constant<int, 4>{});
}

}  // namespace cuda
