// Products with a polynomial activation in them, on the tensor cores of sm_80 and later: tiles of 128 x 128, two blocks
// a multiprocessor, so that one does the activation's work while the other multiplies.
//
// The tile of h that the gradient reads comes through the ring of stages, behind the depth's last ones. normInside
// works on each tile of a where its copies have laid it, before the barrier that shows it to the other warps: each
// thread on what it copied itself.
#include "gemm_sm80.cuh"
#include "poly.cuh"

namespace cuda {
namespace {

using S = Medium;
constexpr int stageBytes = S::aBytes + S::bBytes, packBytes = 16;
constexpr int packsOfWarp = S::warpRows * S::warpCols / 8 / 32;  // that a lane takes; each is four rows below the last
constexpr int packsOfStage = stageBytes / packBytes / S::threads;
static_assert(S::threads == S::rows && S::warpCols == polyPartColsSm80 && S::rows == polyBand);
static_assert(packsOfWarp <= 2 * packsOfStage && S::stages == 4 && 2 * 16 * S::stagingRow * 4 <= stageBytes);

// What normInside makes of an element x: the polynomial of scale x. All rows share the bias.
template <int R>
struct alignas(16) RowFactors {
  float scale, value[R];
};

template <int R>
struct PolyStorage : Storage<S> {
  RowFactors<R> rows[S::rows];  // normInside
  float w[R + 1];               // relu, reluGrad: coefficients by power
  double perWarp[S::threads / 32][R + 1];
};

template <class T>
__device__ __forceinline__ Pack<T, 8> rounded(const float (&v)[8]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) words[i] = packTwo<T>(v[2 * i], v[2 * i + 1]);
  Pack<T, 8> pack;
  memcpy(&pack, words, sizeof pack);
  return pack;
}

template <class T, PolyStep step, int R>
struct OnTheWay {
  static constexpr bool readsH = step == PolyStep::reluGrad;
  static constexpr bool oneProduct = true;
  static constexpr bool worksOnA = step == PolyStep::normInside;
  const Product& p;
  PolyStorage<R>& s;
  float bias = 0;
  bool keeps = false;

  __device__ __forceinline__ void begin() {
    const PolyPart& q = p.poly;
    const int64_t set = q.sets > 1 ? s.place.group : 0;
    auto coefficient = [&](int k) { return k > 0 ? q.weight[set * R + R - k] : q.bias ? q.bias[set] : 0; };
    const int line = threadIdx.x;
    const int64_t row = s.place.row + line;
    const bool inside = row < s.place.rows;
    if constexpr (step == PolyStep::relu || step == PolyStep::reluGrad)
      if (line <= R) s.w[line] = coefficient(line);
    if constexpr (step == PolyStep::normInside) {
      float w[R + 1], inverse[R], value[R + 1];
      RowFactors<R> factors;
      factors.scale = inside ? q.norms[row * (R + 1)] : 0;
#pragma unroll
      for (int k = 0; k <= R; k++) w[k] = coefficient(k);
#pragma unroll
      for (int k = 0; k < R; k++) inverse[k] = inside ? q.norms[row * (R + 1) + k + 1] : 0;
      poly::valueCoefficients(R, w, inverse, value);
#pragma unroll
      for (int k = 0; k < R; k++) factors.value[k] = value[k + 1];
      s.rows[line] = factors;
      bias = value[0];
      keeps = q.kept && s.place.col == 0;
    }
  }

  // h: the packs that this thread will want, in their order.
  __device__ __forceinline__ void behind(int number, unsigned char* stage) const {
    if constexpr (readsH) {
      if (number * packsOfStage >= packsOfWarp) return;
      int row = s.place.row + warpRow<S>() + lane() / 8 + 4 * packsOfStage * number;
      const int col = s.place.col + warpCol<S>() + lane() % 8 * 8;
      const T* from = reinterpret_cast<const T*>(p.poly.h) + (int64_t)row * p.n + col;
      unsigned char* to = stage + threadIdx.x * packBytes;
#pragma unroll 1
      for (int i = 0; i < packsOfStage; i++, row += 4, from += 4 * (int64_t)p.n, to += S::threads * packBytes)
        copyAsync<packBytes>(to, from, row < s.place.rows && col < p.n ? packBytes : 0);
    }
  }

  struct Held {
    Pack<T, 8> x;
    RowFactors<R> row;
  };
  __device__ __forceinline__ Held load(const unsigned char* chunk, int line) const {
    return {loadPack<8>(reinterpret_cast<const T*>(chunk)), s.rows[line]};
  }
  __device__ __forceinline__ Pack<T, 8> made(const Held& held) const {
    float value[R + 1];
    value[0] = bias;
#pragma unroll
    for (int k = 0; k < R; k++) value[k + 1] = held.row.value[k];
    float y[8];
#pragma unroll
    for (int e = 0; e < 8; e++) y[e] = poly::horner(R, (float)held.x.at[e] * held.row.scale, value);
    return rounded<T>(y);
  }
  // polyNorm(h) goes to memory from where it lies: only the blocks of the first columns do it.
  __device__ __forceinline__ void after(const unsigned char* chunk, int left) const {
    if (!keeps || left <= 0) return;
    using Copy = TileCopy<T, S::rows, S::deep, S::threads, true>;
#pragma unroll 1
    for (int i = 0; i < Copy::passes; i++) {
      const int64_t row = s.place.row + Copy::line() + i * Copy::perPass;
      if (row < s.place.rows)
        storePack(reinterpret_cast<T*>(p.poly.kept) + (row + 1) * p.k - left,
                  loadPack<8>(reinterpret_cast<const T*>(chunk + i * Copy::apart)));
    }
  }
};

// What becomes of eight neighbours of the product, given those of h. `pre`: the product as it is rounded; sums: what
// the step adds up.
template <class T, PolyStep step, int R>
__device__ __forceinline__ Pack<T, 8> finishEight(const float (&v)[8], const Pack<T, 8>& h, const float* coefficients,
                                                  Pack<T, 8>& pre, float* sums) {
  pre = rounded<T>(v);
  if constexpr (step == PolyStep::squares)
#pragma unroll
    for (int e = 0; e < 8; e++) poly::addSquares(R, (float)pre.at[e], sums);
  if constexpr (step == PolyStep::relu || step == PolyStep::reluGrad) {
    float y[8];
#pragma unroll
    for (int e = 0; e < 8; e++) {
      if constexpr (step == PolyStep::relu) {
        y[e] = poly::polyRelu(R, (float)pre.at[e], coefficients);
      } else {
        y[e] = poly::polyReluGrad(R, (float)h.at[e], v[e], coefficients);
        poly::addProducts(R, poly::positive((float)h.at[e]), v[e], sums);
      }
    }
    return rounded<T>(y);
  } else {
    return pre;
  }
}

// A block makes a tile of y, a warp a part of it in its registers.
template <class T, PolyStep step, int R>
__global__ void __launch_bounds__(S::threads, S::blocks) polyTensorKernel(const __grid_constant__ Product p) {
  using Way = OnTheWay<T, step, R>;
  constexpr bool bTurned = !Way::readsH;
  constexpr bool sumsRows = step == PolyStep::squares;
  auto& s = sharedMemory<PolyStorage<R>>();
  Place at;
  if (!place(p, S::rows, S::cols, S::deep, at)) return;
  Sums<S> sum;
  const int free = sumTile<T, S, false, bTurned, false>(p, int2{16, 16}, s, at, sum, Way{p, s});
  auto stageAt = [&](int i) {
    const int to = free + i * stageBytes;
    return s.bytes + (to < S::stages * stageBytes ? to : to - S::stages * stageBytes);
  };

  float coefficients[R + 1];
  if constexpr (step == PolyStep::relu) {
#pragma unroll
    for (int k = 0; k <= R; k++) coefficients[k] = s.w[k];
  } else if constexpr (step == PolyStep::reluGrad) {
    poly::polyReluSlopes(R, s.w, coefficients);
  }
  [[maybe_unused]] double tileSums[R + 1] = {};
  // h lies in the first two stages.
  float* staging = reinterpret_cast<float*>(stageAt(2 + warp() / 2)) + warp() % 2 * 16 * S::stagingRow;
  const int row = s.place.row + warpRow<S>() + lane() / 8, col = s.place.col + warpCol<S>() + lane() % 8 * 8;
  const int rowsLeft = s.place.rows - row;
  const bool colInside = col < p.n;
  const int parts = (p.n + S::warpCols - 1) / S::warpCols, part = col / S::warpCols;
  int64_t to = (int64_t)row * p.n + col, toSum = ((int64_t)row * parts + part) * R + lane() % 8;
#pragma unroll 1
  for (int piece = 0; piece < S::warpRows / 16; piece++) {
    stage<S>(sum, piece, staging);
    __syncwarp();
    [[maybe_unused]] float pieceSums[R + 1] = {};
#pragma unroll
    for (int i = 0; i < 4; i++, to += 4 * (int64_t)p.n, toSum += 4 * parts * R) {
      const int below = 16 * piece + 4 * i, pack = 4 * piece + i;
      const bool inside = below < rowsLeft && colInside;
      const float* from = staging + (4 * i + lane() / 8) * S::stagingRow + lane() % 8 * 8;
      const auto low = loadPack<4>(from), high = loadPack<4>(from + 4);
      float v[8];
#pragma unroll
      for (int e = 0; e < 4; e++) v[e] = low.at[e], v[e + 4] = high.at[e];
      Pack<T, 8> h{}, pre;
      if constexpr (Way::readsH)
        h = loadPack<8>(reinterpret_cast<const T*>(stageAt(pack / packsOfStage) +
                                                   (pack % packsOfStage * S::threads + threadIdx.x) * packBytes));
      constexpr int N = powerOfTwo(R);
      float rowSums[N] = {};
      if (inside) {
        const Pack<T, 8> out =
            finishEight<T, step, R>(v, h, coefficients, pre, step == PolyStep::reluGrad ? pieceSums : rowSums);
        if constexpr (step == PolyStep::relu)
          if (p.pre) storePack(reinterpret_cast<T*>(p.pre) + to, pre);
        storePack(reinterpret_cast<T*>(p.y) + to, out);
      }
      if constexpr (sumsRows) {
        const float whole = scatterSum<N, 8>(rowSums);
        if (below < rowsLeft && part < parts && lane() % 8 < R) p.poly.sums[toSum] = whole;
      }
    }
    if constexpr (step == PolyStep::reluGrad)
#pragma unroll
      for (int k = 0; k <= R; k++) tileSums[k] += pieceSums[k];
    __syncwarp();
  }
  if constexpr (step == PolyStep::reluGrad) {
#pragma unroll
    for (int k = 0; k <= R; k++) {
      const double whole = warpSum(tileSums[k]);
      if (lane() == 0) s.perWarp[warp()][k] = whole;
    }
    __syncthreads();
    if (threadIdx.x <= R) {
      double whole = 0;
      for (int i = 0; i < S::threads / 32; i++) whole += s.perWarp[i][threadIdx.x];
      const int64_t first = (int64_t)s.place.band * polyBandPartsSm80(p.n);
      p.poly.sums[(first + s.place.col / S::cols) * (R + 1) + threadIdx.x] = (float)whole;
    }
  }
}

template <class T, PolyStep step, int R>
void run(const Product& p) {
  launch("gemm: poly", polyTensorKernel<T, step, R>,
         {(unsigned)Tiles(p, S::rows, S::cols).blocks(p), S::threads, sizeof(PolyStorage<R>)}, p);
}

template <class T, int R>
void runStep(const Product& p) {
  switch (p.poly.step) {
    case PolyStep::relu:
      return run<T, PolyStep::relu, R>(p);
    case PolyStep::reluGrad:
      return run<T, PolyStep::reluGrad, R>(p);
    case PolyStep::squares:
      return run<T, PolyStep::squares, R>(p);
    case PolyStep::normInside:
      return run<T, PolyStep::normInside, R>(p);
    case PolyStep::none:
      return;
  }
}

}  // namespace

bool polyOnSm80(const Product& p) {
  const PolyPart& q = p.poly;
  const bool readsH = q.step == PolyStep::reluGrad;
  // Exact orders: a coefficient of zero would make a NaN of an infinite x.
  if (p.type == Dtype::bfloat16 ? q.order < 2 || q.order > 4 : p.type != Dtype::float16 || q.order != 3) return false;
  if (q.step == PolyStep::none || p.out != p.type || p.grouped == Grouped::depth || p.parts > 1) return false;
  if (p.a.transposed || p.b.transposed == readsH) return false;
  if (copyWidth(p, true) < 16 || copyWidth(p, false) < 16 || p.n % 8 || p.yStep != p.n) return false;
  if (q.step == PolyStep::normInside && p.k % 8) return false;  // chunks are inside the depth or beyond it
  return ((uintptr_t)p.y | (uintptr_t)p.pre | (uintptr_t)q.h | (uintptr_t)q.kept) % 16 == 0;
}

void gemmPolySm80(const Product& p) {
  if (p.type == Dtype::float16) return runStep<f16, 3>(p);
  if (p.poly.order == 2) return runStep<bf16, 2>(p);
  if (p.poly.order == 3) return runStep<bf16, 3>(p);
  runStep<bf16, 4>(p);
}

}  // namespace cuda
