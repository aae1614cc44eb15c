#pragma once
// Copies of tiles between tensors in global memory and shared memory, made by the copy engine (TMA, sm_90). In shared
// memory a tile is rows of 128 bytes, whose 16-byte units change places by `swizzle128`.
#include <cuda_runtime.h>
#ifdef __CUDACC__
#include <cuda.h>
#endif

#include "core/check.h"
#include "core/dtype.h"
#include "device/barrier.cuh"

namespace cuda {

#ifdef __CUDACC__
using TensorMap = CUtensorMap;
#else
using TensorMap = emulator::TensorMap;
#endif

// Where the byte at this offset of a tile lies; the tile starts at a multiple of 1024.
__device__ __forceinline__ constexpr unsigned swizzle128(unsigned offset) { return offset ^ (offset >> 3 & 0x70); }

// A tensor of three axes, the first of adjacent elements, and the box that is copied at once. Where the box reaches
// beside the tensor, zeros are read and nothing is written.
struct TileSource {
  const void* data;
  Dtype dtype;
  int64_t length[3];
  int64_t stride[3];  // in elements; the first is 1, that of an axis of one element means nothing
  int box[3];

  int64_t bytes(int axis) const {
    if (length[axis] > 1) return stride[axis] * dtypeSize(dtype);
    return axis == 1 ? (length[0] * dtypeSize(dtype) + 15) / 16 * 16 : bytes(1) * length[1];
  }
  // Whether the copy engine can.
  bool fits() const {
    if ((uintptr_t)data % 16) return false;
    for (int i = 0; i < 3; i++) {
      if (length[i] < 1 || length[i] > 1ll << 31) return false;
      if (i && (bytes(i) % 16 || bytes(i) < 16 || bytes(i) >= 1ll << 40)) return false;
    }
    return true;
  }
};

inline TensorMap tensorMap(const TileSource& s) {
  TensorMap map;
  const uint64_t length[3] = {(uint64_t)s.length[0], (uint64_t)s.length[1], (uint64_t)s.length[2]};
  const uint64_t stride[2] = {(uint64_t)s.bytes(1), (uint64_t)s.bytes(2)};
  const unsigned box[3] = {(unsigned)s.box[0], (unsigned)s.box[1], (unsigned)s.box[2]};
#ifdef __CUDACC__
  // From the driver that the runtime found: nothing links to libcuda.
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    if (found != cudaDriverEntryPointSuccess) entry = nullptr;
    return (decltype(&cuTensorMapEncodeTiled))entry;
  }();
  check(encode, "cuda: the driver has no cuTensorMapEncodeTiled");
  const CUtensorMapDataType type = s.dtype == Dtype::bfloat16  ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                   : s.dtype == Dtype::float16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const unsigned each[3] = {1, 1, 1};
  const CUresult result =
      encode(&map, type, 3, const_cast<void*>(s.data), (const cuuint64_t*)length, (const cuuint64_t*)stride, box, each,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  const bool fine = result == CUDA_SUCCESS;
#else
  const bool fine = emulator::encodeTensorMap(map, const_cast<void*>(s.data), dtypeSize(s.dtype), length, stride, box);
#endif
  check(fine, "cuda: the driver takes no tensor map of ", s.length[0], " by ", s.length[1], " by ", s.length[2]);
  return map;
}

__device__ __forceinline__ void prefetch([[maybe_unused]] const TensorMap& map) {
#if defined(__CUDACC__) && defined(HAS_SM90)
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

// The box that begins at element (x, y, z), which may lie outside. Its bytes arrive at the barrier.
__device__ __forceinline__ void loadTile(void* to, const TensorMap& map, int x, int y, int z, PhaseBarrier& barrier) {
#ifndef __CUDACC__
  const int at[3] = {x, y, z};
  emulator::loadTile(to, map, at, &barrier);
#elif defined(HAS_SM90)
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(sharedAddress(to)),
      "l"(&map), "r"(sharedAddress(&barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
#else
  __trap();
#endif
}

// What the tile's threads wrote needs fenceProxyAsync by each, then a barrier; then one thread stores, commits, and is
// the one that waits.
__device__ __forceinline__ void storeTile(const TensorMap& map, int x, int y, int z, const void* from) {
#ifndef __CUDACC__
  const int at[3] = {x, y, z};
  emulator::storeTile(map, at, from, false);
#elif defined(HAS_SM90)
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(sharedAddress(from)), "r"(x), "r"(y), "r"(z)
               : "memory");
#else
  __trap();
#endif
}
// Adds to the float32 elements that are there.
__device__ __forceinline__ void addTile(const TensorMap& map, int x, int y, int z, const void* from) {
#ifndef __CUDACC__
  const int at[3] = {x, y, z};
  emulator::storeTile(map, at, from, true);
#elif defined(HAS_SM90)
  asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
               "r"(sharedAddress(from)), "r"(x), "r"(y), "r"(z)
               : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void commitStores() {
#ifndef __CUDACC__
  emulator::commitBulk();
#elif defined(HAS_SM90)
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  __trap();
#endif
}
// Until all but this many of the thread's groups have read their shared memory.
template <int mayRemain>
__device__ __forceinline__ void waitStoresRead() {
#ifndef __CUDACC__
  emulator::waitBulk(mayRemain);
#elif defined(HAS_SM90)
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(mayRemain) : "memory");
#else
  __trap();
#endif
}

}  // namespace cuda
