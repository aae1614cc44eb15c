// Rotary position embedding of strided rows, and the table of its cosines and sines.
#include "math/rope.h"

#include "core/check.h"
#include "device/rows.cuh"
#include "kernels.h"

namespace cuda {
namespace {

constexpr int rowsEach = 4;  // that a thread turns by the same angles

// x (others, positions, D): the axes before the position, joined where x and y both allow it.
struct Rope {
  int axes = 0;
  unsigned length[maxRank], others = 1;
  int64_t x[maxRank], y[maxRank];  // strides
  unsigned positions, half;
  int64_t xPosition, yPosition, offset;
};

Rope ropeOf(const View& x, const View& y, int64_t offset) {
  Rope r;
  const int last = x.rank - 2;
  for (int i = 0; i < last; i++) {
    if (x.shape[i] == 1) continue;
    const int before = r.axes - 1;
    r.others *= (unsigned)x.shape[i];
    if (before >= 0 && r.x[before] == x.stride[i] * x.shape[i] && r.y[before] == y.stride[i] * x.shape[i]) {
      r.length[before] *= (unsigned)x.shape[i];
      r.x[before] = x.stride[i];
      r.y[before] = y.stride[i];
    } else {
      r.length[r.axes] = (unsigned)x.shape[i];
      r.x[r.axes] = x.stride[i];
      r.y[r.axes++] = y.stride[i];
    }
  }
  r.positions = (unsigned)x.shape[last];
  r.half = (unsigned)(x.shape[last + 1] / 2);
  r.xPosition = x.stride[last];
  r.yPosition = y.stride[last];
  r.offset = offset;
  return r;
}

// One thread a pack of each half of a row, for some rows at the same position.
template <class T, int size>
__global__ void __launch_bounds__(256)
    ropeKernel(const T* x, const Compute<T>* table, T* y, const Rope r, Compute<T> sign) {
  using C = Compute<T>;
  const unsigned packs = r.half / size;
  const int64_t thread = (int64_t)blockIdx.x * 256 + threadIdx.x;
  const int64_t items = (int64_t)r.positions * packs;
  if (thread >= items * ((r.others + rowsEach - 1) / rowsEach)) return;
  const unsigned first = (unsigned)(thread / items) * rowsEach, item = (unsigned)(thread % items);
  const unsigned position = item / packs, i = item % packs * size;
  const C* angles = table + (r.offset + position) * 2 * r.half + i;
  C cosine[size], sine[size];
  loadParameter<false>(cosine, angles, 0, size);
  loadParameter<false>(sine, angles + r.half, 0, size);
  int64_t to[rowsEach];
  Pack<T, size> a[rowsEach], b[rowsEach];
#pragma unroll
  for (int k = 0; k < rowsEach; k++) {
    unsigned rest = first + k;
    if (rest >= r.others) continue;
    int64_t from = position * r.xPosition + i;
    to[k] = position * r.yPosition + i;
    for (int axis = r.axes - 1; axis >= 0; axis--) {
      const unsigned at = axis ? rest % r.length[axis] : rest;
      rest /= r.length[axis];
      from += at * r.x[axis];
      to[k] += at * r.y[axis];
    }
    a[k] = loadPack<size>(x + from);
    b[k] = loadPack<size>(x + from + r.half);
  }
#pragma unroll
  for (int k = 0; k < rowsEach; k++) {
    if (first + k >= r.others) continue;
    Pack<T, size> c, d;
#pragma unroll
    for (int j = 0; j < size; j++) {
      const C u = (C)a[k].at[j], v = (C)b[k].at[j], s = sign * sine[j];
      c.at[j] = T(math::ropeFirst(u, v, cosine[j], s));
      d.at[j] = T(math::ropeSecond(u, v, cosine[j], s));
    }
    storePack(y + to[k], c);
    storePack(y + to[k] + r.half, d);
  }
}

// One thread a pair of a position.
template <class Angle, class C>
__global__ void __launch_bounds__(256) ropeTableKernel(double theta, C* table, int64_t pairs, int d) {
  const int64_t pair = (int64_t)blockIdx.x * 256 + threadIdx.x;
  if (pair >= pairs) return;
  const int half = d / 2, i = (int)(pair % half);
  const int64_t position = pair / half;
  const Angle angle = math::ropeAngle(theta, position, i, d);
  table[position * d + i] = (C)math::cos(angle);
  table[position * d + half + i] = (C)math::sin(angle);
}

}  // namespace

void rope(View x, View table, int64_t offset, bool inverse, View y) {
  if (!x.size()) return;
  check(x.rows() <= UINT32_MAX && x.cols() <= longestRow, "rope: x has ", x.rows(), " rows of ", x.cols(),
        ", but at most ", UINT32_MAX, " of ", longestRow, " are possible on cuda");
  const Rope r = ropeOf(x, y, offset);
  withFloat(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    constexpr int size = perPack<T>;
    // Whether every half of a row of either tensor is made of whole packs.
    auto packed = [&](const View& v) {
      if ((uintptr_t)v.data % 16) return false;
      for (int i = 0; i + 1 < v.rank; i++)
        if (v.shape[i] > 1 && v.stride[i] % size) return false;
      return true;
    };
    const bool packs = r.half % size == 0 && packed(x) && packed(y);
    const int64_t threads =
        (int64_t)r.positions * (packs ? r.half / size : r.half) * ((r.others + rowsEach - 1) / rowsEach);
    launch("rope", packs ? ropeKernel<T, size> : ropeKernel<T, 1>, {blocksFor(threads, 256), 256}, x.as<T>(),
           table.as<C>(), y.as<T>(), r, inverse ? C(-1) : C(1));
  });
}

void ropeTable(double theta, View table) {
  auto run = [&](auto tag) {
    using C = typename decltype(tag)::type;
    const int64_t pairs = table.size() / 2;
    launch("ropeTable", ropeTableKernel<double, C>, {blocksFor(pairs, 256), 256}, theta, table.as<C>(), pairs,
           table.cols());
  };
  if (table.dtype == Dtype::float64)
    run(Tag<double>{});
  else
    run(Tag<float>{});
}

}  // namespace cuda
