#pragma once
// The tensor cores of a warp, as every GPU from sm_80 on has them: pieces of matrices from shared memory (ldmatrix),
// and products of 16 x 16 by 16 x 8 (mma.m16n8k16) of bf16 or f16, summed in float.
//
// How a piece lies in the warp, with g = lane / 4 and t = lane % 4; a register holds two neighbours:
//   a (16 x 16): a[0] = (g, 2t), a[1] = (g + 8, 2t), a[2] = (g, 2t + 8), a[3] = (g + 8, 2t + 8)   (row, column)
//   b (16 x 8):  b[0] = (2t, g), b[1] = (2t + 8, g), neighbours below each other
//   c (16 x 8):  c[0], c[1] = (g, 2t), (g, 2t + 1); c[2], c[3] = (g + 8, 2t), (g + 8, 2t + 1)
#include <cuda_runtime.h>

#include "core/dtype.h"
#include "device/async.cuh"

namespace cuda {

#ifndef __CUDACC__
// What ldmatrix means: lane l of matrix i gets elements 2t and 2t + 1 of the row that lane 8 i + g points at; turned,
// element g of the rows 2t and 2t + 1.
template <int count, bool turned>
void loadMatricesHere(uint32_t (&r)[count], const void* row) {
  if ((uintptr_t)row % 16) emulator::fail("ldmatrix: a row does not begin at a multiple of 16 bytes");
  const void* const* rows = emulator::shown(row, turned ? "ldmatrix.trans" : "ldmatrix");
  const int g = emulator::current->lane / 4, t = emulator::current->lane % 4;
  for (int i = 0; i < count; i++) {
    auto at = [&](int line, int element) {
      uint16_t bits;
      std::memcpy(&bits, (const char*)emulator::laneValue(rows, 8 * i + line) + 2 * element, 2);
      return (uint32_t)bits;
    };
    r[i] = turned ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
  }
}
#endif

// Four 8 x 8 matrices of 16-bit elements: lane 8 i + j points at row j of matrix i (16 bytes, at a multiple of 16).
// r[i] holds matrix i as c does above: lane (g, t) has (g, 2t) and (g, 2t + 1).
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
#else
  loadMatricesHere<4, false>(r, row);
#endif
}
// The same, each matrix transposed: lane (g, t) has (2t, g) and (2t + 1, g).
__device__ __forceinline__ void loadMatricesTransposed(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
#else
  loadMatricesHere<4, true>(r, row);
#endif
}
// Two matrices; lanes 0 to 15 point at their rows.
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[2], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(sharedAddress(row))
               : "memory");
#else
  loadMatricesHere<2, false>(r, row);
#endif
}
__device__ __forceinline__ void loadMatricesTransposed(uint32_t (&r)[2], const void* row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(sharedAddress(row))
               : "memory");
#else
  loadMatricesHere<2, true>(r, row);
#endif
}

// c += a @ b. T: bf16 or f16.
template <class T>
__device__ __forceinline__ void multiplyAdd(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
  if constexpr (DtypeOf<T>::value == Dtype::bfloat16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  struct Held {
    uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  const Held* all = emulator::shown(mine, "mma");
  const int g = emulator::current->lane / 4, t = emulator::current->lane % 4;
  auto value = [](uint32_t word, int half) {
    T x;
    x.bits = (uint16_t)(word >> 16 * half);
    return (float)x;
  };
  float rows[2][16], columns[2][16];  // of a: g and g + 8; of b: 2t and 2t + 1
  for (int q = 0; q < 4; q++) {       // the lane that holds elements 2q, 2q + 1, 2q + 8 and 2q + 9
    const Held ofA = emulator::laneValue(all, 4 * g + q);
    for (int half = 0; half < 2; half++)
      for (int i = 0; i < 4; i++) rows[i % 2][2 * q + half + 8 * (i / 2)] = value(ofA.a[i], half);
    for (int j = 0; j < 2; j++) {
      const Held ofB = emulator::laneValue(all, 4 * (2 * t + j) + q);
      for (int half = 0; half < 2; half++)
        for (int i = 0; i < 2; i++) columns[j][2 * q + half + 8 * i] = value(ofB.b[i], half);
    }
  }
  for (int i = 0; i < 4; i++) {
    float sum = 0;
    for (int k = 0; k < 16; k++) sum += rows[i / 2][k] * columns[i % 2][k];
    c[i] += sum;
  }
#endif
}

// Two neighbours as one register, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t packTwo(float low, float high) {
#ifdef __CUDA_ARCH__  // one instruction there
  uint32_t both;
  if constexpr (DtypeOf<T>::value == Dtype::bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&both, &pair, 4);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&both, &pair, 4);
  }
  return both;
#else
  return (uint32_t)T(low).bits | (uint32_t)T(high).bits << 16;
#endif
}
template <class T>
__device__ __forceinline__ void unpackTwo(uint32_t both, float& low, float& high) {
  T first, second;
  first.bits = (uint16_t)both, second.bits = (uint16_t)(both >> 16);
  low = (float)first;
  high = DtypeOf<T>::value == Dtype::bfloat16 ? floatFromBits(both & 0xffff0000) : (float)second;
}

}  // namespace cuda
