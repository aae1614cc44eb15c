#pragma once
// Joins the values of a warp's lanes, or of a block's threads, in an order that never changes.
#include <cuda_runtime.h>

#include "math/hd.h"

namespace cuda {

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int warp() { return threadIdx.x / 32; }
__device__ inline int warps() { return (blockDim.x + 31) / 32; }

// v of the lane whose number differs in these bits; T of any size, a multiple of 4 bytes.
template <class T>
__device__ __forceinline__ T shuffleXor(T v, int bits) {
  static_assert(sizeof(T) % 4 == 0);
  constexpr int words = sizeof(T) / 4;
  uint32_t w[words];
  memcpy(w, &v, sizeof(T));
#pragma unroll
  for (int i = 0; i < words; i++) w[i] = __shfl_xor_sync(~0u, w[i], bits);
  memcpy(&v, w, sizeof(T));
  return v;
}

// join(a, b) must not mind the order of its operands. All lanes get the same bits. lanes: 2, 4, 8, 16 or 32 neighbours.
template <int lanes = 32, class T, class Join>
__device__ __forceinline__ T warpReduce(T v, Join join) {
#pragma unroll
  for (int bits = lanes / 2; bits; bits /= 2) v = join(v, shuffleXor(v, bits));
  return v;
}
template <int lanes = 32, class T>
__device__ __forceinline__ T warpSum(T v) {
  return warpReduce<lanes>(v, [](T a, T b) { return a + b; });
}

// What blockReduce needs of the shared memory. One reduction may follow another with the same storage.
template <class T>
struct BlockReduce {
  T perWarp[32];
};

// Every thread of the block calls it (the block's size a multiple of 32), and every thread gets the result.
template <class T, class Join>
__device__ __forceinline__ T blockReduce(T v, BlockReduce<T>& shared, Join join) {
  v = warpReduce(v, join);
  if (lane() == 0) shared.perWarp[warp()] = v;
  __syncthreads();
  T all = shared.perWarp[0];
  for (int i = 1; i < warps(); i++) all = join(all, shared.perWarp[i]);
  __syncthreads();
  return all;
}
template <class T>
__device__ __forceinline__ T blockSum(T v, BlockReduce<T>& shared) {
  return blockReduce(v, shared, [](T a, T b) { return a + b; });
}

}  // namespace cuda
