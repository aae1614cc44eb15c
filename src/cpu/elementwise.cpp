// isa: all
// y = f(x) and y = f(a, b), element by element, for any dtypes and strides.
#include "cpu/blocks.h"
#include "cpu/copy.h"
#include "cpu/strided.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

// A loop whose iterations may be done at once, also where the result takes the place of an input.
#define EACH _Pragma("omp simd") for (int64_t i = 0; i < n; i++)

// Elements of a chunk of work. Where results stream, a chunk ends with a wait for them: there it is longer.
constexpr int64_t chunkLength = 16384, streamedLength = 131072;

// One kernel over contiguous blocks of its inputs (in the compute type C) and its result (R). Out of line and given the
// kernel as a pointer, so that the walk is compiled once a type and not once an operation.
template <class C, class R, int N>
__attribute__((noinline)) void mapBlocks(const View* const (&views)[N + 1],
                                         void (*kernel)(const void* self, const C* const* in, R* out, int64_t n),
                                         const void* self) {
  Walk walk(views);
  const View& y = *views[0];
  const bool streaming = streams(y);
  // What needs no conversion goes to the kernel in one piece.
  bool direct = y.dtype == DtypeOf<R>::value && walk.step(0) == 1 && !streaming;
  for (int v = 1; v <= N; v++) direct = direct && views[v]->dtype == DtypeOf<C>::value && walk.step(v) == 1;
  const int64_t most = direct ? chunkLength : blockLength;
  walk.run(
      [&](const int64_t* at, int64_t length) {
        alignas(64) C in[N][blockLength];
        alignas(64) R out[blockLength];
        for (int64_t i = 0; i < length; i += most) {
          int64_t n = length - i < most ? length - i : most;
          const C* from[N];
          for (int v = 0; v < N; v++)
            from[v] = load(*views[v + 1], at[v + 1] + i * walk.step(v + 1), walk.step(v + 1), n, in[v]);
          int64_t atY = at[0] + i * walk.step(0);
          R* to = target(y, atY, walk.step(0), out, streaming);
          kernel(self, from, to, n);
          store(y, atY, walk.step(0), n, to, streaming);
        }
        if (streaming) fence();
      },
      streaming ? streamedLength : chunkLength);
}

// kernel(x, y, n) over contiguous runs of the compute type C.
template <class C, class Fn>
void mapOne(const View& x, const View& y, Fn kernel) {
  mapBlocks<C, C, 1>(
      {&y, &x}, [](const void* self, const C* const* in, C* out, int64_t n) { (*(const Fn*)self)(in[0], out, n); },
      &kernel);
}

// kernel(a, b, y, n) over contiguous runs; the inputs in the compute type C, the result in R.
template <class C, class R, class Fn>
void mapTwo(const View& a, const View& b, const View& y, Fn kernel) {
  mapBlocks<C, R, 2>(
      {&y, &a, &b},
      [](const void* self, const C* const* in, R* out, int64_t n) { (*(const Fn*)self)(in[0], in[1], out, n); },
      &kernel);
}

// kernel(a, b, c, y, n): as mapTwo, for three.
template <class C, class Fn>
void mapThree(const View& a, const View& b, const View& c, const View& y, Fn kernel) {
  mapBlocks<C, C, 3>(
      {&y, &a, &b, &c},
      [](const void* self, const C* const* in, C* out, int64_t n) { (*(const Fn*)self)(in[0], in[1], in[2], out, n); },
      &kernel);
}

}  // namespace

void copy(View x, View y) {
  if (x.dtype == y.dtype && x.contiguous() && y.contiguous()) {
    const bool streaming = streams(y);
    const size_t size = dtypeSize(x.dtype);
    parallelFor(y.size(), 65536, [&](int64_t begin, int64_t end) {
      char* to = y.as<char>() + begin * size;
      const char* from = x.as<char>() + begin * size;
      if (streaming) {
        streamBytes(to, from, (end - begin) * size);
        fence();
      } else
        memcpy(to, from, (end - begin) * size);
    });
    return;
  }
  if (!y.size()) return;
  if (x.dtype == y.dtype) {
    switch (dtypeSize(x.dtype)) {
      case 8:
        return copyBits<uint64_t>(x, y);
      case 4:
        return copyBits<uint32_t>(x, y);
      case 2:
        return copyBits<uint16_t>(x, y);
      default:
        return copyBits<uint8_t>(x, y);
    }
  }
  // Through int64 only what fits there: integers. A float goes through float or double.
  Dtype through = isFloat(x.dtype) ? x.dtype : isFloat(y.dtype) ? Dtype::float64 : x.dtype;
  withBlockType(through, [&](auto tag) {
    using C = typename decltype(tag)::type;
    mapOne<C>(x, y, [](const C* in, C* out, int64_t n) {
      if (in != out) __builtin_memcpy(out, in, n * sizeof(C));
    });
  });
}

void fill(View y, double value) {
  withDtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* out = y.as<T>();
    T v = stored<T>(value);
    parallelFor(y.size(), 65536, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) out[i] = v;
    });
  });
}

void arange(View y, double start, double step) {
  withDtype(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* out = y.as<T>();
    for (int64_t i = 0, n = y.size(); i < n; i++) out[i] = stored<T>(start + step * (double)i);
  });
}

void accumulate(View x, View y) { binary(BinaryOp::add, y, x, y); }

void unary(UnaryOp op, View x, View y) {
  auto apply = [&](auto F, auto tag) {
    using C = typename decltype(tag)::type;
    mapOne<C>(x, y, [F](const C* in, C* out, int64_t n) { EACH out[i] = F.f(in[i]); });
  };
  if (isFloat(x.dtype)) {
    with(op, [&](auto F) {
      if (x.dtype == Dtype::float64)
        apply(F, Tag<double>{});
      else
        apply(F, Tag<float>{});
    });
    return;
  }
  switch (op) {
    case UnaryOp::neg:
      return apply(Neg{}, Tag<int64_t>{});
    case UnaryOp::abs:
      return apply(Abs{}, Tag<int64_t>{});
    case UnaryOp::sign:
      return apply(Sign{}, Tag<int64_t>{});
    case UnaryOp::relu:
      return apply(Relu{}, Tag<int64_t>{});
    default:
      return;
  }
}

void unaryGrad(UnaryOp op, View x, View dy, View dx) {
  auto apply = [&](auto F, auto tag) {
    using C = typename decltype(tag)::type;
    mapTwo<C, C>(x, dy, dx,
                 [F](const C* in, const C* d, C* out, int64_t n) { EACH out[i] = d[i] * F.df(in[i], F.f(in[i])); });
  };
  with(op, [&](auto F) {
    if (x.dtype == Dtype::float64)
      apply(F, Tag<double>{});
    else
      apply(F, Tag<float>{});
  });
}

void binary(BinaryOp op, View a, View b, View y) {
  withBlockType(y.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    with(op, [&](auto F) {
      mapTwo<C, C>(a, b, y, [F](const C* u, const C* v, C* out, int64_t n) { EACH out[i] = F.f(u[i], v[i]); });
    });
  });
}

void binaryScalar(BinaryOp op, View x, double value, bool first, View y) {
  withBlockType(y.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    if (op == BinaryOp::pow && !first && value == 2)
      return mapOne<C>(x, y, [](const C* in, C* out, int64_t n) { EACH out[i] = in[i] * in[i]; });
    const C v = (C)value;
    with(op, [&](auto F) {
      mapOne<C>(x, y, [F, v, first](const C* in, C* out, int64_t n) {
        if (first)
          EACH out[i] = F.f(v, in[i]);
        else
          EACH out[i] = F.f(in[i], v);
      });
    });
  });
}

void binaryGrad(BinaryOp op, bool first, View a, View b, View dy, View d) {
  auto apply = [&](auto F, auto tag) {
    using C = typename decltype(tag)::type;
    mapThree<C>(a, b, dy, d, [F, first](const C* u, const C* v, const C* g, C* out, int64_t n) {
      if (first)
        EACH out[i] = g[i] * F.da(u[i], v[i]);
      else
        EACH out[i] = g[i] * F.db(u[i], v[i]);
    });
  };
  with(op, [&](auto F) {
    if (d.dtype == Dtype::float64)
      apply(F, Tag<double>{});
    else
      apply(F, Tag<float>{});
  });
}

void where(View condition, View a, View b, View y) {
  withBlockType(y.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    Walk walk({&y, &condition, &a, &b});
    walk.run([&](const int64_t* at, int64_t length) {
      C first[blockLength], second[blockLength], out[blockLength];
      for (int64_t i = 0; i < length; i += blockLength) {
        int64_t n = length - i < blockLength ? length - i : blockLength;
        int64_t atY = at[0] + i * walk.step(0), step = walk.step(1);
        const bool* c = condition.as<bool>() + at[1] + i * step;
        const C* u = load(a, at[2] + i * walk.step(2), walk.step(2), n, first);
        const C* v = load(b, at[3] + i * walk.step(3), walk.step(3), n, second);
        C* to = target(y, atY, walk.step(0), out);
        for (int64_t k = 0; k < n; k++) to[k] = c[k * step] ? u[k] : v[k];
        store(y, atY, walk.step(0), n, to);
      }
    });
  });
}

void clamp(View x, double low, double high, View y) {
  withBlockType(x.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    // The bounds of an integer tensor may lie outside what an integer can hold.
    auto bound = [](double v) {
      return std::is_same_v<C, int64_t> && v >= 9e18    ? C(9e18)
             : std::is_same_v<C, int64_t> && v <= -9e18 ? C(-9e18)
                                                        : (C)v;
    };
    const C l = bound(low), h = bound(high);
    mapOne<C>(x, y, [l, h](const C* in, C* out, int64_t n) {
      EACH {
        C v = in[i] < l ? l : in[i];
        out[i] = v > h ? h : v;
      }
    });
  });
}

void clampGrad(View x, View dy, double low, double high, View dx) {
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    const C l = (C)low, h = (C)high;
    mapTwo<C, C>(x, dy, dx, [l, h](const C* in, const C* d, C* out, int64_t n) {
      EACH out[i] = in[i] < l || in[i] > h ? C(0) : d[i];
    });
  };
  if (x.dtype == Dtype::float64)
    apply(Tag<double>{});
  else
    apply(Tag<float>{});
}

void compare(CompareOp op, View a, View b, View y) {
  withBlockType(a.dtype, [&](auto tag) {
    using C = typename decltype(tag)::type;
    with(op, [&](auto F) {
      mapTwo<C, bool>(a, b, y, [F](const C* u, const C* v, bool* out, int64_t n) { EACH out[i] = F.f(u[i], v[i]); });
    });
  });
}

void compareScalar(CompareOp op, View x, double value, View y) {
  // An integer is compared with a fraction as a double.
  bool whole = !isFloat(x.dtype) && value == (double)(int64_t)value;
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    const C v = (C)value;
    with(op, [&](auto F) {
      mapTwo<C, bool>(x, x, y, [F, v](const C* u, const C*, bool* out, int64_t n) { EACH out[i] = F.f(u[i], v); });
    });
  };
  if (whole)
    apply(Tag<int64_t>{});
  else if (x.dtype == Dtype::float64 || !isFloat(x.dtype))
    apply(Tag<double>{});
  else
    apply(Tag<float>{});
}

void swiglu(View gate, View up, View y) {
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    mapTwo<C, C>(gate, up, y, [](const C* g, const C* u, C* out, int64_t n) { EACH out[i] = Swiglu::f(g[i], u[i]); });
  };
  if (y.dtype == Dtype::float64)
    apply(Tag<double>{});
  else
    apply(Tag<float>{});
}

void swigluGrad(View gate, View up, View dy, View dgate, View dup) {
  const bool streaming = streams(dgate);
  auto apply = [&](auto tag) {
    using C = typename decltype(tag)::type;
    parallelFor(gate.size(), streaming ? streamedLength : chunkLength, [&](int64_t begin, int64_t end) {
      alignas(64) C copy[5][blockLength];
      for (int64_t at = begin; at < end; at += blockLength) {
        int64_t n = end - at < blockLength ? end - at : blockLength;
        const C *g = load(gate, at, 1, n, copy[0]), *u = load(up, at, 1, n, copy[1]), *d = load(dy, at, 1, n, copy[2]);
        C *dg = target(dgate, at, 1, copy[3], streaming), *du = target(dup, at, 1, copy[4], streaming);
        EACH Swiglu::df(g[i], u[i], d[i], dg[i], du[i]);
        store(dgate, at, 1, n, dg, streaming);
        store(dup, at, 1, n, du, streaming);
      }
      if (streaming) fence();
    });
  };
  if (gate.dtype == Dtype::float64)
    apply(Tag<double>{});
  else
    apply(Tag<float>{});
}

}  // namespace cpu::ISA
