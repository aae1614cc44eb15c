// Products with a polynomial activation on Hopper, in tiles of 128 x 256: what y needs of it is done as the tile
// leaves, polyNorm of a's elements on their way to the tensor cores.
//
// Two warpgroups in turns would hide what is done as a tile leaves, but only in tiles of 128 x 128, which move 160
// bytes of shared memory a clock where 128 can be moved: a quarter slower, where 64 x 256 elements of a polynomial by 4
// warps cost 5 to 12 % of the products before them at a depth of 2048.
#include <algorithm>

#include "gemm_sm90.cuh"
#include "math/poly.h"

namespace cuda {
namespace {

using namespace sm90;

constexpr int cols = polyPartColsSm90, mostOrder = 4;

struct PolyWork : Work {
  TensorMap beside;  // h as it is read, or `pre` as it is written
};
struct PolyStorage : Storage<cols> {
  PhaseBarrier beside[consumers][2];  // a piece of h is there
  float perWarp[consumers][4][mostOrder + 1];
};

constexpr bool readsH(PolyStep step) { return step == PolyStep::reluGrad; }

// By power; the bias may be left out.
template <int R>
__device__ __forceinline__ void loadCoefficients(const PolyPart& poly, int group, float (&c)[R + 1]) {
  const int set = poly.sets > 1 ? group : 0;
  c[0] = poly.bias ? poly.bias[set] : 0;
#pragma unroll
  for (int k = 1; k <= R; k++) c[k] = poly.weight[set * R + R - k];
}

template <class T>
struct Leaving : Pieces {
  const PolyWork& w;

  __device__ __forceinline__ Leaving(const PolyWork& w, unsigned char (&out)[2][halfBytes], int group)
      : Pieces{out, group, (int)threadIdx.x % 128}, w(w) {}

  // 64 by 64 of T go where the map leads; rows that end among them, to `to`.
  __device__ __forceinline__ void leave(const TensorMap& map, void* to, const unsigned char* piece, int col, int row,
                                        int end) const {
    ready();
    if (end == w.p.m || row + 64 <= end) {
      if (t != 0) return;
      storeTile(map, col, row, 0, piece);
      commitStores();
      return;
    }
#pragma unroll 1
    for (int i = t; i < 64 * 8; i += 128) {
      const int r = row + i / 8, c = col + i % 8 * 8;
      if (r < end && c < w.p.n)
        *reinterpret_cast<uint4*>(reinterpret_cast<T*>(to) + (int64_t)r * w.p.n + c) =
            *reinterpret_cast<const uint4*>(piece + swizzle128(i * 16));
    }
    ready();                     // for the copy engine too
    if (t == 0) commitStores();  // of nothing: open() counts the pieces
  }
};

// What a warpgroup does with the 64 x 256 sums that it has made.
template <class T, int R, PolyStep step>
struct Finisher : Leaving<T> {
  using Leaving<T>::w, Leaving<T>::t, Leaving<T>::group, Leaving<T>::out;
  static constexpr int terms = step == PolyStep::squares ? R : R + 1;  // that are summed up

  PolyStorage& mem;
  unsigned parity = 0;          // a bit for each of the two pieces
  float coefficients[R + 1]{};  // relu: by power; reluGrad: their slopes
  float total[terms]{};         // reluGrad: this thread's, of the tile

  __device__ __forceinline__ Finisher(const PolyWork& w, PolyStorage& mem, int group)
      : Leaving<T>(w, mem.out[group], group), mem(mem) {}

  // Pieces of h, in the order in which they are worked on: two find room at a time, and leave as y from the same place.
  __device__ __forceinline__ int rowOf(const Tile& at) const { return at.row + group * 64; }
  __device__ __forceinline__ int pieces(const Tile& at) const {
    return rowOf(at) < at.end ? min(cols, w.p.n - at.col + 63) / 64 : 0;
  }
  __device__ __forceinline__ void request(const Tile& at, int i) {
    PhaseBarrier& there = mem.beside[group][i % 2];
    there.arriveExpecting(halfBytes);
    loadTile(out[i % 2], w.beside, at.col + i * 64, rowOf(at), 0, there);
  }

  // Before the products.
  __device__ __forceinline__ void begin(const Tile& at) {
    if constexpr (readsH(step)) {
      if (t == 0) {
        waitStoresRead<0>();
        for (int i = 0; i < min(2, pieces(at)); i++) request(at, i);
      }
      __syncwarp();
    }
  }

  __device__ __forceinline__ void finish(const Tile& at, float (&d)[cols / 2]) {
    if constexpr (step == PolyStep::relu || step == PolyStep::reluGrad) {
      float c[R + 1];
      loadCoefficients<R>(w.p.poly, at.batch, c);
      if constexpr (step == PolyStep::relu) {
#pragma unroll
        for (int k = 0; k <= R; k++) coefficients[k] = c[k];
      } else {
        poly::polyReluSlopes(R, c, coefficients);
#pragma unroll
        for (int k = 0; k < terms; k++) total[k] = 0;
      }
    }
    if (rowOf(at) < at.end) {
      if constexpr (step == PolyStep::relu)
        activate(at, d);
      else
        sumUp(at, d);
    }
    if constexpr (step == PolyStep::reluGrad) joinTotals(at);
  }

 private:
  __device__ __forceinline__ void activate(const Tile& at, const float (&d)[cols / 2]) {
    const Product& p = w.p;
    const int row = rowOf(at);
#pragma unroll
    for (int c = 0; c < cols; c += 64) {
      const int col = at.col + c;
      if (col >= p.n) break;
      uint32_t h[4][4];
#pragma unroll
      for (int i = 0; i < 16; i++) h[i / 4][i % 4] = packTwo<T>(d[c / 2 + 2 * i], d[c / 2 + 2 * i + 1]);
      auto store = [&](const TensorMap& map, void* to) {
        unsigned char* piece = this->template open<1>();
#pragma unroll
        for (int j = 0; j < 4; j++) storeMatrices(piece + this->place(j), h[j]);
        this->leave(map, to, piece, col, row, at.end);
      };
      if (p.pre) store(w.beside, p.pre);
#pragma unroll
      for (int i = 0; i < 16; i++) {
        float first, second;
        unpackTwo<T>(h[i / 4][i % 4], first, second);
        h[i / 4][i % 4] = packTwo<T>(poly::polyRelu(R, first, coefficients), poly::polyRelu(R, second, coefficients));
      }
      store(w.y, p.y);
    }
  }

  // Two neighbours: what becomes of them in y, and their share of the sums.
  __device__ __forceinline__ uint32_t pair(float first, float second, uint32_t h, float (&sums)[terms]) {
    if constexpr (step == PolyStep::reluGrad) {
      float x0, x1;
      unpackTwo<T>(h, x0, x1);
      poly::addProducts(R, poly::positive(x0), first, sums);
      poly::addProducts(R, poly::positive(x1), second, sums);
      return packTwo<T>(poly::polyReluGrad(R, x0, first, coefficients),
                        poly::polyReluGrad(R, x1, second, coefficients));
    }
    const uint32_t both = packTwo<T>(first, second);
    unpackTwo<T>(both, first, second);
    poly::addSquares(R, first, sums);
    poly::addSquares(R, second, sums);
    return both;
  }

  __device__ __forceinline__ void sumUp(const Tile& at, float (&d)[cols / 2]) {
    const Product& p = w.p;
    const int row = rowOf(at);
    if (at.col + cols > p.n) {  // columns that are not there are zero, unless a row of a is not finite
#pragma unroll
      for (int i = 0; i < cols / 2; i++)
        if (at.col + i / 4 * 8 >= p.n) d[i] = 0;
    }
    const int rows[2] = {row + resultRow(t, 0), row + resultRow(t, 2)};
    float sums[2][terms] = {};
#pragma unroll
    for (int c = 0; c < cols; c += 64) {
      const int col = at.col + c, index = c / 64;
      if (col >= p.n) break;
      unsigned char* piece;
      if constexpr (readsH(step)) {
        piece = out[index % 2];
        mem.beside[group][index % 2].wait(parity >> index % 2 & 1);
        parity ^= 1u << index % 2;
      } else {
        piece = this->template open<1>();
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float* v = d + c / 2 + j * 8;
        uint32_t h[4] = {}, r[4];
        if constexpr (readsH(step)) loadMatrices(h, piece + this->place(j));
#pragma unroll
        for (int i = 0; i < 4; i++) r[i] = pair(v[2 * i], v[2 * i + 1], h[i], sums[i % 2]);
        storeMatrices(piece + this->place(j), r);
      }
      this->leave(w.y, p.y, piece, col, row, at.end);
      if constexpr (readsH(step))
        if (t == 0 && index + 2 < pieces(at)) {
          waitStoresRead<0>();
          request(at, index + 2);
        }
    }
    if constexpr (step == PolyStep::reluGrad) {
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int k = 0; k < terms; k++) total[k] += rows[i] < at.end ? sums[i][k] : 0;
    } else {
      // The four lanes that share a row have all of it that is in the tile.
      const int64_t parts = (p.n + cols - 1) / cols;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float* to = p.poly.sums + (rows[i] * parts + at.col / cols) * terms;
#pragma unroll
        for (int k = 0; k < terms; k++) {
          const float sum = warpSum<4>(sums[i][k]);
          if (k % 4 == t % 4 && rows[i] < at.end) to[k] = sum;
        }
      }
    }
  }

  __device__ __forceinline__ void joinTotals(const Tile& at) {
#pragma unroll
    for (int k = 0; k < terms; k++) {
      const float sum = warpSum(total[k]);
      if (lane() == 0) mem.perWarp[group][t / 32][k] = sum;
    }
    syncThreads(1 + group, 128);
    if (t >= terms) return;
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += mem.perWarp[group][i][t];
    const int64_t parts = polyBandPartsSm90(w.p.n);
    w.p.poly.sums[(at.band * parts + at.col / cols * consumers + group) * terms + t] = sum;
  }
};

// One block a multiprocessor, tile after tile, the warpgroups 64 rows each.
template <class T, int R, PolyStep step>
__global__ void __launch_bounds__(threads, 1) polyLeavingKernel(const __grid_constant__ PolyWork w) {
#ifdef HAS_SM90A
  constexpr bool turnedB = readsH(step);
  auto& mem = sharedMemory<PolyStorage>();
  const int group = __shfl_sync(~0u, (int)threadIdx.x / 128, 0);
  if (threadIdx.x == 0)
    for (int i = 0; i < consumers * 2; i++) mem.beside[i / 2][i % 2].init(1);
  initBarriers(mem, consumers);
  if (group == consumers) {
    runProducer<cols, false, turnedB>(w, mem);
  } else {
    takeRegisters<232>();
    Multiplier<T, cols, false, turnedB> multiplier(w, mem, group);
    Finisher<T, R, step> finisher(w, mem, group);
    Tile at;
    while (multiplier.take(at)) {
      finisher.begin(at);
      float d[1][cols / 2];
      multiplier.multiply(at, d);
      finisher.finish(at, d[0]);
    }
    if (multiplier.t == 0) waitStoresRead<0>();
  }
#else
  __trap();
#endif
}

// Of the two rows that a lane has of each 16 x 16 piece of h.
template <class T, int R>
struct RowPolynomials {
  float scale[2], value[2][R + 1];
  float c[R + 1], norms[2][R + 1];  // of the next tile

  // Long before they are needed.
  __device__ __forceinline__ void load(const PolyPart& poly, const Tile& at, int row) {
    loadCoefficients<R>(poly, at.batch, c);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int mine = row + resultRow(threadIdx.x % 128, 2 * i);
#pragma unroll
      for (int k = 0; k <= R; k++) norms[i][k] = mine < at.end ? poly.norms[(int64_t)mine * (R + 1) + k] : 0;
    }
  }
  __device__ __forceinline__ void begin() {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      scale[i] = norms[i][0];
      poly::valueCoefficients(R, c, norms[i] + 1, value[i]);
    }
  }
  // In place.
  __device__ __forceinline__ void apply(uint32_t (&h)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float first, second;
      unpackTwo<T>(h[i], first, second);
      const int row = i % 2;
      h[i] =
          packTwo<T>(poly::horner(R, scale[row] * first, value[row]), poly::horner(R, scale[row] * second, value[row]));
    }
  }
};

// The products of a warpgroup whose operand a goes through registers, where its elements become polynomials: those of
// the next stage while the products of this one run.
template <class T, int R>
struct InsideMultiplier : Leaving<T> {
  using Leaving<T>::w, Leaving<T>::t, Leaving<T>::group;
  using Held = uint32_t[depth / 16][4];

  Storage<cols>& mem;
  const uint64_t firstB;
  Turn<Storage<cols>::stages> turn;
  RowPolynomials<T, R> polynomials;

  __device__ __forceinline__ InsideMultiplier(const PolyWork& w, Storage<cols>& mem, int group)
      : Leaving<T>(w, mem.out[group], group), mem(mem), firstB(operandAt(mem.stage[0].b, false, halfBytes)) {}

  // Of a stage that begins at k, where the tile is one of the first columns.
  __device__ __forceinline__ void keep(const Tile& at, const Held& a, int begin) const {
    T* kept = reinterpret_cast<T*>(w.p.poly.kept);
    if (!kept || at.col != 0) return;
#pragma unroll
    for (int k = 0; k < depth / 16; k++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int row = at.row + group * 64 + resultRow(t, i % 2 * 2);
        const int col = begin + k * 16 + i / 2 * 8 + resultCol(t, 0);
        if (row < at.end && col < at.length) *reinterpret_cast<uint32_t*>(kept + (int64_t)row * w.p.k + col) = a[k][i];
      }
  }

  // The next stage's, which begins at that depth.
  __device__ __forceinline__ int prepare(const Tile& at, Held& a, int begin) {
    const int left = at.length - begin;
    mem.full[turn.stage].wait(turn.parity);
    const unsigned char* from = mem.stage[turn.stage].a + group * halfBytes;
#pragma unroll
    for (int k = 0; k < depth / 16; k++) loadMatrices(a[k], from + this->place(k));
#pragma unroll
    for (int k = 0; k < depth / 16; k++) polynomials.apply(a[k]);
    keep(at, a, begin);
    if (left < depth) {  // the polynomial of nothing is not nothing
#pragma unroll
      for (int k = 0; k < depth / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          if (k * 16 + i / 2 * 8 >= left) a[k][i] = 0;
    }
    const int stage = turn.stage;
    turn.next();
    return stage;
  }
  // Afterwards the products before these are done, which read `other`.
  __device__ __forceinline__ void issue(float (&d)[cols / 2], const Held& a, Held& other, int stage, bool first) const {
    const uint64_t b = firstB + stage * (uint64_t)(sizeof(Stage<cols>) >> 4);
    fenceProducts();
#pragma unroll
    for (int k = 0; k < depth / 16; k++) addProduct<T, false>(d, a[k], b + k * nextDepth(false), !first || k > 0);
    commitProducts();
    waitProducts<1>();
    pinRegisters(other);
  }
  // By each warp: what it has read itself is all it knows of.
  __device__ __forceinline__ void release(int stage) const {
    if (lane() == 0) mem.empty[stage].arrive();
  }

  __device__ __forceinline__ void load(const Tile& at) { polynomials.load(w.p.poly, at, at.row + group * 64); }

  // One that was loaded.
  __device__ __forceinline__ void multiply(const Tile& at, float (&d)[cols / 2]) {
    polynomials.begin();
    Held even, odd = {};
    int evenStage = prepare(at, even, 0), oddStage = 0, last;
    for (int i = 0;; i += 2) {
      issue(d, even, odd, evenStage, i == 0);
      if (i > 0) release(oddStage);
      last = evenStage;
      if (i + 1 == at.steps) break;
      oddStage = prepare(at, odd, (i + 1) * depth);
      issue(d, odd, even, oddStage, false);
      release(evenStage);
      last = oddStage;
      if (i + 2 == at.steps) break;
      evenStage = prepare(at, even, (i + 2) * depth);
    }
    waitProducts<0>();
    release(last);
    pinRegisters(d);
  }

  __device__ __forceinline__ void store(const Tile& at, const float (&d)[cols / 2]) {
    const int row = at.row + group * 64;
    if (row >= at.end) return;
#pragma unroll
    for (int c = 0; c < cols; c += 64) {
      if (at.col + c >= w.p.n) break;
      unsigned char* piece = this->template open<1>();
      this->template narrow<T>(piece, d + c / 2);
      this->leave(w.y, w.p.y, piece, at.col + c, row, at.end);
    }
  }
};

// One block a multiprocessor, tile after tile, the warpgroups 64 rows each.
template <class T, int R>
__global__ void __launch_bounds__(threads, 1) polyInsideKernel(const __grid_constant__ PolyWork w) {
#ifdef HAS_SM90A
  auto& mem = sharedMemory<Storage<cols>>();
  const int group = __shfl_sync(~0u, (int)threadIdx.x / 128, 0);
  initBarriers(mem, consumers * 4);
  if (group == consumers) {
    runProducer<cols, false, false>(w, mem);
  } else {
    takeRegisters<232>();
    InsideMultiplier<T, R> multiplier(w, mem, group);
    Walker walker(w, cols);
    Tile at, next;
    bool more = walker.take(at);
    if (more) multiplier.load(at);
    while (more) {
      float d[cols / 2];
      multiplier.multiply(at, d);
      more = walker.take(next);
      if (more) multiplier.load(next);
      multiplier.store(at, d);
      at = next;
    }
    if (multiplier.t == 0) waitStoresRead<0>();
  }
#else
  __trap();
#endif
}

// ---- the host's part

struct Sources {
  TileSource a, b, y, beside;
  bool besides;
};

// What the copy engine is to do; false: it cannot, or there is no kernel for this product.
bool sourcesOf(const Product& p, Sources& s) {
  const PolyPart& poly = p.poly;
  if (poly.step == PolyStep::none || !device().warpgroups || p.out != p.type) return false;
  if (p.type == Dtype::bfloat16 ? poly.order < 2 || poly.order > mostOrder
                                : p.type != Dtype::float16 || poly.order != 3)
    return false;
  const bool turnedB = readsH(poly.step);
  if (p.a.transposed || p.b.transposed == turnedB) return false;
  if (p.grouped == Grouped::depth || p.kept || p.summed || p.parts > 1 || p.yStep != p.n) return false;
  if (p.m < 1 || p.n % 8 || p.k % 8) return false;
  if (poly.sets > 1 && (p.grouped != Grouped::rows || poly.sets != p.groups)) return false;

  s.a = operandSource(p, p.a, true, p.m, rows), s.b = operandSource(p, p.b, !turnedB, p.n, cols);
  if (p.grouped == Grouped::rows) s.b.length[2] = p.groups, s.b.stride[2] = p.groupStride;
  s.y = s.beside = {p.y, p.type, {p.n, p.m, 1}, {1, p.n, 0}, {64, 64, 1}};
  const void* beside = readsH(poly.step) ? poly.h : poly.step == PolyStep::relu ? p.pre : nullptr;
  s.besides = beside != nullptr;
  if (s.besides) s.beside.data = beside;
  return s.a.fits() && s.b.fits() && s.y.fits() && s.beside.fits();
}

template <class T, int R>
void launchStep(const PolyWork& w) {
  auto go = [&](const char* name, auto kernel, size_t shared) {
    const int64_t tiles = Tiles(w.p, rows, cols).blocks(w.p);
    launch(name, kernel, {(unsigned)std::min<int64_t>(tiles, device().processors), threads, shared}, w);
  };
  constexpr size_t leaving = sizeof(PolyStorage);
  switch (w.p.poly.step) {
    case PolyStep::relu:
      return go("gemm, polyRelu (sm_90)", polyLeavingKernel<T, R, PolyStep::relu>, leaving);
    case PolyStep::reluGrad:
      return go("gemm, polyReluGrad (sm_90)", polyLeavingKernel<T, R, PolyStep::reluGrad>, leaving);
    case PolyStep::squares:
      return go("gemm, squares (sm_90)", polyLeavingKernel<T, R, PolyStep::squares>, leaving);
    default:
      return go("polyNorm, gemm (sm_90)", polyInsideKernel<T, R>, sizeof(Storage<cols>));
  }
}

}  // namespace

bool polyOnSm90(const Product& p) {
  Sources s;
  return sourcesOf(p, s);
}

void gemmPolySm90(const Product& p) {
  Sources s;
  check(sourcesOf(p, s), "gemmPolySm90: polyOnSm90 says that there is no kernel for this product");
  PolyWork w{};
  w.p = p;
  w.p.axes[0] = {1, 0, 0, 0};
  w.alpha = 1;
  w.ofB = p.grouped == Grouped::rows ? Third::batch : Third::none;
  w.a = tensorMap(s.a), w.b = tensorMap(s.b), w.y = tensorMap(s.y);
  if (s.besides) w.beside = tensorMap(s.beside);
  if (p.type == Dtype::float16) return launchStep<f16, 3>(w);
  switch (p.poly.order) {
    case 2:
      return launchStep<bf16, 2>(w);
    case 3:
      return launchStep<bf16, 3>(w);
    default:
      return launchStep<bf16, 4>(w);
  }
}

}  // namespace cuda
