#pragma once
// Every elementwise function and its derivative, written once for both backends. T is float or double.
#include "math/hd.h"
#include "math/transcendental.h"

// df(x, y): the derivative at x, given y = f(x) so that cheap forms can use it.
struct Neg {
  template <class T>
  static HD T f(T x) {
    return -x;
  }
  template <class T>
  static HD T df(T, T) {
    return T(-1);
  }
};
struct Exp {
  template <class T>
  static HD T f(T x) {
    return math::exp(x);
  }
  template <class T>
  static HD T df(T, T y) {
    return y;
  }
};
struct Log {
  template <class T>
  static HD T f(T x) {
    return math::log(x);
  }
  template <class T>
  static HD T df(T x, T) {
    return T(1) / x;
  }
};
struct Sqrt {
  template <class T>
  static HD T f(T x) {
    return math::sqrt(x);
  }
  template <class T>
  static HD T df(T, T y) {
    return T(0.5) / y;
  }
};
struct Abs {
  template <class T>
  static HD T f(T x) {
    return x < 0 ? -x : x == 0 ? T(0) : x;
  }
  template <class T>
  static HD T df(T x, T) {
    return x > 0 ? T(1) : x < 0 ? T(-1) : x;
  }
};
struct Sign {
  template <class T>
  static HD T f(T x) {
    return x > 0 ? T(1) : x < 0 ? T(-1) : x;
  }
  template <class T>
  static HD T df(T, T) {
    return T(0);
  }
};
struct Sin {
  template <class T>
  static HD T f(T x) {
    return math::sin(x);
  }
  template <class T>
  static HD T df(T x, T) {
    return math::cos(x);
  }
};
struct Cos {
  template <class T>
  static HD T f(T x) {
    return math::cos(x);
  }
  template <class T>
  static HD T df(T x, T) {
    return -math::sin(x);
  }
};
struct Tanh {
  template <class T>
  static HD T f(T x) {
    return math::tanh(x);
  }
  template <class T>
  static HD T df(T, T y) {
    return T(1) - y * y;
  }
};
struct Sigmoid {
  template <class T>
  static HD T f(T x) {
    return T(1) / (T(1) + math::exp(-x));
  }
  template <class T>
  static HD T df(T, T y) {
    return y * (T(1) - y);
  }
};
struct Relu {  // a NaN passes through
  template <class T>
  static HD T f(T x) {
    return x < 0 ? T(0) : x;
  }
  template <class T>
  static HD T df(T x, T) {
    return x > 0 ? T(1) : x <= 0 ? T(0) : x;
  }
};
struct Relu2 {
  template <class T>
  static HD T f(T x) {
    T p = Relu::f(x);
    return p * p;
  }
  template <class T>
  static HD T df(T x, T) {
    return T(2) * Relu::f(x);
  }
};
struct Silu {
  template <class T>
  static HD T f(T x) {
    return x * Sigmoid::f(x);
  }
  template <class T>
  static HD T df(T x, T) {
    T s = Sigmoid::f(x);
    return s * (T(1) + x * (T(1) - s));
  }
};
struct Gelu {  // x times the normal distribution function
  template <class T>
  static HD T f(T x) {
    return T(0.5) * x * (T(1) + math::erf(x * T(0.70710678118654752440)));
  }
  template <class T>
  static HD T df(T x, T) {
    T cdf = T(0.5) * (T(1) + math::erf(x * T(0.70710678118654752440)));
    return cdf + x * T(0.39894228040143267794) * math::exp(T(-0.5) * x * x);
  }
};
struct GeluTanh {  // its tanh approximation
  template <class T>
  static HD T inner(T x) {
    return T(0.79788456080286535588) * (x + T(0.044715) * x * x * x);
  }
  template <class T>
  static HD T f(T x) {
    return T(0.5) * x * (T(1) + math::tanh(inner(x)));
  }
  template <class T>
  static HD T df(T x, T) {
    T t = math::tanh(inner(x));
    T slope = T(0.79788456080286535588) * (T(1) + T(3 * 0.044715) * x * x);
    return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * slope;
  }
};

struct Swiglu {  // silu(gate) up
  template <class T>
  static HD T f(T gate, T up) {
    return Silu::f(gate) * up;
  }
  template <class T>
  static HD void df(T gate, T up, T dy, T& dgate, T& dup) {
    T s = Sigmoid::f(gate);
    dup = dy * gate * s;
    dgate = dy * up * (s * (T(1) + gate * (T(1) - s)));
  }
};

// name in JavaScript, struct above
// clang-format finds no layout here that it leaves alone.
// clang-format off
#define UNARY(U) \
  U(neg, Neg) \
  U(exp, Exp) \
  U(log, Log) \
  U(sqrt, Sqrt) \
  U(abs, Abs) \
  U(sign, Sign) \
  U(sin, Sin) \
  U(cos, Cos) \
  U(tanh, Tanh) \
  U(sigmoid, Sigmoid) \
  U(relu, Relu) \
  U(relu2, Relu2) \
  U(silu, Silu) \
  U(gelu, Gelu) \
  U(geluTanh, GeluTanh)
// clang-format on

// da and db: the derivatives by the first and the second operand; where both are largest, each gets half.
struct Add {
  template <class T>
  static HD T f(T a, T b) {
    return a + b;
  }
  template <class T>
  static HD T da(T, T) {
    return T(1);
  }
  template <class T>
  static HD T db(T, T) {
    return T(1);
  }
};
struct Sub {
  template <class T>
  static HD T f(T a, T b) {
    return a - b;
  }
  template <class T>
  static HD T da(T, T) {
    return T(1);
  }
  template <class T>
  static HD T db(T, T) {
    return T(-1);
  }
};
struct Mul {
  template <class T>
  static HD T f(T a, T b) {
    return a * b;
  }
  template <class T>
  static HD T da(T, T b) {
    return b;
  }
  template <class T>
  static HD T db(T a, T) {
    return a;
  }
};
struct Div {
  template <class T>
  static HD T f(T a, T b) {
    return a / b;
  }
  template <class T>
  static HD T da(T, T b) {
    return T(1) / b;
  }
  template <class T>
  static HD T db(T a, T b) {
    return -a / (b * b);
  }
};
struct Pow {
  template <class T>
  static HD T f(T a, T b) {
    if constexpr (T(0.5) == T(0))
      return (T)math::pow((double)a, (double)b);  // integers
    else
      return math::pow(a, b);
  }
  template <class T>
  static HD T da(T a, T b) {
    return b == 0 ? T(0) : b * math::pow(a, b - T(1));
  }
  template <class T>
  static HD T db(T a, T b) {
    return a == 0 && b >= 0 ? T(0) : math::pow(a, b) * math::log(a);
  }
};
struct Maximum {
  template <class T>
  static HD T f(T a, T b) {
    return a != a || a > b ? a : b;
  }
  template <class T>
  static HD T da(T a, T b) {
    return a > b ? T(1) : a < b ? T(0) : a == b ? T(0.5) : a + b;
  }
  template <class T>
  static HD T db(T a, T b) {
    return da(b, a);
  }
};
struct Minimum {
  template <class T>
  static HD T f(T a, T b) {
    return a != a || a < b ? a : b;
  }
  template <class T>
  static HD T da(T a, T b) {
    return a < b ? T(1) : a > b ? T(0) : a == b ? T(0.5) : a + b;
  }
  template <class T>
  static HD T db(T a, T b) {
    return da(b, a);
  }
};

#define BINARY(B) B(add, Add) B(sub, Sub) B(mul, Mul) B(div, Div) B(pow, Pow) B(maximum, Maximum) B(minimum, Minimum)

struct Eq {
  template <class T>
  static HD bool f(T a, T b) {
    return a == b;
  }
};
struct Ne {
  template <class T>
  static HD bool f(T a, T b) {
    return a != b;
  }
};
struct Lt {
  template <class T>
  static HD bool f(T a, T b) {
    return a < b;
  }
};
struct Le {
  template <class T>
  static HD bool f(T a, T b) {
    return a <= b;
  }
};
struct Gt {
  template <class T>
  static HD bool f(T a, T b) {
    return a > b;
  }
};
struct Ge {
  template <class T>
  static HD bool f(T a, T b) {
    return a >= b;
  }
};

#define COMPARE(C) C(eq, Eq) C(ne, Ne) C(lt, Lt) C(le, Le) C(gt, Gt) C(ge, Ge)

#define ROW(name, F) name,
enum class UnaryOp { UNARY(ROW) };
enum class BinaryOp { BINARY(ROW) };
enum class CompareOp { COMPARE(ROW) };
#undef ROW

#define ROW(name, F) \
  case Op::name:     \
    return fn(F{});
template <class Fn>
HD void with(UnaryOp op, Fn&& fn) {
  using Op = UnaryOp;
  switch (op) { UNARY(ROW) }
}
template <class Fn>
HD void with(BinaryOp op, Fn&& fn) {
  using Op = BinaryOp;
  switch (op) { BINARY(ROW) }
}
template <class Fn>
HD void with(CompareOp op, Fn&& fn) {
  using Op = CompareOp;
  switch (op) { COMPARE(ROW) }
}
#undef ROW
