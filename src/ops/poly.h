#pragma once
// What the ops with a polynomial activation have in common: its coefficients.
#include <optional>

#include "tensor.h"

// In the type that x is computed in. bias: empty if it was left out.
struct Coefficients {
  Tensor weight, bias;
};

// Checks weight [order] and bias [1] for x; or, with offsets [E + 1], weight [E, order] and bias [E].
Coefficients coefficientsFor(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                             const std::optional<Tensor>& offsets);

// Memory for the gradient of the bias that belongs to this weight.
Tensor gradientOfBias(const Tensor& weight);

void checkEps(const char* op, double eps);
