#pragma once
// Runs of 16-bit floats to float and back, a vector at a time.
#include "cpu/vector.h"  // maskz forms below: GCC 12 warns of the plain ones' unset operand

namespace cpu::ISA {

// `count` elements of bf16 or f16 to float.
template <class T>
inline void widen(const T* __restrict from, int64_t count, float* __restrict to) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, f16>)
    for (; i + lanes<float> <= count; i += lanes<float>) {
#ifdef __AVX512F__
      _mm512_storeu_ps(to + i, _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)(from + i))));
#else
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#endif
    }
  for (; i < count; i++) to[i] = (float)from[i];
}

// ... and back, to nearest, ties to even.
template <class T>
inline void narrow(const float* __restrict from, int64_t count, T* __restrict to) {
  int64_t i = 0;
  if constexpr (std::is_same_v<T, f16>)
    for (; i + lanes<float> <= count; i += lanes<float>) {
#ifdef __AVX512F__
      _mm256_storeu_si256((__m256i*)(to + i),
                          _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#else
      _mm_storeu_si128((__m128i*)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    }
  for (; i < count; i++) to[i] = T(from[i]);
}

}  // namespace cpu::ISA
