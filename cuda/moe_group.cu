// groupByExpert: a stable counting sort of the assignments by expert. Counts stay on the device, and nothing depends
// on which block is first.
#include <algorithm>

#include "core/check.h"
#include "device/failure.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace cuda {
namespace {

// Assignments of a block: `rounds` times one a thread.
constexpr int threads = 256, rounds = 4, chunk = threads * rounds;

// An expert that is out of range counts as the first one.
__device__ __forceinline__ int expertOf(const int32_t* experts, int i, int count) {
  const int e = experts[i];
  return e >= 0 && e < count ? e : 0;
}

// One block a chunk: how many of its assignments each expert got. counts (experts, blocks).
__global__ void __launch_bounds__(threads)
    countKernel(const int32_t* experts, int n, int count, int* counts, Failure failure) {
  int* mine = sharedArray<int>();
  for (int e = threadIdx.x; e < count; e += threads) mine[e] = 0;
  __syncthreads();
  for (int j = 0; j < rounds; j++) {
    const int i = blockIdx.x * chunk + j * threads + threadIdx.x;
    if (i >= n) break;
    if (experts[i] < 0 || experts[i] >= count) report(failure, i, experts[i], count);
    atomicAdd(&mine[expertOf(experts, i, count)], 1);  // whole numbers: their order does not matter
  }
  __syncthreads();
  for (int e = threadIdx.x; e < count; e += threads) counts[(int64_t)e * gridDim.x + blockIdx.x] = mine[e];
}

// The lanes' sums from lane 0 to this one.
__device__ __forceinline__ int inclusive(int v) {
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int below = __shfl_up_sync(~0u, v, by);
    if (lane() >= by) v += below;
  }
  return v;
}

// One block: counts become where each block begins within its expert, and offsets where each expert begins.
__global__ void offsetsKernel(int* counts, int blocks, int count, int32_t* offsets) {
  for (int e = warp(); e < count; e += warps()) {
    int before = 0;
    for (int from = 0; from < blocks; from += 32) {
      const int b = from + lane();
      const int v = b < blocks ? counts[(int64_t)e * blocks + b] : 0;
      const int upTo = inclusive(v);
      if (b < blocks) counts[(int64_t)e * blocks + b] = before + upTo - v;
      before += __shfl_sync(~0u, upTo, 31);
    }
    if (lane() == 0) offsets[e + 1] = before;
  }
  __syncthreads();
  if (warp() > 0) return;
  if (lane() == 0) offsets[0] = 0;
  int before = 0;
  for (int from = 0; from < count; from += 32) {
    const int e = from + lane();
    const int upTo = inclusive(e < count ? offsets[e + 1] : 0);
    if (e < count) offsets[e + 1] = before + upTo;
    before += __shfl_sync(~0u, upTo, 31);
  }
}

// One block a chunk, `most` assignments at a time: each goes behind those before it of the same expert.
__global__ void __launch_bounds__(threads) placeKernel(const int32_t* experts, int n, int count, const int* begins,
                                                       int blocks, const int32_t* offsets, int32_t* order) {
  int* next = sharedArray<int>();  // (experts): where the next of each goes
  int* here = next + count;        // (warps, experts): of this round, then where each warp's go
  for (int e = threadIdx.x; e < count; e += blockDim.x) next[e] = offsets[e] + begins[(int64_t)e * blocks + blockIdx.x];
  const int end = min(n, (int)(blockIdx.x + 1) * chunk);
  for (int from = blockIdx.x * chunk; from < end; from += blockDim.x) {
    for (int i = threadIdx.x; i < warps() * count; i += blockDim.x) here[i] = 0;
    __syncthreads();
    const int i = from + threadIdx.x;
    const bool valid = i < end;
    const int e = valid ? expertOf(experts, i, count) : 0;
    // The lanes with the same expert.
    unsigned same = __ballot_sync(~0u, valid);
    for (int bit = 1; bit < count; bit *= 2) {
      const unsigned set = __ballot_sync(~0u, (e & bit) != 0);
      same &= e & bit ? set : ~set;
    }
    const int rank = __popc(same & ((1u << lane()) - 1));
    if (valid && rank == 0) here[warp() * count + e] = __popc(same);
    __syncthreads();
    for (int f = threadIdx.x; f < count; f += blockDim.x) {
      int at = next[f];
      for (int w = 0; w < warps(); w++) {
        const int of = here[w * count + f];
        here[w * count + f] = at;
        at += of;
      }
      next[f] = at;
    }
    __syncthreads();
    if (valid) order[here[warp() * count + e] + rank] = i;
    __syncthreads();
  }
}

}  // namespace

void groupByExpert(View experts, View order, View offsets) {
  const int n = (int)experts.size(), count = (int)offsets.size() - 1;
  const unsigned blocks = blocksFor(n, chunk);
  const int room = (int)(device().sharedBytes / sizeof(int)) / count - 1;  // warps whose counts fit
  check(room >= 1, "groupByExpert: ", count, " experts, but the shared memory of the device has room for ",
        device().sharedBytes / (2 * sizeof(int)));
  const int warps = std::min(room, threads / 32);
  Scratch counts((size_t)count * blocks * sizeof(int));
  launch("groupByExpert", countKernel, {dim3(blocks), threads, count * sizeof(int)}, experts.as<int32_t>(), n, count,
         counts.as<int>(), failure(sentence::expert, "groupByExpert"));
  launch("groupByExpert", offsetsKernel, {dim3(1), 1024}, counts.as<int>(), (int)blocks, count, offsets.as<int32_t>());
  launch("groupByExpert", placeKernel, {dim3(blocks), (unsigned)warps * 32, (warps + 1) * count * sizeof(int)},
         experts.as<int32_t>(), n, count, counts.as<int>(), (int)blocks, offsets.as<int32_t>(), order.as<int32_t>());
}

}  // namespace cuda
