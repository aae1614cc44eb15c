#include "guard.h"

#include "environment.h"
#include "launch.cuh"

namespace cuda {
namespace {

constexpr int pattern = 0xa5;
// at: bytes from the block's edge; limit: the block's bytes
constexpr const char* before = "{op}: byte {at} before a block of {limit} bytes was overwritten with {value}";
constexpr const char* behind = "{op}: byte {at} behind a block of {limit} bytes was overwritten with {value}";

// One warp; each lane looks at every 32nd byte.
__global__ void guardKernel(const unsigned char* data, size_t bytes, Failure before, Failure behind) {
  for (size_t i = threadIdx.x; i < guardBytes; i += 32) {
    if (data[bytes + i] != pattern) report(behind, (int64_t)i, data[bytes + i], (int64_t)bytes);
    const unsigned char* at = data - 1 - i;
    if (*at != pattern) report(before, (int64_t)i, *at, (int64_t)bytes);
  }
}

}  // namespace

bool guarding() {
  static const bool on = asked("POLYGRAD_GUARD");
  return on;
}

void guard(void* data, size_t bytes) {
  char* at = (char*)data;
  checkCuda(cudaMemsetAsync(at - guardBytes, pattern, guardBytes, stream()), "guard");
  checkCuda(cudaMemsetAsync(at, 0xff, bytes, stream()), "guard");
  checkCuda(cudaMemsetAsync(at + bytes, pattern, guardBytes, stream()), "guard");
}

void checkGuard(void* data, size_t bytes, const char* kernel) {
  const char* op = kernel ? kernel : "memory that no kernel was launched for";
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  config.stream = stream();
  // Not through launch(): this runs in destructors, which cannot throw. What is wrong then shows at the next wait.
  cudaLaunchKernelEx(&config, guardKernel, (const unsigned char*)data, bytes, failure(before, op), failure(behind, op));
}

}  // namespace cuda
