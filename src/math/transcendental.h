#pragma once
// exp, log, tanh, erf ... for float and double. The float forms are branch-free so that a loop over them vectorises.
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
HD float exp(float x) { return ::expf(x); }
HD float log(float x) { return ::logf(x); }
HD float sqrt(float x) { return ::sqrtf(x); }
HD float sin(float x) { return ::sinf(x); }
HD float cos(float x) { return ::cosf(x); }
HD float tanh(float x) { return ::tanhf(x); }
HD float erf(float x) { return ::erff(x); }
HD float pow(float a, float b) { return ::powf(a, b); }
}  // namespace math
