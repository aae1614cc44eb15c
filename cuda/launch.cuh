#pragma once
// The only place where a kernel is launched, so that no launch goes unchecked.
#include <cuda_runtime.h>

#include <map>
#include <tuple>

#include "stream.h"

namespace cuda {

struct Grid {
  dim3 blocks;             // empty: nothing is launched, and that is no error
  unsigned threads = 256;  // of a block, in one dimension
  size_t shared = 0;       // bytes of shared memory: sizeof of what the kernel calls sharedMemory<T>() for
  unsigned cluster = 1;    // neighbours along x that make a cluster (sm_90)
};

// Blocks for n items, so many a block.
inline unsigned blocksFor(int64_t n, int64_t each) { return (unsigned)((n + each - 1) / each); }

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), const Grid& grid, Args... args) {
  if (!grid.blocks.x || !grid.blocks.y || !grid.blocks.z) return;
  if (grid.shared > 48 << 10)  // more than that has to be asked for
    checkCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)grid.shared), name);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = grid.cluster;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = dim3(grid.threads);
  config.dynamicSmemBytes = grid.shared;
  config.stream = stream();
  config.attrs = &cluster;
  config.numAttrs = grid.cluster > 1 ? 1 : 0;
  checkCuda(cudaLaunchKernelEx(&config, kernel, Params(args)...), name);
  launched(name);
}

// Blocks of a kernel that one processor can hold at a time.
template <class... Params>
int residentBlocks(void (*kernel)(Params...), unsigned threads, size_t shared) {
  thread_local std::map<std::tuple<const void*, unsigned, size_t>, int> known;
  int& blocks = known[{(const void*)kernel, threads, shared}];
  if (!blocks) {
    checkCuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, (int)threads, shared), "occupancy");
    blocks = blocks < 1 ? 1 : blocks;
  }
  return blocks;
}

}  // namespace cuda
