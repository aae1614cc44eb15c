#pragma once
// The element types of a tensor, and how each is stored. Arithmetic on bf16 and f16 happens in float.
#include <cstdint>
#include <type_traits>
#include "math/hd.h"
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

// The order is the numbering that lib/tensor.ts uses.
enum class Dtype : int32_t { float32, float64, bfloat16, float16, int32, int64, uint8, boolean };

struct bf16 {
  uint16_t bits;
  bf16() = default;
  HD explicit bf16(float f) {
#ifdef __CUDA_ARCH__
    bits = __bfloat16_as_ushort(__float2bfloat16_rn(f));  // one instruction there
#else
    uint32_t u = bitsFromFloat(f);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // to nearest, ties to even
    bits = (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? (u >> 16) | 0x40 : rounded);
#endif
  }
  HD operator float() const { return floatFromBits((uint32_t)bits << 16); }
};

struct f16 {
  uint16_t bits;
  f16() = default;
  HD explicit f16(float f) {
#ifdef __CUDA_ARCH__
    bits = __half_as_ushort(__float2half_rn(f));
#else
    uint32_t u = bitsFromFloat(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    if (a >= 0x47800000) {  // too large, infinite or NaN
      bits = (uint16_t)(sign | (a > 0x7f800000 ? 0x7e00 : 0x7c00));
    } else if (a < 0x38800000) {  // subnormal: let the adder round at the right place
      bits = (uint16_t)(sign | (bitsFromFloat(floatFromBits(a) + 0.5f) - 0x3f000000));
    } else {
      bits = (uint16_t)(sign | ((a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13));
    }
#endif
  }
  HD operator float() const {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(bits));
#else
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, a = bits & 0x7fff;
    if (a >= 0x7c00) return floatFromBits(sign | 0x7f800000 | ((a & 0x3ff) << 13));
    if (a < 0x400) {
      float m = (float)a * 5.9604644775390625e-8f;  // 2^-24
      return floatFromBits(sign | bitsFromFloat(m));
    }
    return floatFromBits(sign | ((a << 13) + 0x38000000));
#endif
  }
};

constexpr int dtypeSize(Dtype t) {
  switch (t) {
    case Dtype::float64:
    case Dtype::int64:
      return 8;
    case Dtype::float32:
    case Dtype::int32:
      return 4;
    case Dtype::bfloat16:
    case Dtype::float16:
      return 2;
    default:
      return 1;
  }
}
constexpr const char* dtypeName(Dtype t) {
  constexpr const char* names[] = {"float32", "float64", "bfloat16", "float16", "int32", "int64", "uint8", "bool"};
  return names[(int)t];
}
constexpr bool isFloat(Dtype t) { return (int)t <= (int)Dtype::float16; }

// DtypeOf<float>::value is Dtype::float32.
template <Dtype t>
struct IsDtype {
  static constexpr Dtype value = t;
};
template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> : IsDtype<Dtype::float32> {};
template <>
struct DtypeOf<double> : IsDtype<Dtype::float64> {};
template <>
struct DtypeOf<bf16> : IsDtype<Dtype::bfloat16> {};
template <>
struct DtypeOf<f16> : IsDtype<Dtype::float16> {};
template <>
struct DtypeOf<int32_t> : IsDtype<Dtype::int32> {};
template <>
struct DtypeOf<int64_t> : IsDtype<Dtype::int64> {};
template <>
struct DtypeOf<uint8_t> : IsDtype<Dtype::uint8> {};
template <>
struct DtypeOf<bool> : IsDtype<Dtype::boolean> {};

template <class T>
constexpr bool isHalf = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

// The type that arithmetic on T is done in.
template <class T>
using Compute = std::conditional_t<isHalf<T>, float, T>;

template <class T>
struct Tag {
  using type = T;
};

// What an element of T is read as: float for 16- and 32-bit floats, double for float64, int64 for integers and bool.
template <class T>
using Wide = std::conditional_t<std::is_floating_point_v<Compute<T>>, Compute<T>, int64_t>;

template <class C, class T>
HD C loaded(T x) {
  if constexpr (isHalf<T>)
    return (C)(float)x;
  else
    return (C)x;
}
template <class T, class C>
HD T stored(C x) {
  if constexpr (std::is_same_v<T, bool>)
    return x != C(0);
  else if constexpr (isHalf<T>)
    return T((float)x);
  else
    return (T)x;
}

// What an element chosen by an index out of range is: NaN, or 0 where there is none.
template <class T>
HD T missing() {
  if constexpr (std::is_floating_point_v<Compute<T>>)
    return stored<T>((Compute<T>)__builtin_nanf(""));
  else
    return T(0);
}

// Calls fn(Tag<T>{}) with the C++ type of a dtype: withFloat(t, [&](auto tag) { using T = typename decltype(tag)::type;
// ... }). In kernels too; nvcc would warn of each fn that only the host can call.
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <class Fn>
HD void withFloat(Dtype t, Fn&& fn) {
  switch (t) {
    case Dtype::float32:
      return fn(Tag<float>{});
    case Dtype::float64:
      return fn(Tag<double>{});
    case Dtype::bfloat16:
      return fn(Tag<bf16>{});
    case Dtype::float16:
      return fn(Tag<f16>{});
    default:
      return;
  }
}
#ifdef __CUDACC__
#pragma nv_exec_check_disable
#endif
template <class Fn>
HD void withDtype(Dtype t, Fn&& fn) {
  switch (t) {  // flat, not by way of withFloat: ptxas spills in loops round the two
    case Dtype::float32:
      return fn(Tag<float>{});
    case Dtype::float64:
      return fn(Tag<double>{});
    case Dtype::bfloat16:
      return fn(Tag<bf16>{});
    case Dtype::float16:
      return fn(Tag<f16>{});
    case Dtype::int32:
      return fn(Tag<int32_t>{});
    case Dtype::int64:
      return fn(Tag<int64_t>{});
    case Dtype::uint8:
      return fn(Tag<uint8_t>{});
    case Dtype::boolean:
      return fn(Tag<bool>{});
  }
}

// Elements that are moved as they are: fn(Tag<an unsigned integer of the size>).
template <class Fn>
inline __attribute__((always_inline)) void withBits(Dtype t, Fn&& fn) {
  switch (dtypeSize(t)) {
    case 8:
      return fn(Tag<uint64_t>{});
    case 4:
      return fn(Tag<uint32_t>{});
    case 2:
      return fn(Tag<uint16_t>{});
    default:
      return fn(Tag<uint8_t>{});
  }
}
