#pragma once
// Rotary position embedding, rotate-half as Hugging Face's Llama: element i of a row turns with element i + D/2.
#include "math/transcendental.h"

namespace math {

// The angle of pair i of D/2 at a position.
HD double ropeAngle(double theta, int64_t position, int64_t i, int64_t d) {
  return (double)position * pow(theta, -2.0 * (double)i / (double)d);
}

// (a, b) turned by the angle with this cosine and sine.
template <class T>
HD T ropeFirst(T a, T b, T cosine, T sine) {
  return a * cosine - b * sine;
}
template <class T>
HD T ropeSecond(T a, T b, T cosine, T sine) {
  return b * cosine + a * sine;
}

}  // namespace math
