#pragma once
// Neighbouring elements that are loaded and stored together, up to 16 bytes.
#include <cuda_runtime.h>

#include "core/dtype.h"

namespace cuda {

template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T at[n];
};

template <class T>
constexpr int perPack = 16 / (int)sizeof(T);

// The address must be a multiple of the pack's size.
template <int n, class T>
__device__ __forceinline__ Pack<T, n> loadPack(const T* from) {
  return *reinterpret_cast<const Pack<T, n>*>(from);
}
template <int n, class T>
__device__ __forceinline__ void storePack(T* to, const Pack<T, n>& pack) {
  *reinterpret_cast<Pack<T, n>*>(to) = pack;
}

// Whether packs of n may be used for a row that starts here.
template <class T>
HD bool aligned(const T* p, int n) {
  return (uintptr_t)p % (sizeof(T) * n) == 0;
}

}  // namespace cuda
