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
  int rows;                // of this matrix: the tile ends there if not before
  int depth;               // of one product
  int64_t begin = 0, end;  // the steps along the depth that are ours, all the products of the sum in a row
};

// Adds the position of the i-th product to the offsets.
__device__ inline void locate(const BatchAxis* axes, int n, int64_t i, int64_t& a, int64_t& b, int64_t& y) {
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
  at.row = (top + tile % height) * tileRows;
  at.rows = p.m, at.depth = p.k;

  if (p.grouped != Grouped::no && blockIdx.x == 0 && warp() == 0) checkOffsets(p);
  if (p.grouped == Grouped::rows) {
    int group, first;
    if (!findBand(p, tileRows, at.row / tileRows, group, first, at.rows)) return false;
    at.row = first;
    at.b = group * p.groupStride;
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

// The same for eight neighbours that begin at a multiple of eight; `from` is in shared memory. T: bf16 or f16.
template <class T>
__device__ inline void finishEight(const Product& p, int64_t to, int col, const float* from) {
  if (!p.packs || col + 8 > p.n) {
    const int count = p.n - col < 8 ? p.n - col : 8;
#pragma unroll 1
    for (int i = 0; i < count; i++) finish<T>(p, to + i, col + i, from[i]);
    return;
  }
  const bool wide = p.out == Dtype::float32;
  float v[8];
  auto each = [&](auto&& f) {
#pragma unroll
    for (int i = 0; i < 8; i++) f(v[i], i);
  };
  // Adds what lies at `x`, times `scale`.
  auto addFloats = [&](const float* x, float scale) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const auto pack = loadPack<4>(x + i);
#pragma unroll
      for (int j = 0; j < 4; j++) v[i + j] += scale * pack.at[j];
    }
  };
  auto add = [&](const void* x, float scale) {
    if (wide) return addFloats(reinterpret_cast<const float*>(x) + to, scale);
    const auto pack = loadPack<8>(reinterpret_cast<const T*>(x) + to);
    each([&](float& y, int i) { y += scale * (float)pack.at[i]; });
  };
  auto store = [&](void* x) {
    if (wide) {
#pragma unroll
      for (int i = 0; i < 8; i += 4)
        storePack(reinterpret_cast<float*>(x) + to + i, Pack<float, 4>{v[i], v[i + 1], v[i + 2], v[i + 3]});
    } else {
      Pack<T, 8> pack;
      each([&](float y, int i) { pack.at[i] = T(y); });
      storePack(reinterpret_cast<T*>(x) + to, pack);
    }
  };
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    const auto pack = loadPack<4>(from + i);
#pragma unroll
    for (int j = 0; j < 4; j++) v[i + j] = pack.at[j] * (float)p.alpha;
  }
  if (p.bias) addFloats(reinterpret_cast<const float*>(p.bias) + col, 1);
  if (p.beta != 0) add(p.y, (float)p.beta);
  if (p.pre) store(p.pre);
  if (p.activates) each([&](float& y, int) { y = activated(p.activation, y); });
  if (p.residual) add(p.residual, 1);
  store(p.y);
}

}  // namespace cuda
