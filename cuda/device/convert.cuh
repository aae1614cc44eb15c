#pragma once
// Elements of any dtype in the type that arithmetic on them is done in, and back.
#include <cuda_runtime.h>

#include <type_traits>

#include "core/dtype.h"

namespace cuda {

// float for 16- and 32-bit floats, double for float64, int64 for integers and bool.
template <class T>
using Wide =
    std::conditional_t<std::is_same_v<T, double>, double, std::conditional_t<std::is_integral_v<T>, int64_t, float>>;

template <class C, class T>
HD C loaded(T x) {
  if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>)
    return (C)(float)x;
  else
    return (C)x;
}
template <class T, class C>
HD T stored(C x) {
  if constexpr (std::is_same_v<T, bool>)
    return x != C(0);
  else if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>)
    return T((float)x);
  else
    return (T)x;
}

// What an element chosen by an index out of range is: NaN, or 0 where there is none.
template <class T>
HD T missing() {
  if constexpr (std::is_integral_v<T>)
    return T(0);
  else
    return stored<T>((Wide<T>)__builtin_nanf(""));
}

// withDtype, on the device.
template <class Fn>
__device__ __forceinline__ void withAny(Dtype t, Fn&& fn) {
  switch (t) {
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
void withBits(Dtype t, Fn&& fn) {
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

}  // namespace cuda
