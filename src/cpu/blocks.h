#pragma once
// Elements of any dtype and stride, brought into a short contiguous run in the type that arithmetic is done in, and
// back. Operations are then compiled once per compute type (float, double, int64) and not once per dtype and stride.
#include "core/view.h"
#include "cpu/cache.h"
#include "cpu/convert.h"

namespace cpu::ISA {

constexpr int64_t blockLength = 512;

// By what its elements are read as (Wide).
template <class Fn>
HD void withBlockType(Dtype t, Fn&& fn) {
  if (t == Dtype::float64)
    fn(Tag<double>{});
  else if (isFloat(t))
    fn(Tag<float>{});
  else
    fn(Tag<int64_t>{});
}

// Out of line: compiled once a compute type, and called once a block.
template <class C>
__attribute__((noinline)) void gather(const View& x, int64_t at, int64_t step, int64_t n, C* block) {
  if constexpr (std::is_same_v<C, float>) {
    if (step == 1 && x.dtype == Dtype::bfloat16) return widen(x.as<bf16>() + at, n, block);
    if (step == 1 && x.dtype == Dtype::float16) return widen(x.as<f16>() + at, n, block);
  }
  withDtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* in = x.as<T>() + at;
    if (step == 1)
      for (int64_t i = 0; i < n; i++) block[i] = loaded<C>(in[i]);
    else
      for (int64_t i = 0; i < n; i++) block[i] = loaded<C>(in[i * step]);
  });
}
template <class C>
__attribute__((noinline)) void scatter(const View& y, int64_t at, int64_t step, int64_t n, const C* block) {
  if constexpr (std::is_same_v<C, float>) {
    if (step == 1 && y.dtype == Dtype::bfloat16) return narrow(block, n, y.as<bf16>() + at);
    if (step == 1 && y.dtype == Dtype::float16) return narrow(block, n, y.as<f16>() + at);
  }
  withDtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* out = y.as<T>() + at;
    if (step == 1)
      for (int64_t i = 0; i < n; i++) out[i] = stored<T>(block[i]);
    else
      for (int64_t i = 0; i < n; i++) out[i * step] = stored<T>(block[i]);
  });
}

// n <= blockLength elements of x from `at` on, `step` apart. Returns x's own memory where no change is needed.
template <class C>
const C* load(const View& x, int64_t at, int64_t step, int64_t n, C* block) {
  if (x.dtype == DtypeOf<C>::value && step == 1) return x.as<C>() + at;
  gather(x, at, step, n, block);
  return block;
}

// Whether y should be written round the caches, since it is larger than they are: store(..., true), then fence().
inline bool streams(const View& y) {
  return dtypeSize(y.dtype) >= 4 && (size_t)y.size() * dtypeSize(y.dtype) > streamingBytes() && y.contiguous();
}

// Where to compute n elements of y: y's own memory where store() would have nothing to change, else the block.
template <class C>
C* target(const View& y, int64_t at, int64_t step, C* block, bool streaming = false) {
  return y.dtype == DtypeOf<C>::value && step == 1 && !streaming ? y.as<C>() + at : block;
}
template <class C>
void store(const View& y, int64_t at, int64_t step, int64_t n, const C* block, bool streaming = false) {
  if (y.dtype == DtypeOf<C>::value && step == 1) {
    if (streaming) streamBytes(y.as<C>() + at, block, n * sizeof(C));
    return;
  }
  scatter(y, at, step, n, block);
}

}  // namespace cpu::ISA
