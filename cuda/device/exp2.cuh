#pragma once
// 2^x as the hardware has it (ex2.approx: 2 units in the last place, subnormal results are 0), for results in 16 bits.
#include <cuda_runtime.h>

#include <cmath>

namespace cuda {

__device__ __forceinline__ float exp2Fast(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

}  // namespace cuda
