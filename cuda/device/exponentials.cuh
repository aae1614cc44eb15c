#pragma once
// Sums of exponentials that are taken over a row in one pass, and the exponential they use.
#include <cuda_runtime.h>

#include "core/dtype.h"
#include "device/rows.cuh"
#include "math/reduce.h"
#include "math/transcendental.h"

namespace cuda {

// exp(x - base) for elements of type T. For 16 bits two instructions of the hardware: 2 units in the last place of a
// float, and half a unit of x log2(e), are far below the rounding of the element; the formula's twenty would take
// longer than the memory does.
template <class T, class C>
__device__ __forceinline__ C exponential(C x, C base) {
  if constexpr (sizeof(T) == 2) {
    constexpr float log2e = 1.44269504f;
    const float power = (x - base) * log2e;
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(power));
    return y;
#else
    return exp2f(power);
#endif
  } else {
    return math::exp(x - base);
  }
}

__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }  // a NaN is passed over
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

// The largest of some elements, and the sum of exp(x - base()) over them. -infinity and +infinity cannot be subtracted
// from themselves: then the base is 0. A NaN shows in the sum.
template <class C>
struct Exponentials {
  C largest = lowest<C>();
  C sum = 0;

  __device__ static bool finite(C x) { return x - x == C(0); }
  __device__ C base() const { return finite(largest) ? largest : C(0); }
  // What the sum is multiplied by when the largest becomes `other`, not smaller.
  __device__ C towards(C other) const {
    return largest == other || largest == lowest<C>() ? C(1) : math::exp(largest - (finite(other) ? other : C(0)));
  }

  // Takes in some elements more.
  template <class T, int held, int size>
  __device__ __forceinline__ void add(Words<T, size> (&v)[held]) {
    C most = largest;
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < size; j++) most = larger(most, v[k][j]);
    sum *= towards(most);
    largest = most;
    forget(v);
    const C from = base();
#pragma unroll
    for (int k = 0; k < held; k++)
#pragma unroll
      for (int j = 0; j < size; j++) sum += exponential<T>(v[k][j], from);
    forget(v);
  }

  __device__ static Exponentials join(Exponentials a, Exponentials b) {
    Exponentials both;
    both.largest = larger(a.largest, b.largest);
    both.sum = a.sum * a.towards(both.largest) + b.sum * b.towards(both.largest);
    return both;
  }

  // sum exp(x - largest); NaN for a row whose largest is infinite, as the difference is.
  __device__ C total() const { return finite(largest) ? sum : C(NAN); }
};

template <class T>
using Sums = Exponentials<Compute<T>>;

// Of a row, for its team. `v` holds the row afterwards, if whole; else it was read in parts.
template <bool whole, int held, bool even, class T, int size>
__device__ __forceinline__ Sums<T> sumsOf(const Row<T, even, size>& in, Team<Sums<T>>& team,
                                          Words<T, size> (&v)[held]) {
  Sums<T> mine;
  eachPart<whole, held>(in, team.rank, team.width, [&](int first) {
    loadPart(v, in, first, team.width, T(lowest<Compute<T>>()));
    mine.add(v);
  });
  return team.reduce(mine, Sums<T>::join);
}

}  // namespace cuda
