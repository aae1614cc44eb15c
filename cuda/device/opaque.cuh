#pragma once
// Keeps the compiler from computing ahead.
#include <cuda_runtime.h>

namespace cuda {

// The same value, of which the compiler knows nothing: addresses made from it are made where they are used, instead of
// being kept in registers all through a loop.
__device__ __forceinline__ int opaque(int x) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(x));
#endif
  return x;
}
template <class T>
__device__ __forceinline__ const T* opaque(const T* p) {
#ifdef __CUDACC__
  asm volatile("" : "+l"(p));
#endif
  return p;
}

}  // namespace cuda
