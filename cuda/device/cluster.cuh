#pragma once
// Clusters (sm_90 and later): neighbouring blocks that run at the same time and reach into each other's shared memory.
// Elsewhere a block is a cluster of its own.
#include <cuda_runtime.h>

namespace cuda {

// The number of this block in its cluster.
__device__ __forceinline__ unsigned clusterRank() {
#if !defined(__CUDACC__)
  return (unsigned)emulator::current->block->rank;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}

// Blocks of the cluster.
__device__ __forceinline__ unsigned clusterSize() {
#if !defined(__CUDACC__)
  return (unsigned)emulator::current->block->cluster->blocks.size();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  return 1;
#endif
}

// Waits for every thread of the cluster; what was written to shared memory before it, anywhere in the cluster, can be
// read after it. One is also due before the first access to another block's memory, and after the last.
__device__ __forceinline__ void clusterSync() {
#if !defined(__CUDACC__)
  auto* cluster = emulator::current->block->cluster;
  int threads = (int)cluster->blocks.size() * emulator::current->block->threads;
  emulator::arriveAndWait(cluster->barrier, threads, "clusterSync");
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

// Where the block of that number keeps what `mine` points to in this block's shared memory.
template <class T>
__device__ __forceinline__ T* sharedOf(T* mine, unsigned rank) {
#if !defined(__CUDACC__)
  auto* block = emulator::current->block;
  return reinterpret_cast<T*>(block->cluster->blocks[rank].shared + ((unsigned char*)mine - block->shared));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  T* theirs;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
  return theirs;
#else
  return mine;
#endif
}

}  // namespace cuda
