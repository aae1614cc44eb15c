#pragma once
// Vectors of the instruction set that this file is compiled for: loads, stores, parts of a vector, streaming stores.
#include <immintrin.h>

#include <cstring>

#include "core/dtype.h"

namespace cpu::ISA {

#ifdef __AVX512F__
constexpr int vectorBytes = 64;
#else
constexpr int vectorBytes = 32;
#endif
typedef float FloatVector __attribute__((vector_size(vectorBytes)));
typedef float HalfFloatVector __attribute__((vector_size(vectorBytes / 2)));
typedef double DoubleVector __attribute__((vector_size(vectorBytes)));

template <class C>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = FloatVector;
};
template <>
struct VectorOf<double> {
  using type = DoubleVector;
};
template <class C>
using Vector = typename VectorOf<C>::type;
template <class C>
constexpr int lanes = vectorBytes / sizeof(C);

template <class C>
HD Vector<C> loadVector(const C* from) {
  Vector<C> v;
  memcpy(&v, from, sizeof v);
  return v;
}
template <class C>
HD void storeVector(C* to, Vector<C> v) {
  memcpy(to, &v, sizeof v);
}

// n < lanes elements; the rest of the vector is zero.
#ifdef __AVX512F__
HD FloatVector loadPart(const float* from, int n) { return (FloatVector)_mm512_maskz_loadu_ps((1u << n) - 1, from); }
HD DoubleVector loadPart(const double* from, int n) { return (DoubleVector)_mm512_maskz_loadu_pd((1u << n) - 1, from); }
HD void storePart(float* to, int n, FloatVector v) { _mm512_mask_storeu_ps(to, (1u << n) - 1, (__m512)v); }
HD void storePart(double* to, int n, DoubleVector v) { _mm512_mask_storeu_pd(to, (1u << n) - 1, (__m512d)v); }
// `to` is aligned to vectorBytes. Goes round the caches: fence() before another thread may look.
HD void streamVector(float* to, FloatVector v) { _mm512_stream_ps(to, (__m512)v); }
HD void streamVector(double* to, DoubleVector v) { _mm512_stream_pd(to, (__m512d)v); }
#else
HD __m256i firstLanes(float, int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
HD __m256i firstLanes(double, int n) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
}
HD FloatVector loadPart(const float* from, int n) {
  return (FloatVector)_mm256_maskload_ps(from, firstLanes(float(), n));
}
HD DoubleVector loadPart(const double* from, int n) {
  return (DoubleVector)_mm256_maskload_pd(from, firstLanes(double(), n));
}
HD void storePart(float* to, int n, FloatVector v) { _mm256_maskstore_ps(to, firstLanes(float(), n), (__m256)v); }
HD void storePart(double* to, int n, DoubleVector v) { _mm256_maskstore_pd(to, firstLanes(double(), n), (__m256d)v); }
HD void streamVector(float* to, FloatVector v) { _mm256_stream_ps(to, (__m256)v); }
HD void streamVector(double* to, DoubleVector v) { _mm256_stream_pd(to, (__m256d)v); }
#endif
HD void fence() { _mm_sfence(); }

// memcpy that goes round the caches.
inline void streamBytes(void* to, const void* from, size_t bytes) {
  char* out = (char*)to;
  const char* in = (const char*)from;
  size_t head = -(uintptr_t)out % vectorBytes;
  if (head > bytes) head = bytes;
  memcpy(out, in, head);
  for (out += head, in += head, bytes -= head; bytes >= vectorBytes;
       out += vectorBytes, in += vectorBytes, bytes -= vectorBytes)
    streamVector((float*)out, loadVector((const float*)in));
  memcpy(out, in, bytes);
}

// Lane sums in double, so that a long sum of floats loses nothing after each block.
HD DoubleVector widened(DoubleVector v) { return v; }
HD DoubleVector widened(FloatVector v) {
  HalfFloatVector half[2];
  memcpy(half, &v, sizeof v);
  return __builtin_convertvector(half[0], DoubleVector) + __builtin_convertvector(half[1], DoubleVector);
}
HD double sumOf(DoubleVector v) {
  double a[vectorBytes / 8];
  memcpy(a, &v, sizeof v);
  for (int width = vectorBytes / 16; width; width /= 2)
    for (int i = 0; i < width; i++) a[i] += a[i + width];
  return a[0];
}

// Walks n elements of `out` a vector at a time: full(at) for whole vectors, part(at, count) for what is left over. With
// streaming, out + at is aligned in every full(at).
template <class C, class Full, class Part>
HD void sweep(const C* out, int64_t n, bool aligned, Full full, Part part) {
  int64_t i = 0;
  if (aligned) {
    int64_t head = (int64_t)(-(uintptr_t)out % vectorBytes / sizeof(C));
    if (head > n) head = n;
    if (head) part(0, (int)head);
    i = head;
  }
  for (; i + lanes<C> <= n; i += lanes<C>) full(i);
  if (i < n) part(i, (int)(n - i));
}

}  // namespace cpu::ISA
