#pragma once
// What a reduction starts from and how it takes in one more element. T is the type of the running value.
#include "math/hd.h"

enum class ReduceOp { sum, mean, max, min };

struct Sum {
  template <class T>
  static HD T first() {
    return T(0);
  }
  template <class T>
  static HD T join(T sum, T x) {
    return sum + x;
  }
};
template <class T>
HD T lowest() {
  if constexpr (T(0.5) == T(0))
    return (T)((uint64_t)1 << 63);  // int64
  else
    return T(-HUGE_VAL);
}
struct Largest {  // a NaN stays
  template <class T>
  static HD T first() {
    return lowest<T>();
  }
  template <class T>
  static HD T join(T best, T x) {
    T larger = best > x ? best : x;  // selections without a branch, which vectorise
    return best != best ? best : larger;
  }
};
struct Smallest {
  template <class T>
  static HD T first() {
    if constexpr (T(0.5) == T(0))
      return ~lowest<T>();
    else
      return -lowest<T>();
  }
  template <class T>
  static HD T join(T best, T x) {
    T smaller = best < x ? best : x;
    return best != best ? best : smaller;
  }
};
