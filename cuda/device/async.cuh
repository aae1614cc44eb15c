#pragma once
// Copies from device to shared memory that the thread does not wait for (cp.async, from sm_80 on).
#include <cuda_runtime.h>

#include <cstdint>

#ifndef __CUDACC__
#include <cstring>
#include <string>
#endif

namespace cuda {

// The address in shared memory, as PTX takes it.
__device__ __forceinline__ uint32_t sharedAddress(const void* p) {
#ifdef __CUDACC__
  return (uint32_t)__cvta_generic_to_shared(p);
#else
  return emulator::sharedOffset(p);
#endif
}

// `bytes` (4, 8 or 16) of shared memory get the first `taken` bytes at `from`, then zeros; both addresses are multiples
// of `bytes`. With taken = 0 nothing is read. The copy has happened once its group was waited for.
template <int bytes>
__device__ __forceinline__ void copyAsync(void* to, const void* from, int taken = bytes) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
#ifdef __CUDACC__
  if constexpr (bytes == 16)  // past the L1 cache: a tile is read once a block
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(sharedAddress(to)), "l"(from),
                 "r"(taken)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(sharedAddress(to)), "l"(from), "n"(bytes),
                 "r"(taken)
                 : "memory");
#else
  if ((uintptr_t)to % bytes || (taken && (uintptr_t)from % bytes) || taken < 0 || taken > bytes)
    emulator::fail("copyAsync of " + std::to_string(bytes) + " bytes: an address is not a multiple of that, or " +
                   std::to_string(taken) + " of them are to be read");
  emulator::issueCopy([=] {
    std::memset(to, 0, bytes);
    if (taken) std::memcpy(to, from, taken);
  });
#endif
}

// Closes this thread's group of copies.
__device__ __forceinline__ void commitCopies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::commitCopies();
#endif
}

// Waits until at most so many of this thread's groups are under way. What other threads copied is there after the next
// barrier.
template <int mayRemain>
__device__ __forceinline__ void waitCopies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(mayRemain) : "memory");
#else
  emulator::waitCopies(mayRemain);
#endif
}

}  // namespace cuda
