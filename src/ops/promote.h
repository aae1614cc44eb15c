#pragma once
// Which dtype two operands meet in: the wider of the same kind; a float beats an integer; bfloat16 with float16 is
// float32.
#include "core/dtype.h"

inline Dtype promote(Dtype a, Dtype b) {
  if (a == b) return a;
  if (isFloat(a) && isFloat(b)) return a == Dtype::float64 || b == Dtype::float64 ? Dtype::float64 : Dtype::float32;
  if (isFloat(a)) return a;
  if (isFloat(b)) return b;
  auto rank = [](Dtype t) { return t == Dtype::boolean ? 0 : t == Dtype::uint8 ? 1 : t == Dtype::int32 ? 2 : 3; };
  return rank(a) > rank(b) ? a : b;
}
