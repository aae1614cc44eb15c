#pragma once
// exp, log, tanh, erf ... for float and double. The float forms of the first four are branch-free, so that a loop over
// them vectorises, and at most 1.5 units in the last place off (test/math/transcendental.test.ts); NaN, infinities,
// overflow and subnormal numbers come out right.
#include "math/hd.h"

namespace math {
HD double exp(double x) { return ::exp(x); }
HD double log(double x) { return ::log(x); }
HD double sqrt(double x) { return ::sqrt(x); }
HD double sin(double x) { return ::sin(x); }
HD double cos(double x) { return ::cos(x); }
HD double tanh(double x) { return ::tanh(x); }
HD double erf(double x) { return ::erf(x); }
HD double pow(double a, double b) { return ::pow(a, b); }

HD float sqrt(float x) { return ::sqrtf(x); }
// No network computes these three element by element: exactness for huge arguments is worth more than speed.
HD float sin(float x) { return ::sinf(x); }
HD float cos(float x) { return ::cosf(x); }
HD float pow(float a, float b) { return ::powf(a, b); }

HD int32_t bitsOf(float x) { return (int32_t)bitsFromFloat(x); }
HD float fromBits(int32_t bits) { return floatFromBits((uint32_t)bits); }
HD float withSignOf(float magnitude, float x) {
  return fromBits((bitsOf(magnitude) & 0x7fffffff) | (bitsOf(x) & (int32_t)0x80000000));
}

// exp(x) = 2^n exp(r), |r| <= log(2) / 2. The power goes on in two factors, so that a subnormal result is rounded once.
HD float exp(float x) {
  float a = x > 89.0f ? 89.0f : x;                      // beyond is infinity; a NaN stays
  a = a < -104.0f ? -104.0f : a;                        // beyond is zero
  float shifted = ::fmaf(a, 1.44269504f, 12582912.0f);  // 1.5 2^23: the sum's last bits are the nearest integer
  float n = shifted - 12582912.0f;
  float r = ::fmaf(n, -0.693145752f, a);  // log(2) in two parts, the first of 15 bits
  r = ::fmaf(n, -1.42860677e-6f, r);
  float p = 1.98756912e-4f;
  p = ::fmaf(p, r, 1.39819994e-3f);
  p = ::fmaf(p, r, 8.33345205e-3f);
  p = ::fmaf(p, r, 4.16657962e-2f);
  p = ::fmaf(p, r, 1.66666657e-1f);
  p = ::fmaf(p, r, 5.00000000e-1f);
  p = ::fmaf(p * r, r, r) + 1.0f;
  int32_t whole = bitsOf(shifted) - 0x4b400000;
  int32_t half = whole >> 1;
  return p * fromBits((half + 127) << 23) * fromBits((whole - half + 127) << 23);
}

// log(x) = e log(2) + log(1 + m), m in [-1/3, 1/3]
HD float log(float x) {
  bool tiny = x < 1.17549435e-38f;
  float a = tiny ? x * 8388608.0f : x;
  int32_t exponent = (bitsOf(a) - 0x3f2aaaab) & (int32_t)0xff800000;
  float m = fromBits(bitsOf(a) - exponent) - 1.0f;
  float e = ::fmaf((float)exponent, 1.19209290e-7f, tiny ? -23.0f : 0.0f);
  float s = m * m;
  float r = -0.130310059f, t = 0.140869141f;
  r = ::fmaf(r, s, -0.121483512f);
  t = ::fmaf(t, s, 0.139814854f);
  r = ::fmaf(r, s, -0.166846126f);
  t = ::fmaf(t, s, 0.200120345f);
  r = ::fmaf(r, s, -0.249996200f);
  r = ::fmaf(t, m, r);
  r = ::fmaf(r, m, 0.333331972f);
  r = ::fmaf(r, m, -0.500000000f);
  r = ::fmaf(r, s, m);
  r = ::fmaf(e, 0.693147182f, r);
  const float infinity = fromBits(0x7f800000), nan = fromBits(0x7fc00000);
  r = x < infinity ? r : x;  // infinity and NaN
  r = x < 0 ? nan : r;
  return x == 0 ? -infinity : r;
}

HD float tanh(float x) {
  float a = fromBits(bitsOf(x) & 0x7fffffff);
  float s = a * a;
  float p = -5.70498720e-3f;
  p = ::fmaf(p, s, 2.06390861e-2f);
  p = ::fmaf(p, s, -5.37397154e-2f);
  p = ::fmaf(p, s, 1.33314416e-1f);
  p = ::fmaf(p, s, -3.33332807e-1f);
  float near = ::fmaf(p * s, a, a);
  float far = 1.0f - 2.0f / (exp(a + a) + 1.0f);
  return withSignOf(a < 0.625f ? near : far, x);
}

// Two polynomials: erf(a) = a + a p(a^2), and 1 - exp(q(a)) away from 0.
HD float erf(float x) {
  float a = fromBits(bitsOf(x) & 0x7fffffff);
  float s = a * a;
  float near = -5.96761703e-4f;
  near = ::fmaf(near, s, 4.99119423e-3f);
  near = ::fmaf(near, s, -2.67681349e-2f);
  near = ::fmaf(near, s, 1.12819925e-1f);
  near = ::fmaf(near, s, -3.76125336e-1f);
  near = ::fmaf(near, s, 1.28379166e-1f);
  near = ::fmaf(near, a, a);
  float t = a > 4.0f ? 4.0f : a;  // 1 from there on
  float u = t * t;
  float r = ::fmaf(-1.72853470e-5f, t, 3.83197126e-4f);
  r = ::fmaf(r, u, ::fmaf(-3.88396438e-3f, t, 2.42546219e-2f));
  r = ::fmaf(r, t, -1.06777877e-1f);
  r = ::fmaf(r, t, -6.34846687e-1f);
  r = ::fmaf(r, t, -1.28717512e-1f);
  r = ::fmaf(r, t, -t);
  float far = 1.0f - exp(r);
  return withSignOf(a < 0.927734375f ? near : far, x);
}
}  // namespace math
