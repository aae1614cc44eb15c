// y = f(x) and y = f(a, b), element by element, for any dtypes and strides. An operation is chosen within the kernel:
// the branch is the same for all threads, and memory is what they wait for.
#include "device/map.cuh"
#include "kernels.h"

namespace cuda {
namespace {

#define EACH _Pragma("unroll") for (int k = 0; k < V; k++)

// sin, cos and pow need local memory for huge arguments: they are computed in double, by kernels of their own.
template <class C, class F>
constexpr bool here =
    std::is_same_v<C, double> || !(std::is_same_v<F, Sin> || std::is_same_v<F, Cos> || std::is_same_v<F, Pow>);
constexpr bool rare(UnaryOp op) { return op == UnaryOp::sin || op == UnaryOp::cos; }
constexpr bool rare(BinaryOp op) { return op == BinaryOp::pow; }

struct Unary {
  UnaryOp op;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[1][V], C (&y)[V]) const {
    with(op, [&](auto F) {
      if constexpr (here<C, decltype(F)>) EACH y[k] = F.f(x[0][k]);
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
struct UnaryGrad {
  UnaryOp op;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[2][V], C (&dx)[V]) const {
    with(op, [&](auto F) {
      if constexpr (here<C, decltype(F)>) EACH dx[k] = x[1][k] * F.df(x[0][k], F.f(x[0][k]));
    });
  }
};

struct Binary {
  BinaryOp op;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[2][V], C (&y)[V]) const {
    with(op, [&](auto F) {
      if constexpr (here<C, decltype(F)> || std::is_integral_v<C>) EACH y[k] = F.f(x[0][k], x[1][k]);
    });
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
    with(op, [&](auto F) {
      if constexpr (here<C, decltype(F)> || std::is_integral_v<C>)
        EACH y[k] = F.f(first ? value : x[0][k], first ? x[0][k] : value);
    });
  }
};
struct BinaryGrad {
  BinaryOp op;
  bool first;
  template <class C, int V>
  __device__ __forceinline__ void operator()(const C (&x)[3][V], C (&d)[V]) const {
    with(op, [&](auto F) {
      if constexpr (here<C, decltype(F)>)
        EACH d[k] = x[2][k] * (first ? F.da(x[0][k], x[1][k]) : F.db(x[0][k], x[1][k]));
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

// make(Tag<C>) makes what computes with C. A kernel for each float type, one for float64 and all that is rare, one for
// integers.
template <class R, int N, class Make>
void mapLike(const char* name, Dtype like, bool rare, const View* const (&views)[N + 1], Make make) {
  auto result = [](auto c) {
    if constexpr (std::is_same_v<R, bool>)
      return Tag<bool>{};
    else
      return c;
  };
  auto typed = [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Out = std::conditional_t<std::is_same_v<R, bool>, bool, T>;
    using Result = typename decltype(result(Tag<float>{}))::type;
    map<float, Result, T, Out, N>(name, views, make(Tag<float>{}));
  };
  if (like == Dtype::float64 || rare)
    mapAny<double, typename decltype(result(Tag<double>{}))::type, N>(name, views, make(Tag<double>{}));
  else if (like == Dtype::float32)
    typed(Tag<float>{});
  else if (like == Dtype::bfloat16)
    typed(Tag<bf16>{});
  else if (like == Dtype::float16)
    typed(Tag<f16>{});
}

}  // namespace

void accumulate(View x, View y) { binary(BinaryOp::add, y, x, y); }

void unary(UnaryOp op, View x, View y) {
  if (!isFloat(x.dtype)) return mapAny<int64_t, int64_t, 1>("unary", {&y, &x}, UnaryWhole{op});
  mapLike<void, 1>("unary", x.dtype, rare(op), {&y, &x}, [&](auto) { return Unary{op}; });
}

void unaryGrad(UnaryOp op, View x, View dy, View dx) {
  mapLike<void, 2>("unaryGrad", x.dtype, rare(op), {&dx, &x, &dy}, [&](auto) { return UnaryGrad{op}; });
}

void binary(BinaryOp op, View a, View b, View y) {
  if (!isFloat(y.dtype)) return mapAny<int64_t, int64_t, 2>("binary", {&y, &a, &b}, Binary{op});
  mapLike<void, 2>("binary", y.dtype, rare(op), {&y, &a, &b}, [&](auto) { return Binary{op}; });
}

void binaryScalar(BinaryOp op, View x, double value, bool first, View y) {
  const bool square = op == BinaryOp::pow && !first && value == 2;
  auto make = [&](auto tag) {
    using C = typename decltype(tag)::type;
    return BinaryScalar<C>{op, first, square, (C)value};
  };
  if (!isFloat(y.dtype)) return mapAny<int64_t, int64_t, 1>("binaryScalar", {&y, &x}, make(Tag<int64_t>{}));
  mapLike<void, 1>("binaryScalar", y.dtype, rare(op) && !square, {&y, &x}, make);
}

void binaryGrad(BinaryOp op, bool first, View a, View b, View dy, View d) {
  mapLike<void, 3>("binaryGrad", d.dtype, rare(op), {&d, &a, &b, &dy}, [&](auto) { return BinaryGrad{op, first}; });
}

void compare(CompareOp op, View a, View b, View y) {
  if (!isFloat(a.dtype)) return mapAny<int64_t, bool, 2>("compare", {&y, &a, &b}, Compare{op});
  mapLike<bool, 2>("compare", a.dtype, false, {&y, &a, &b}, [&](auto) { return Compare{op}; });
}

void compareScalar(CompareOp op, View x, double value, View y) {
  auto make = [&](auto tag) {
    using C = typename decltype(tag)::type;
    return CompareScalar<C>{op, (C)value};
  };
  // An integer is compared with a fraction as a double.
  if (!isFloat(x.dtype) && value == (double)(int64_t)value)
    return mapAny<int64_t, bool, 1>("compareScalar", {&y, &x}, make(Tag<int64_t>{}));
  mapLike<bool, 1>("compareScalar", x.dtype, !isFloat(x.dtype), {&y, &x}, make);
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
  mapLike<void, 1>("clamp", x.dtype, false, {&y, &x}, [&](auto tag) {
    using C = typename decltype(tag)::type;
    return Clamp<C>{(C)low, (C)high};
  });
}

void clampGrad(View x, View dy, double low, double high, View dx) {
  mapLike<void, 2>("clampGrad", x.dtype, false, {&dx, &x, &dy}, [&](auto tag) {
    using C = typename decltype(tag)::type;
    return ClampGrad<C>{(C)low, (C)high};
  });
}

}  // namespace cuda
