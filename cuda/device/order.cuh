#pragma once
// An element's place in the order, as an integer: NaN is the largest number, and both zeros are equal.
#include <cuda_runtime.h>

#include <type_traits>

#include "core/dtype.h"

namespace cuda {

template <class T>
__device__ __forceinline__ int64_t orderOf(T x) {
  if constexpr (std::is_integral_v<T>) {
    return (int64_t)x;
  } else {
    double v = (double)loaded<Wide<T>>(x);
    if (v != v) return INT64_MAX;
    v += 0.0;
    int64_t bits;
    memcpy(&bits, &v, 8);
    return bits < 0 ? (int64_t)((uint64_t)1 << 63) - bits - 1 : bits;
  }
}

}  // namespace cuda
