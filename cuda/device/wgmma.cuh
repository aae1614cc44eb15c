#pragma once
// The matrix product of a warpgroup (wgmma, sm_90a): d (64, N) += a (64, 16) @ b (16, N), of bf16 or f16 with float32
// sums. a and b lie in shared memory as tma.cuh puts them there, in either order:
// - rows of 64 elements along the depth (the usual one), or
// - turned: blocks of 64 elements along m or n, whose rows are the 64 elements at one depth.
#include <cuda_runtime.h>

#include <type_traits>

#include "core/dtype.h"
#include "device/barrier.cuh"

namespace cuda {

// The operand that starts at this tile, a multiple of 1024. blockBytes: from one block of 64 along m or n to the next,
// where it is turned.
__device__ __forceinline__ uint64_t operandAt(const void* tile, bool turned, unsigned blockBytes) {
  const uint64_t swizzle128B = 1, eightRows = 1024;
  const uint64_t leading = turned ? blockBytes : 16;
  return (uint64_t)(sharedAddress(tile) >> 4) | (leading >> 4) << 16 | (eightRows >> 4) << 32 | swizzle128B << 62;
}
// Added to a descriptor: the next 16 along the depth.
__device__ __forceinline__ constexpr uint64_t nextDepth(bool turned) { return (turned ? 16 * 128 : 16 * 2) >> 4; }

// The element of the (64, N) result that thread t of the warpgroup holds in d[i].
__device__ __forceinline__ constexpr int resultRow(int t, int i) { return t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8; }
__device__ __forceinline__ constexpr int resultCol(int t, int i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }

// Before the first product of a group, so that the registers are ready.
__device__ __forceinline__ void fenceProducts() {
#ifndef __CUDACC__
  emulator::fenceWgmma();
#elif defined(HAS_SM90A)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void commitProducts() {
#ifndef __CUDACC__
  emulator::commitWgmma();
#elif defined(HAS_SM90A)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}
// Until all but this many groups are done: they have read their operands, and their results are there.
template <int mayRemain>
__device__ __forceinline__ void waitProducts() {
#ifndef __CUDACC__
  emulator::waitWgmma(mayRemain);
#elif defined(HAS_SM90A)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(mayRemain) : "memory");
#else
  __trap();
#endif
}
// Keeps the compiler from moving uses of the results over a fence or a wait.
template <int n>
__device__ __forceinline__ void pinRegisters([[maybe_unused]] float (&d)[n]) {
#ifdef __CUDACC__
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}
// The same for registers that a product reads: until here they are its own.
template <int n>
__device__ __forceinline__ void pinRegisters([[maybe_unused]] uint32_t (&a)[n][4]) {
#ifdef __CUDACC__
#pragma unroll
  for (int i = 0; i < n * 4; i++) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
#endif
}

// Four 8 x 8 matrices of 16-bit elements into shared memory: lane 8 i + j points at row j of matrix i (16 bytes), and
// r[i] of lane 4 g + t holds elements 2t and 2t + 1 of its row g.
__device__ __forceinline__ void storeMatrices(void* row, const uint32_t (&r)[4]) {
#ifndef __CUDACC__
  struct Held {
    void* row;
    uint32_t r[4];
  } mine{row, {r[0], r[1], r[2], r[3]}};
  if (emulator::sharedOffset(row) % 16) emulator::fail("stmatrix: a row does not begin at a multiple of 16 bytes");
  const Held* all = emulator::shown(mine, "stmatrix");
  const int l = emulator::current->lane;
  for (int i = 0; i < 4; i++) std::memcpy((char*)emulator::laneValue(all, 8 * i + l / 4).row + l % 4 * 4, &r[i], 4);
#elif defined(HAS_SM90)
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(sharedAddress(row)), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#else
  __trap();
#endif
}

#if defined(__CUDACC__) && defined(HAS_SM90A)
// clang-format off
#define WGMMA_D32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_D64 WGMMA_D32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_D96 WGMMA_D64 ", " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_D128 WGMMA_D96 ", " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_F32(i) WGMMA_F4(i), WGMMA_F4(i + 4), WGMMA_F4(i + 8), WGMMA_F4(i + 12), \
  WGMMA_F4(i + 16), WGMMA_F4(i + 20), WGMMA_F4(i + 24), WGMMA_F4(i + 28)
#define WGMMA(N, TYPE, LIST, A, B, KEEP, TURN_A, TURN_B, ...) \
  asm volatile( \
      "{\n" \
      ".reg .pred p;\n" \
      "setp.ne.b32 p, %" KEEP ", 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" LIST "}, %" A ", %" B \
      ", p, 1, 1, %" TURN_A ", %" TURN_B ";\n" \
      "}" \
      : __VA_ARGS__ \
      : "l"(a), "l"(b), "r"((int)accumulate), "n"((int)turnedA), "n"((int)turnedB))
// a in registers
#define WGMMA_HELD(N, TYPE, LIST, A0, A1, A2, A3, B, KEEP, TURN_B, ...) \
  asm volatile( \
      "{\n" \
      ".reg .pred p;\n" \
      "setp.ne.b32 p, %" KEEP ", 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" LIST "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B \
      ", p, 1, 1, %" TURN_B ";\n" \
      "}" \
      : __VA_ARGS__ \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate), "n"((int)turnedB))
#define WGMMA_TYPES(N, LIST, A, B, KEEP, TURN_A, TURN_B, ...) \
  if constexpr (std::is_same_v<T, bf16>) \
    WGMMA(N, "bf16", LIST, A, B, KEEP, TURN_A, TURN_B, __VA_ARGS__); \
  else \
    WGMMA(N, "f16", LIST, A, B, KEEP, TURN_A, TURN_B, __VA_ARGS__)
// clang-format on
#endif

#ifndef __CUDACC__
template <class T>
float widenedHere(uint16_t bits) {
  T x;
  x.bits = bits;
  return (float)x;
}
#endif

// One step of 16 along the depth. accumulate false: d is set, what it held does not matter. d may not be touched until
// the product has been waited for.
template <class T, bool turnedA, bool turnedB, int half>
__device__ __forceinline__ void addProduct(float (&d)[half], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(half == 32 || half == 64 || half == 96 || half == 128, "n is 64, 128, 192 or 256");
#ifndef __CUDACC__
  emulator::issueWgmma({d, a, b, accumulate, turnedA, turnedB, half * 2, widenedHere<T>});
#elif defined(HAS_SM90A)
  if constexpr (half == 32) {
    WGMMA_TYPES("64", WGMMA_D32, "32", "33", "34", "35", "36", WGMMA_F32(0));
  } else if constexpr (half == 64) {
    WGMMA_TYPES("128", WGMMA_D64, "64", "65", "66", "67", "68", WGMMA_F32(0), WGMMA_F32(32));
  } else if constexpr (half == 96) {
    WGMMA_TYPES("192", WGMMA_D96, "96", "97", "98", "99", "100", WGMMA_F32(0), WGMMA_F32(32), WGMMA_F32(64));
  } else {
    WGMMA_TYPES("256", WGMMA_D128, "128", "129", "130", "131", "132", WGMMA_F32(0), WGMMA_F32(32), WGMMA_F32(64),
                WGMMA_F32(96));
  }
#else
  __trap();
#endif
}

// The same with a in registers: each warp holds its 16 rows as `a` of device/mma.cuh. After they were written
// fenceProducts() has to come, and they may be written again once the product has been waited for.
template <class T, bool turnedB>
__device__ __forceinline__ void addProduct(float (&d)[128], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
#ifndef __CUDACC__
  emulator::issueWgmma({d, 0, b, accumulate, false, turnedB, 256, widenedHere<T>, a});
#elif defined(HAS_SM90A)
  if constexpr (std::is_same_v<T, bf16>)
    WGMMA_HELD("256", "bf16", WGMMA_D128, "128", "129", "130", "131", "132", "133", "134", WGMMA_F32(0), WGMMA_F32(32),
               WGMMA_F32(64), WGMMA_F32(96));
  else
    WGMMA_HELD("256", "f16", WGMMA_D128, "128", "129", "130", "131", "132", "133", "134", WGMMA_F32(0), WGMMA_F32(32),
               WGMMA_F32(64), WGMMA_F32(96));
#else
  __trap();
#endif
}

}  // namespace cuda
