#pragma once
// Index tensors of any integer type, checked once before the parallel part of a kernel.
#include <memory>

#include "core/view.h"

namespace cpu::ISA {

struct Indices {
  std::unique_ptr<int32_t[]> at;  // -1 where ignored, -2 where out of range
  int64_t count = 0;              // valid ones
  int64_t bad = -1, value = 0;    // the first one out of range
};

constexpr int64_t noneIgnored = INT64_MIN;

// The indices of `ids`, each of which should lie in [0, limit) or equal `ignore`.
inline Indices checkedIndices(const View& ids, int64_t limit, int64_t ignore = noneIgnored) {
  Indices out;
  int64_t n = ids.size();
  out.at.reset(new int32_t[n ? n : 1]);
  auto read = [&](auto tag) {
    auto* from = ids.as<typename decltype(tag)::type>();
    for (int64_t i = 0; i < n; i++) {
      int64_t id = (int64_t)from[i];
      if (id == ignore) {
        out.at[i] = -1;
      } else if (id >= 0 && id < limit) {
        out.at[i] = (int32_t)id;
        out.count++;
      } else {
        out.at[i] = -2;
        if (out.bad < 0) out.bad = i, out.value = id;
      }
    }
  };
  switch (ids.dtype) {
    case Dtype::int64:
      read(Tag<int64_t>{});
      break;
    case Dtype::uint8:
      read(Tag<uint8_t>{});
      break;
    default:
      read(Tag<int32_t>{});
  }
  return out;
}

}  // namespace cpu::ISA
