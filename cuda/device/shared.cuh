#pragma once
// The block's shared memory, seen as one struct: `auto& s = sharedMemory<Storage>();`, launched with sizeof(Storage)
// bytes; or, where the launch alone knows how much, as an array: `int* counts = sharedArray<int>();`. There is no other
// shared memory, so a test can poison it and watch its edges.
#include <cuda_runtime.h>

#include <cstddef>

namespace cuda {

// bytes: what the launch has to give; 0: as it likes.
template <size_t bytes>
__device__ __forceinline__ unsigned char* sharedBytes() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) unsigned char dynamicShared[];
  // No instruction: ptxas cannot know what launches give, so this name in the PTX tells scripts/kernel-report.mjs.
  asm volatile("{ .reg .b32 sharedMemory%0; }" ::"n"(bytes));
  return dynamicShared;
#else
  if (bytes && bytes != emulator::current->block->sharedBytes)
    emulator::fail("the launch gives other shared memory than the kernel's struct takes");
  return emulator::current->block->shared;
#endif
}

template <class T>
__device__ __forceinline__ T& sharedMemory() {
  return *reinterpret_cast<T*>(sharedBytes<sizeof(T)>());
}
template <class T>
__device__ __forceinline__ T* sharedArray() {
  return reinterpret_cast<T*>(sharedBytes<0>());
}

}  // namespace cuda
