#pragma once
// The block's shared memory, seen as one struct: `auto& s = sharedMemory<Storage>();`, launched with sizeof(Storage)
// bytes. There is no other shared memory, so a test can poison it and watch its edges.
#include <cuda_runtime.h>

namespace cuda {

template <class T>
__device__ inline T& sharedMemory() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) unsigned char bytes[];
  return *reinterpret_cast<T*>(bytes);
#else
  if (sizeof(T) > emulator::current->block->sharedBytes) emulator::fail("the launch asks for too little shared memory");
  return *reinterpret_cast<T*>(emulator::current->block->shared);
#endif
}

}  // namespace cuda
