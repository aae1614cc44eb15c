#pragma once
// Index tensors of any integer type.
#include <cuda_runtime.h>

#include "core/view.h"

namespace cuda {

__device__ __forceinline__ int64_t indexAt(const void* ids, Dtype dtype, int64_t i) {
  if (dtype == Dtype::int64) return ((const int64_t*)ids)[i];
  if (dtype == Dtype::uint8) return ((const uint8_t*)ids)[i];
  return ((const int32_t*)ids)[i];
}

}  // namespace cuda
