// y = f(x) and y = f(a, b), element by element, for any dtypes and strides. An operation is chosen within the kernel:
// the branch is the same for all threads, and memory is what they wait for.
#include "device/map.cuh"
#include "kernels.h"

namespace cuda {
namespace {

#define EACH _Pragma("unroll") for (int k = 0; k < V; k++)

// sin and cos of huge arguments need local memory, which the others' kernel should not set up.
template <class F>
constexpr bool circular = std::is_same_v<F, Sin> || std::is_same_v<F, Cos>;

template <bool circle>
struct Unary {
  UnaryOp op;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[1][V], C (&y)[V]) const {
    with(op, [&](auto F) {
      if constexpr (circular<decltype(F)> == circle) EACH y[k] = F.f(x[0][k]);
    });
  }
};
struct UnaryWhole {
  UnaryOp op;
  template <int V>
  __device__ __forceinline__ void operator()(const int64_t (&x)[1][V], int64_t (&y)[V]) const {
    EACH y[k] = op == UnaryOp::neg    ? Neg::f(x[0][k])
                : op == UnaryOp::abs  ? Abs::f(x[0][k])
                : op == UnaryOp::sign ? Sign::f(x[0][k])
                                      : Relu::f(x[0][k]);
  }
};
template <bool circle>
struct UnaryGrad {
  UnaryOp op;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[2][V], C (&dx)[V]) const {
    with(op, [&](auto F) {
      if constexpr (circular<decltype(F)> == circle) EACH dx[k] = x[1][k] * F.df(x[0][k], F.f(x[0][k]));
    });
  }
};

struct Binary {
  BinaryOp op;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[2][V], C (&y)[V]) const {
    with(op, [&](auto F) { EACH y[k] = F.f(x[0][k], x[1][k]); });
  }
};
template <class C>
struct BinaryScalar {
  BinaryOp op;
  bool first, square;
  C value;
  template <int V>
  __device__ __forceinline__ void operator()(const C (&x)[1][V], C (&y)[V]) const {
    if (square) {
      EACH y[k] = x[0][k] * x[0][k];
      return;
    }
    with(op, [&](auto F) { EACH y[k] = F.f(first ? value : x[0][k], first ? x[0][k] : value); });
  }
};
struct BinaryGrad {
  BinaryOp op;
  bool first;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[3][V], C (&d)[V]) const {
    with(op, [&](auto F) {
      if (first)
        EACH d[k] = x[2][k] * F.da(x[0][k], x[1][k]);
      else
        EACH d[k] = x[2][k] * F.db(x[0][k], x[1][k]);
    });
  }
};

struct Compare {
  CompareOp op;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[2][V], bool (&y)[V]) const {
    with(op, [&](auto F) { EACH y[k] = F.f(x[0][k], x[1][k]); });
  }
};
template <class C>
struct CompareScalar {
  CompareOp op;
  C value;
  template <int V>
  __device__ __forceinline__ void operator()(const C (&x)[1][V], bool (&y)[V]) const {
    with(op, [&](auto F) { EACH y[k] = F.f(x[0][k], value); });
  }
};

template <class C>
struct Clamp {
  C low, high;
  template <int V>
  __device__ __forceinline__ void operator()(const C (&x)[1][V], C (&y)[V]) const {
    EACH {
      C v = x[0][k] < low ? low : x[0][k];
      y[k] = v > high ? high : v;
    }
  }
};
template <class C>
struct ClampGrad {
  C low, high;
  template <int V>
  __device__ __forceinline__ void operator()(const C (&x)[2][V], C (&dx)[V]) const {
    EACH dx[k] = x[0][k] < low || x[0][k] > high ? C(0) : x[1][k];
  }
};

// Elements of a and b are moved as they are. As mapKernel, but for the condition, which is of another size.
template <class B>
__global__ void __launch_bounds__(mapThreads) whereKernel(const __grid_constant__ Walk<4> walk) {
  constexpr int V = packOf<B>();
  const uint32_t step = gridDim.x * mapThreads, thread = blockIdx.x * mapThreads + threadIdx.x;
  int64_t at[4];
  for (uint32_t i = thread; i < walk.packs; i += step) {
    walk.template locatePack<V>(i, at);
    const auto chosen = loadPackOf<bool, V>(walk, 1, at[1]);
    const auto a = loadPackOf<B, V>(walk, 2, at[2]), b = loadPackOf<B, V>(walk, 3, at[3]);
    Pack<B, V> y;
    EACH y.at[k] = chosen.at[k] ? a.at[k] : b.at[k];
    storePack<V>(walk.template as<B>(0) + at[0], y);
  }
  for (uint32_t i = walk.packs * V + thread; i < walk.count; i += step) {
    walk.locateElement(i, at);
    walk.template as<B>(0)[at[0]] =
        *(walk.template as<bool>(1)[at[1]] ? walk.template as<B>(2) + at[2] : walk.template as<B>(3) + at[3]);
  }
}

// All views of one dtype: a kernel for each float type, one for all integers.
template <int N, class Fn>
void mapFloats(const char* name, const View* const (&views)[N + 1], Fn fn) {
  withFloat(views[0]->dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    map<Wide<T>, Wide<T>, T, T, N>(name, views, fn);
  });
}
template <class Fn>
void withWide(Dtype t, Fn&& fn) {
  if (t == Dtype::float64)
    fn(Tag<double>{});
  else if (isFloat(t))
    fn(Tag<float>{});
  else
    fn(Tag<int64_t>{});
}

}  // namespace

void accumulate(View x, View y) { binary(BinaryOp::add, y, x, y); }

void unary(UnaryOp op, View x, View y) {
  if (!isFloat(x.dtype)) return mapAny<int64_t, int64_t, 1>("unary", {&y, &x}, UnaryWhole{op});
  if (op == UnaryOp::sin || op == UnaryOp::cos) return mapFloats<1>("unary", {&y, &x}, Unary<true>{op});
  mapFloats<1>("unary", {&y, &x}, Unary<false>{op});
}

void unaryGrad(UnaryOp op, View x, View dy, View dx) {
  if (op == UnaryOp::sin || op == UnaryOp::cos) return mapFloats<2>("unaryGrad", {&dx, &x, &dy}, UnaryGrad<true>{op});
  mapFloats<2>("unaryGrad", {&dx, &x, &dy}, UnaryGrad<false>{op});
}

void binary(BinaryOp op, View a, View b, View y) {
  if (!isFloat(y.dtype)) return mapAny<int64_t, int64_t, 2>("binary", {&y, &a, &b}, Binary{op});
  mapFloats<2>("binary", {&y, &a, &b}, Binary{op});
}

void binaryScalar(BinaryOp op, View x, double value, bool first, View y) {
  const bool square = op == BinaryOp::pow && !first && value == 2;
  withWide(y.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    const BinaryScalar<C> fn{op, first, square, (C)value};
    if constexpr (std::is_same_v<C, int64_t>) {
      mapAny<C, C, 1>("binaryScalar", {&y, &x}, fn);
    } else {
      withFloat(y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        if constexpr (std::is_same_v<Wide<T>, C>) map<C, C, T, T, 1>("binaryScalar", {&y, &x}, fn);
      });
    }
  });
}

void binaryGrad(BinaryOp op, bool first, View a, View b, View dy, View d) {
  mapFloats<3>("binaryGrad", {&d, &a, &b, &dy}, BinaryGrad{op, first});
}

void compare(CompareOp op, View a, View b, View y) {
  if (!isFloat(a.dtype)) return mapAny<int64_t, bool, 2>("compare", {&y, &a, &b}, Compare{op});
  withFloat(a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    map<Wide<T>, bool, T, bool, 2>("compare", {&y, &a, &b}, Compare{op});
  });
}

void compareScalar(CompareOp op, View x, double value, View y) {
  if (!isFloat(x.dtype)) {  // an integer is compared with a fraction as a double
    if (value == (double)(int64_t)value)
      return mapAny<int64_t, bool, 1>("compareScalar", {&y, &x}, CompareScalar<int64_t>{op, (int64_t)value});
    return mapAny<double, bool, 1>("compareScalar", {&y, &x}, CompareScalar<double>{op, value});
  }
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    map<Wide<T>, bool, T, bool, 1>("compareScalar", {&y, &x}, CompareScalar<Wide<T>>{op, (Wide<T>)value});
  });
}

void where(View condition, View a, View b, View y) {
  if (!y.size()) return;
  withBits(y.dtype, [&](auto tag) {
    using B = typename decltype(tag)::type;
    Axes<4>({&y, &condition, &a, &b}).split([&](const Axes<4>& part) {
      const Walk<4> walk(part, packOf<B>());
      launch("where", whereKernel<B>, {gridFor(walk.packs ? walk.packs : walk.count), mapThreads}, walk);
    });
  });
}

void clamp(View x, double low, double high, View y) {
  if (!isFloat(x.dtype)) {
    // The bounds of an integer tensor may lie outside what an integer can hold.
    auto bound = [](double v) { return v >= 9e18 ? (int64_t)9e18 : v <= -9e18 ? (int64_t)-9e18 : (int64_t)v; };
    return mapAny<int64_t, int64_t, 1>("clamp", {&y, &x}, Clamp<int64_t>{bound(low), bound(high)});
  }
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Wide<T>;
    map<C, C, T, T, 1>("clamp", {&y, &x}, Clamp<C>{(C)low, (C)high});
  });
}

void clampGrad(View x, View dy, double low, double high, View dx) {
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Wide<T>;
    map<C, C, T, T, 2>("clampGrad", {&dx, &x, &dy}, ClampGrad<C>{(C)low, (C)high});
  });
}

}  // namespace cuda
