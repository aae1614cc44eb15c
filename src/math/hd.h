#pragma once
// HD marks a formula that both compilers read: g++ for the CPU backend, nvcc for the kernels.
// always_inline keeps a formula inside the translation unit that uses it: src/cpu is compiled once per
// instruction set, and a shared out-of-line copy could be the one that this machine cannot run.
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline __attribute__((always_inline))
#endif

HD float floatFromBits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
HD uint32_t bitsFromFloat(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}
