#pragma once
// One element of AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, as PyTorch does it).
#include "math/transcendental.h"

namespace math {

template <class T>
struct Adamw {
  T beta1, beta2, fresh1, fresh2;  // fresh = 1 - beta
  T eps, keep, rate, root, clip;   // keep = 1 - lr decay; rate = lr / (1 - beta1^t); root = 1 / sqrt(1 - beta2^t)

  HD Adamw(double lr, double b1, double b2, double e, double decay, double step, double clip)
      : beta1((T)b1),
        beta2((T)b2),
        fresh1((T)(1 - b1)),
        fresh2((T)(1 - b2)),
        eps((T)e),
        keep((T)(1 - lr * decay)),
        rate((T)(lr / (1 - pow(b1, step)))),
        root((T)(1 / sqrt(1 - pow(b2, step)))),
        clip((T)clip) {}

  HD void update(T& p, T g, T& m, T& v) const {
    g *= clip;
    m = beta1 * m + fresh1 * g;
    v = beta2 * v + fresh2 * g * g;
    p = p * keep - rate * m / (sqrt(v) * root + eps);
  }
};

}  // namespace math
