#pragma once
// The part of a product that a block makes: which matrices, which tile of y, which part of the depth.
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "gemm.h"

namespace cuda {

// Tiles of y, in rows and in columns; with groups of rows, as many as there may be.
struct Tiles {
  int down, across;
  HD Tiles(const Product& p, int rows, int cols)
      : down(p.grouped == Grouped::rows ? p.m / rows + p.groups : (p.m + rows - 1) / rows),
        across((p.n + cols - 1) / cols) {}
  HD int64_t blocks(const Product& p) const {
    return (int64_t)down * across * p.parts * (p.grouped == Grouped::depth ? p.groups : p.batch);
  }
};

// The block's place. Offsets are in elements, `row` and `col` those of y where the tile begins.
struct Place {
  int64_t a = 0, b = 0, y = 0;
  int row, col;
  int band, group = 0;     // the tile's place from above, and whose rows it has
  int rows;                // of this matrix: the tile ends there if not before
  int depth;               // of one product
  int64_t begin = 0, end;  // the steps along the depth that are ours, all the products of the sum in a row
};

// Adds the position of the i-th product to the offsets. I: int where that is enough, for its division is shorter.
template <class I>
__device__ inline void locate(const BatchAxis* axes, int n, I i, int64_t& a, int64_t& b, int64_t& y) {
  for (int x = n - 1; x >= 0; x--) {
    const int64_t at = i % axes[x].length;
    i /= axes[x].length;
    a += at * axes[x].a, b += at * axes[x].b, y += at * axes[x].y;
  }
}

__device__ inline int clampOffset(int32_t offset, int most) { return offset < 0 ? 0 : offset > most ? most : offset; }

// The t-th band of `each` rows, where every group begins a band of its own. false: there are fewer. Whole warps.
__device__ inline bool findBand(const Product& p, int each, int t, int& group, int& begin, int& end) {
  int before = 0;
  for (int first = 0; first < p.groups; first += 32) {
    const int g = first + lane();
    const int from = g < p.groups ? clampOffset(p.offsets[g], p.m) : p.m;
    const int to = g < p.groups ? clampOffset(p.offsets[g + 1], p.m) : p.m;
    const int bands = to > from ? (to - from + each - 1) / each : 0;
    int sum = bands;
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(~0u, sum, d);
      if (lane() >= d) sum += other;
    }
    const unsigned hit = __ballot_sync(~0u, before + sum > t);
    if (hit) {
      const int at = __ffs((int)hit) - 1;
      group = first + at;
      begin = __shfl_sync(~0u, from, at) + (t - before - __shfl_sync(~0u, sum - bands, at)) * each;
      end = __shfl_sync(~0u, to, at);
      return true;
    }
    before += __shfl_sync(~0u, sum, 31);
  }
  return false;
}

__device__ inline void checkOffsets(const Product& p) {
  const int rows = p.grouped == Grouped::rows ? p.m : p.k;
  bool fits = p.offsets[0] == 0 && p.offsets[p.groups] == rows;
  for (int g = lane(); g < p.groups; g += 32) fits = fits && p.offsets[g] <= p.offsets[g + 1];
  if (!fits) report(p.failure, p.offsets[0], p.offsets[p.groups], rows);
}

// false: there is nothing for this block. Called by whole warps. Blocks walk over y in bands of 8 tiles' height, so
// that those that run at one time share what they read.
__device__ inline bool place(const Product& p, int tileRows, int tileCols, int depthStep, Place& at) {
  const Tiles tiles(p, tileRows, tileCols);
  int64_t block = blockIdx.x;
  const int64_t each = (int64_t)tiles.down * tiles.across;
  int tile = (int)(block % each);
  block /= each;
  const int part = (int)(block % p.parts);
  const int64_t batch = block / p.parts;

  constexpr int bandHeight = 8;
  const int band = tile / (bandHeight * tiles.across), top = band * bandHeight;
  const int height = tiles.down - top < bandHeight ? tiles.down - top : bandHeight;
  tile -= top * tiles.across;
  at.col = tile / height * tileCols;
  at.band = top + tile % height;
  at.row = at.band * tileRows;
  at.rows = p.m, at.depth = p.k;

  if (p.grouped != Grouped::no && blockIdx.x == 0 && warp() == 0) checkOffsets(p);
  if (p.grouped == Grouped::rows) {
    if (!findBand(p, tileRows, at.band, at.group, at.row, at.rows)) return false;
    at.b = at.group * p.groupStride;
  } else if (p.grouped == Grouped::depth) {
    const int from = clampOffset(p.offsets[batch], p.k), to = clampOffset(p.offsets[batch + 1], p.k);
    at.depth = to > from ? to - from : 0;
    at.a = from * (p.a.transposed ? p.a.step : 1);
    at.b = from * (p.b.transposed ? 1 : p.b.step);
    at.y = batch * p.groupStride;
  } else {
    locate(p.axes, p.kept, batch, at.a, at.b, at.y);
  }
  const int64_t steps = p.sums * ((at.depth + depthStep - 1) / depthStep), share = (steps + p.parts - 1) / p.parts;
  at.begin = part * share;
  at.end = at.begin + share < steps ? at.begin + share : steps;
  at.y += part * p.partsStride;
  return true;
}

// Where the block's part of the depth begins: in which product of the sum, where that begins, how far in it.
struct Walk {
  int64_t a, b;
  int product = 0, k = 0;
  __device__ Walk(const Product& p, const Place& at, int step) : a(at.a), b(at.b) {
    const int64_t each = (at.depth + step - 1) / step;
    if (each) {
      product = (int)(at.begin / each);
      k = (int)(at.begin % each) * step;
    }
    int64_t none = 0;
    if (p.sums > 1) locate(p.axes + p.kept, p.summed, product, a, b, none);
  }
  // From the beginning of one product of the sum to that of the next, in a or in b.
  static __device__ int64_t between(const Product& p, int product, bool inA) {
    int64_t a = 0, b = 0, nextA = 0, nextB = 0, none = 0;
    locate(p.axes + p.kept, p.summed, product, a, b, none);
    locate(p.axes + p.kept, p.summed, product + 1, nextA, nextB, none);
    return inA ? nextA - a : nextB - b;
  }
};

template <class T>
__device__ __forceinline__ T activated(UnaryOp op, T x) {
  switch (op) {
    case UnaryOp::relu:
      return Relu::f(x);
    case UnaryOp::relu2:
      return Relu2::f(x);
    case UnaryOp::gelu:
      return Gelu::f(x);
    case UnaryOp::geluTanh:
      return GeluTanh::f(x);
    case UnaryOp::silu:
      return Silu::f(x);
    default:
      return x;
  }
}

// Stores a sum of products at element `to` of y, in column `col`. C: what it was summed in; T: the type of a and b.
template <class T, class C>
__device__ inline void finish(const Product& p, int64_t to, int col, C v) {
  auto read = [&](const void* from) {
    if constexpr (!std::is_same_v<T, C>)
      if (p.out != DtypeOf<C>::value) return (C) reinterpret_cast<const T*>(from)[to];
    return reinterpret_cast<const C*>(from)[to];
  };
  auto write = [&](void* into, C value) {
    if constexpr (!std::is_same_v<T, C>)
      if (p.out != DtypeOf<C>::value) {
        reinterpret_cast<T*>(into)[to] = T(value);
        return;
      }
    reinterpret_cast<C*>(into)[to] = value;
  };
  v *= (C)p.alpha;
  if (p.bias) v += reinterpret_cast<const C*>(p.bias)[col];
  if (p.beta != 0) v += (C)p.beta * read(p.y);
  if (p.pre) write(p.pre, v);
  if (p.activates) v = activated(p.activation, v);
  if (p.residual) v += read(p.residual);
  write(p.y, v);
}

// How many neighbours finishPack takes: 16 bytes of y, where y has the type of a and b.
template <class T>
constexpr int finishLength = perPack<T>;

// The same for neighbours that begin at a multiple of their number; `from` is in shared memory.
template <class T>
__device__ inline void finishPack(const Product& p, int64_t to, int col, const Compute<T>* from) {
  using C = Compute<T>;
  constexpr int n = finishLength<T>, short16 = perPack<C>;
  if (!p.packs || col + n > p.n) {
    const int count = p.n - col < n ? p.n - col : n;
#pragma unroll 1
    for (int i = 0; i < count; i++) finish<T>(p, to + i, col + i, from[i]);
    return;
  }
  const bool wide = p.out == DtypeOf<C>::value;
  C v[n];
  // Adds what lies at `x`, times `scale`.
  auto addWide = [&](const C* x, C scale) {
#pragma unroll
    for (int i = 0; i < n; i += short16) {
      const auto pack = loadPack<short16>(x + i);
#pragma unroll
      for (int j = 0; j < short16; j++) v[i + j] += scale * pack.at[j];
    }
  };
  auto add = [&](const void* x, C scale) {
    if (wide) return addWide(reinterpret_cast<const C*>(x) + to, scale);
    const auto pack = loadPack<n>(reinterpret_cast<const T*>(x) + to);
#pragma unroll
    for (int i = 0; i < n; i++) v[i] += scale * (C)pack.at[i];
  };
  auto store = [&](void* x) {
    if (wide) {
#pragma unroll
      for (int i = 0; i < n; i += short16) {
        Pack<C, short16> pack;
#pragma unroll
        for (int j = 0; j < short16; j++) pack.at[j] = v[i + j];
        storePack(reinterpret_cast<C*>(x) + to + i, pack);
      }
    } else {
      Pack<T, n> pack;
#pragma unroll
      for (int i = 0; i < n; i++) pack.at[i] = T(v[i]);
      storePack(reinterpret_cast<T*>(x) + to, pack);
    }
  };
#pragma unroll
  for (int i = 0; i < n; i++) v[i] = from[i] * (C)p.alpha;
  if (p.bias) addWide(reinterpret_cast<const C*>(p.bias) + col, 1);
  if (p.beta != 0) add(p.y, (C)p.beta);
  if (p.pre) store(p.pre);
  if (p.activates) {
#pragma unroll
    for (int i = 0; i < n; i++) v[i] = activated(p.activation, v[i]);
  }
  if (p.residual) add(p.residual, 1);
  store(p.y);
}

}  // namespace cuda
