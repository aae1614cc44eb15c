#pragma once
// PolyReLU and PolyNorm (arXiv 2411.03884): value, derivative and what a row is summed up to. T is float, double or a
// vector of them; `order` is a constant where the kernel is compiled for one, so the loops unroll.
//
//   norm(u)  = u rsqrt(mean(u^2) + eps)            y = sum_k w_k norm(x^k) + bias           k = 1 .. order
//   p = max(x, 0)                                  y = sum_k w_k p^k + bias
//
// Coefficients are kept by power: w[0] is the bias, w[k] belongs to x^k (the file has the highest power first).
// A row may be scaled by a power of two s, z = s x, so that z^(2 order) stays finite; nothing else changes, because
// x^k rsqrt(mean(x^2k) + eps) = z^k rsqrt(mean(z^2k) + eps s^2k).
#include "math/hd.h"
#include "math/transcendental.h"

namespace poly {

constexpr int maxOrder = 8;

// c[0] + c[1] x + ... + c[n] x^n
template <class T, class C>
HD T horner(int n, T x, const C* c) {
  if (n == 0) return T{} + c[0];
  T sum = x * c[n] + c[n - 1];
  for (int k = n - 2; k >= 0; k--) sum = sum * x + c[k];
  return sum;
}

// max(x, 0); a NaN passes through
template <class T>
HD T positive(T x) {
  return x < T{} ? T{} : x;
}

template <class T, class C>
HD T polyRelu(int order, T x, const C* w) {
  return horner(order, positive(x), w);
}
// dx, given slope[k - 1] = k w[k]
template <class T, class C>
HD T polyReluGrad(int order, T x, T dy, const C* slope) {
  T d = dy * horner(order - 1, positive(x), slope);
  return x <= T{} ? T{} : d;
}
template <class C, class A>
HD void polyReluSlopes(int order, const A* w, C* slope) {
  for (int k = 1; k <= order; k++) slope[k - 1] = C(A(k) * w[k]);
}

// sums[k - 1] += z^2k
template <class T>
HD void addSquares(int order, T z, T* sums) {
  T square = z * z, power = square;
  sums[0] += square;
  for (int k = 2; k <= order; k++) {
    power *= square;
    sums[k - 1] += power;
  }
}
// sums[k] += d z^k, from k = 0 on: what dw and db are made of
template <class T>
HD void addProducts(int order, T z, T d, T* sums) {
  sums[0] += d;
  for (int k = 1; k <= order; k++) {
    d *= z;
    sums[k] += d;
  }
}

// rsqrt(mean(z^2k) + eps s^2k) of one power, given the sum and eps s^2k
template <class A>
HD A inverseNorm(A squares, A count, A scaledEps) {
  return A(1) / math::sqrt(squares / count + scaledEps);
}
// inverse[k - 1] = rsqrt(mean(z^2k) + eps s^2k)
template <class A>
HD void inverseNorms(int order, const A* squares, A count, A eps, A scale, A* inverse) {
  for (int k = 1; k <= order; k++) {
    eps *= scale * scale;
    inverse[k - 1] = inverseNorm(squares[k - 1], count, eps);
  }
}

// Whether sums of unscaled powers can be trusted, given that of x^2r: neither overflow nor, where eps does not hide it,
// underflow.
template <class A>
HD bool inRange(A highest, A count, A eps) {
  A mean = highest / count;
  return mean <= A(0x1p80) && mean + eps >= A(0x1p-80);
}
// The s for a row with max |x| in [2^exponent, 2^(exponent + 1)): 2^-exponent, or 1 if that would scale up and need
// not, or if x is not finite. C is the type that x is computed in.
template <class C>
HD C scaleFor(int exponent, double eps) {
  constexpr int bias = sizeof(C) == 4 ? 127 : 1023;
  if (exponent > bias) return 1;
  if (eps > 1e-30 && exponent < 0) return 1;  // eps is what counts in such a row
  if (exponent < -(bias - 27)) exponent = -(bias - 27);
  return (C)ldexp(1.0, -exponent);
}

// y = horner(order, z, value)
template <class C, class A>
HD void valueCoefficients(int order, const A* w, const A* inverse, C* value) {
  value[0] = C(w[0]);
  for (int k = 1; k <= order; k++) value[k] = C(w[k] * inverse[k - 1]);
}

// With n_k = inverse_k z^k and m_k = mean(dy n_k): dx = sum_k k w_k s inverse_k z^(k-1) (dy - n_k m_k), written as
// dy slope(z) - z pull(z^2). The products inverse_k m_k are of the size of dy / z^k: nothing underflows.
template <class C, class A>
HD void gradCoefficient(int k, A w, A inverse, A product, A count, A scale, C& slope, C& pull) {
  A a = A(k) * w * scale * inverse;
  slope = C(a);
  pull = C(a * inverse * (inverse * product / count));
}
template <class C, class A>
HD void gradCoefficients(int order, const A* w, const A* inverse, const A* products, A count, A scale, C* slope,
                         C* pull) {
  for (int k = 1; k <= order; k++)
    gradCoefficient(k, w[k], inverse[k - 1], products[k], count, scale, slope[k - 1], pull[k - 1]);
}
template <class T, class C>
HD T polyNormGrad(int order, T z, T dy, const C* slope, const C* pull) {
  return dy * horner(order - 1, z, slope) - z * horner(order - 1, z * z, pull);
}

}  // namespace poly
