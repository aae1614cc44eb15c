#pragma once
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), and what is made of its words.
// Number i of a call depends on (seed, call, i) alone: the counter is {i / 4, call}, the key is the seed.
#include "math/hd.h"
#include "math/transcendental.h"

enum class RandomKind { uniform, normal, truncated, integer };

namespace philox {

struct Words {
  uint32_t w[4];
};

HD Words generate(uint64_t seed, uint64_t call, uint64_t block) {
  uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = (uint32_t)call, c3 = (uint32_t)(call >> 32);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c0 = n0, c1 = (uint32_t)p1, c2 = n2, c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The middle of the word's place among 2^32 equal parts of (0, 1).
HD double open01(uint32_t word) { return ((double)word + 0.5) * 2.3283064365386963e-10; }

// The natural logarithm of u in (0, 1), for words: within 2^-50. Branch-free and the same on every device, which the C
// library's is not.
HD double logOf(double u) {
  uint64_t bits;
  __builtin_memcpy(&bits, &u, 8);
  uint64_t shifted = bits - 0x3FE6A09E667F3BCDull;  // sqrt(1/2): the mantissa then lies in [sqrt(1/2), sqrt(2))
  int64_t e = (int64_t)shifted >> 52;
  uint64_t mantissa = bits - ((uint64_t)e << 52);
  double m;
  __builtin_memcpy(&m, &mantissa, 8);
  double s = (m - 1) / (m + 1), z = s * s;  // log m = 2 atanh s
  double p = 1.0 / 19;
  p = p * z + 1.0 / 17;
  p = p * z + 1.0 / 15;
  p = p * z + 1.0 / 13;
  p = p * z + 1.0 / 11;
  p = p * z + 1.0 / 9;
  p = p * z + 1.0 / 7;
  p = p * z + 1.0 / 5;
  p = p * z + 1.0 / 3;
  return (double)e * 0.6931471805599453 + 2 * s * (p * z + 1);
}

// cos and sin of 2 pi times the word's place on the circle.
HD void circle(uint32_t word, double& c, double& s) {
  uint32_t quadrant = (word + 0x20000000u) >> 30;                                         // to the nearest quarter turn
  double t = ((double)(int32_t)(word - (quadrant << 30)) + 0.5) * 1.4629180792671596e-9;  // 2 pi / 2^32: |t| <= pi / 4
  double z = t * t;
  double sine =
      t * (1 + z * (-1.0 / 6 + z * (1.0 / 120 +
                                    z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800 +
                                                                                z * (1.0 / 6227020800.0 -
                                                                                     z * (1.0 / 1307674368000.0))))))));
  double cosine =
      1 + z * (-0.5 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320 +
                                                             z * (-1.0 / 3628800 + z * (1.0 / 479001600.0 -
                                                                                        z * (1.0 / 87178291200.0)))))));
  double x = quadrant & 1 ? -sine : cosine, y = quadrant & 1 ? cosine : sine;
  c = quadrant & 2 ? -x : x;
  s = quadrant & 2 ? -y : y;
}

// Two standard normal numbers of two words (Box and Muller 1958).
HD void normals(uint32_t first, uint32_t second, double& a, double& b) {
  double radius = math::sqrt(-2 * logOf(open01(first))), c, s;
  circle(second, c, s);
  a = radius * c;
  b = radius * s;
}

// The normal distribution's quantile at p in (0, 1): algorithm AS 241, PPND16 (Wichura 1988), within 1e-15 relative.
HD double quantile(double p) {
  double q = p - 0.5;
  if (q > -0.425 && q < 0.425) {
    double r = 0.180625 - q * q;
    return q *
           (((((((r * 2.5090809287301226727e3 + 3.3430575583588128105e4) * r + 6.7265770927008700853e4) * r +
                4.5921953931549871457e4) *
                   r +
               1.3731693765509461125e4) *
                  r +
              1.9715909503065514427e3) *
                 r +
             1.3314166789178437745e2) *
                r +
            3.3871328727963666080e0) /
           (((((((r * 5.2264952788528545610e3 + 2.8729085735721942674e4) * r + 3.9307895800092710610e4) * r +
                2.1213794301586595867e4) *
                   r +
               5.3941960214247511077e3) *
                  r +
              6.8718700749205790830e2) *
                 r +
             4.2313330701600911252e1) *
                r +
            1.0);
  }
  double r = math::sqrt(-logOf(q < 0 ? p : 1 - p)), x;
  if (r <= 5) {
    r -= 1.6;
    x = (((((((r * 7.74545014278341407640e-4 + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r +
             1.27045825245236838258e0) *
                r +
            3.64784832476320460504e0) *
               r +
           5.76949722146069140550e0) *
              r +
          4.63033784615654529590e0) *
             r +
         1.42343711074968357734e0) /
        (((((((r * 1.05075007164441684324e-9 + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r +
             1.48103976427480074590e-1) *
                r +
            6.89767334985100004550e-1) *
               r +
           1.67638483018380384940e0) *
              r +
          2.05319162663775882187e0) *
             r +
         1.0);
  } else {
    r -= 5;
    x = (((((((r * 2.01033439929228813265e-7 + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r +
             2.65321895265761230930e-2) *
                r +
            2.96560571828504891230e-1) *
               r +
           1.78482653991729133580e0) *
              r +
          5.46378491116411436990e0) *
             r +
         6.65790464350110377720e0) /
        (((((((r * 2.04426310338993978564e-15 + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r +
             7.86869131145613259100e-4) *
                r +
            1.48753612908506148525e-2) *
               r +
           1.36929880922735805310e-1) *
              r +
          5.99832206555887937690e-1) *
             r +
         1.0);
  }
  return q < 0 ? -x : x;
}

}  // namespace philox
