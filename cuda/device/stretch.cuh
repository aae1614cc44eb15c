#pragma once
// A stretch of neighbouring elements, starting anywhere, that a group of threads holds in registers: packs that begin
// at multiples of 16 bytes, of which the first may begin before the stretch and the last end behind it.
#include <initializer_list>

#include "device/pack.cuh"

namespace cuda {

template <class T>
using Elements = Pack<T, perPack<T>>;

template <class T, int V>
struct Packs {
  uint4 at[V];  // as they lie in memory: 16-bit floats take half the registers of their values

  __device__ __forceinline__ Elements<T> operator[](int i) const {
    Elements<T> pack;
    memcpy(&pack, &at[i], 16);
    return pack;
  }
  // Keeps the compiler from keeping the values that it made of the elements: they are to be made again.
  __device__ __forceinline__ void forget() {
#ifdef __CUDACC__
#pragma unroll
    for (int i = 0; i < V; i++) asm volatile("" : "+r"(at[i].x), "+r"(at[i].y), "+r"(at[i].z), "+r"(at[i].w));
#endif
  }
};

// Elements of the first pack before an element at p.
template <class T>
HD int shiftOf(const T* p) {
  return (int)((uintptr_t)p / sizeof(T) % perPack<T>);
}

// Whether those given (not null) begin alike.
template <class T>
bool alike(const T* a, std::initializer_list<const T*> others) {
  bool all = true;
  for (const T* p : others) all = all && (!p || shiftOf(p) == shiftOf(a));
  return all;
}

struct Stretch {
  int t, step;   // this thread, and how many there are: it has the packs t, t + step, ..
  int count;     // elements
  int shift;     // shiftOf the first one
  bool aligned;  // the same in all operands; otherwise (shift is 0 then) a pack is gathered element by element

  // Where this thread's pack i begins, from the first element on.
  template <class T>
  __device__ __forceinline__ int first(int i) const {
    int pack = t + i * step;
#ifdef __CUDACC__
    asm volatile("" : "+r"(pack));  // not to be computed ahead, and carried along by a loop over stretches
#endif
    return pack * perPack<T> - shift;
  }
  template <class T>
  __device__ __forceinline__ bool whole(int first) const {
    return first >= 0 && first + perPack<T> <= count;
  }
  __device__ __forceinline__ bool has(int i) const { return (unsigned)i < (unsigned)count; }
  // Whether any thread has something in its pack i.
  template <class T>
  __device__ __forceinline__ bool reaches(int i) const {
    return i * step * perPack<T> - shift < count;
  }
};

// Pack i of each thread; elements beside the stretch come as zero. `always`: the stretch is known to be aligned.
template <bool always, class T>
__device__ __forceinline__ uint4 loadOne(const T* p, const Stretch& s, int i) {
  constexpr int n = perPack<T>;
  const int first = s.first<T>(i);
  uint4 whole = make_uint4(0, 0, 0, 0);
  if (first >= s.count) return whole;
  const bool inside = s.whole<T>(first);
  if (always || s.aligned) {
    whole = *reinterpret_cast<const uint4*>(p + first);
    if (inside) return whole;
  }
  Elements<T> pack;
  memcpy(&pack, &whole, 16);
#pragma unroll
  for (int e = 0; e < n; e++) {
    if (!always && !s.aligned && s.has(first + e)) pack.at[e] = p[first + e];
    if (!s.has(first + e)) pack.at[e] = T(0.0f);
  }
  memcpy(&whole, &pack, 16);
  return whole;
}
// Packs `from` to `from + V`.
template <bool always, class T, int V>
__device__ __forceinline__ void loadPacks(const T* p, const Stretch& s, int from, Packs<T, V>& packs) {
#pragma unroll
  for (int i = 0; i < V; i++) packs.at[i] = loadOne<always>(p, s, from + i);
}

template <bool always, class T>
__device__ __forceinline__ void storeOne(T* p, const Stretch& s, int i, const Elements<T>& pack) {
  const int first = s.first<T>(i);
  if ((always || s.aligned) && s.whole<T>(first)) {
    uint4 whole;
    memcpy(&whole, &pack, 16);
    *reinterpret_cast<uint4*>(p + first) = whole;
  } else {
#pragma unroll
    for (int e = 0; e < perPack<T>; e++)
      if (s.has(first + e)) p[first + e] = pack.at[e];
  }
}

}  // namespace cuda
