// The rows matmul and linear: the product they ask for, and which tile makes it, in how many parts of its depth.
#include "gemm.h"

#include <cmath>

#include "device/product.cuh"
#include "device/shared.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace cuda {
namespace {

// An axis that only a and y have may lengthen m, one that is summed may lengthen k.
bool intoRows(Product& p, const BatchAxis& axis, int64_t& aRow, int64_t aCol) {
  if (axis.b != 0 || axis.y != p.m * p.yStep || (int64_t)p.m * axis.length >= INT32_MAX) return false;
  const int64_t row = p.m == 1 ? axis.a : aRow;
  if (axis.a != p.m * row || !matrixLayout((int64_t)p.m * axis.length, p.k, row, aCol).readable) return false;
  aRow = row;
  p.m *= axis.length;
  return true;
}
bool intoDepth(Product& p, const BatchAxis& axis, int64_t aRow, int64_t& aCol, int64_t& bRow, int64_t bCol) {
  const int64_t col = p.k == 1 ? axis.a : aCol, row = p.k == 1 ? axis.b : bRow, k = (int64_t)p.k * axis.length;
  if (axis.a != p.k * col || axis.b != p.k * row || k >= INT32_MAX) return false;
  if (!matrixLayout(p.m, k, aRow, col).readable || !matrixLayout(k, p.n, row, bCol).readable) return false;
  aCol = col, bRow = row;
  p.k = (int)k;
  return true;
}

}  // namespace

void matmul(View a, View b, View y, double alpha, double beta) {
  Product p;
  p.type = a.dtype, p.out = y.dtype;
  p.alpha = alpha, p.beta = beta;
  p.y = y.data;
  const int r = y.rank;
  p.m = (int)y.shape[r - 2], p.n = (int)y.shape[r - 1], p.k = (int)a.shape[r - 1];
  p.yStep = p.m > 1 ? y.stride[r - 2] : p.n;
  int64_t aRow = a.stride[r - 2], aCol = a.stride[r - 1], bRow = b.stride[r - 2], bCol = b.stride[r - 1];
  BatchAxis summed[maxRank];
  for (int i = r - 3; i >= 0; i--) {  // the innermost first
    if (y.shape[i] == 1) continue;
    const BatchAxis axis{(int)y.shape[i], a.stride[i], b.stride[i], y.stride[i]};
    if (axis.y ? intoRows(p, axis, aRow, aCol) : intoDepth(p, axis, aRow, aCol, bRow, bCol)) continue;
    (axis.y ? p.axes[p.kept++] : summed[p.summed++]) = axis;
    (axis.y ? p.batch : p.sums) *= axis.length;
  }
  for (int i = 0; i < p.summed; i++) p.axes[p.kept + i] = summed[i];
  const MatrixLayout la = matrixLayout(p.m, p.k, aRow, aCol), lb = matrixLayout(p.k, p.n, bRow, bCol);
  p.a = {a.data, la.step, la.transposed};
  p.b = {b.data, lb.step, lb.transposed};
  multiply(p);
}

void linear(View a, View b, Epilogue then, View y) {
  Product p;
  p.type = a.dtype, p.out = y.dtype;
  p.m = (int)y.shape[0], p.n = (int)y.shape[1], p.k = (int)a.shape[1];
  const MatrixLayout la = matrixLayout(p.m, p.k, a.stride[0], a.stride[1]);
  const MatrixLayout lb = matrixLayout(p.k, p.n, b.stride[0], b.stride[1]);
  p.a = {a.data, la.step, la.transposed};
  p.b = {b.data, lb.step, lb.transposed};
  p.y = y.data, p.yStep = p.n;
  p.bias = then.bias.data, p.pre = then.pre.data, p.residual = then.residual.data;
  p.activates = then.activates, p.activation = then.activation;
  multiply(p);
}

int copyWidth(const Product& p, bool ofA) {
  const Operand& x = ofA ? p.a : p.b;
  uint64_t all = (uintptr_t)x.data | (uint64_t)x.step * 2;
  for (int i = 0; i < p.kept + p.summed; i++) all |= (uint64_t)(ofA ? p.axes[i].a : p.axes[i].b) * 2;
  if (!ofA && p.grouped == Grouped::rows) all |= (uint64_t)p.groupStride * 2;
  return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 2;
}
bool smallTileOnly(const Product& p) {
  return copyWidth(p, true) < 16 || copyWidth(p, false) < 16 || (p.a.transposed && p.b.transposed);
}

namespace {

// What a tile is expected to cost, in cycles of a multiprocessor: `rate` multiply-adds a cycle, `start` until the first
// and from the last on.
struct TileCost {
  int rows, cols, deep;
  int blocks;  // that a multiprocessor holds at a time
  double rate, start;
};
// Small, medium, large, those of sm_80; then the two of sm_90, which gemmSm90 chooses from. Only the ratios of the
// rates matter much.
constexpr TileCost tensorTiles[] = {{64, 64, 64, 3, 560, 2000},
                                    {128, 128, 32, 2, 900, 4000},
                                    {128, 256, 32, 1, 960, 6000},
                                    {128, 128, 64, 1, 1600, 2000},
                                    {128, 256, 64, 1, 1800, 3000}};
constexpr TileCost floatTiles[] = {{64, 64, 16, 2, 40, 2000}, {128, 128, 8, 2, 56, 4000}};
constexpr int tilesOfSm80 = 3, polyTileOfSm80 = 1, polyTileOfSm90 = 4;
constexpr double bytesACycle = 20;  // of memory, for each multiprocessor

struct Plan {
  int tile = 0, parts = 1;
  double cycles = 1e300;
};

// Of all of y in such tiles: the multiprocessor with most blocks decides, and parts have to be added up.
double cyclesOf(const Product& p, const TileCost& t, int parts) {
  auto over = [](double a, double b) { return std::ceil(a / b); };
  const int processors = device().processors;
  double blocks = over(p.n, t.cols), depth = p.k;
  if (p.grouped == Grouped::rows)
    blocks *= p.groups * over((double)p.m / p.groups, t.rows);
  else
    blocks *= over(p.m, t.rows) * (p.grouped == Grouped::depth ? p.groups : (double)p.batch);
  if (p.grouped == Grouped::depth) depth /= p.groups;
  const double steps = over(depth, t.deep) * (double)p.sums;
  if (parts > 1 && steps * t.deep < 256.0 * parts) return 1e300;
  const double each = over(blocks * parts, processors), work = (double)t.rows * t.cols * t.deep;
  double cycles = each * over(steps, parts) * work / t.rate + over(each, t.blocks) * t.start;
  if (parts > 1) cycles += 4000 + (double)p.m * p.n * parts * 8 / (bytesACycle * processors);
  return cycles;
}

// The tile, and the number of parts of the depth, that end first.
Plan bestPlan(const Product& p, bool onSm90 = true) {
  const bool plain = p.type == Dtype::float32 || p.type == Dtype::float64;
  const TileCost* tiles = plain ? floatTiles : tensorTiles;
  const int count = plain                           ? (p.type == Dtype::float64 ? 1 : 2)
                    : smallTileOnly(p)              ? 1
                    : onSm90 && device().warpgroups ? 5
                                                    : tilesOfSm80;
  const int mostParts = p.grouped != Grouped::no || p.batch > 1 ? 1 : 64;
  Plan best;
  for (int i = 0; i < count; i++)
    for (int parts = 1; parts <= mostParts; parts++) {
      const double cycles = cyclesOf(p, tiles[i], parts);
      if (cycles < best.cycles) best = {i, parts, cycles};
    }
  return best;
}

void run(const Product& p, int tile) {
  if (p.type == Dtype::float32 || p.type == Dtype::float64)
    gemmFloat(p, (FloatTile)tile);
  else if (tile < tilesOfSm80 || !gemmSm90(p))
    gemmSm80(p, (TensorTile)(tile < tilesOfSm80 ? tile : bestPlan(p, false).tile));
}

// y from the parts of the depth, added in order; a thread makes 16 bytes of it.
template <class T>
__global__ void __launch_bounds__(256)
    joinKernel(const __grid_constant__ Product p, const Compute<T>* parts, int64_t step, int64_t stride, int count) {
  using C = Compute<T>;
  constexpr int n = finishLength<T>;
  struct Storage {
    C v[256][n];
  };
  C* sums = sharedMemory<Storage>().v[threadIdx.x];
  const int64_t across = (p.n + n - 1) / n, i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  const int64_t row = i / across, col = i % across * n;
  if (row >= p.m) return;
  C v[n] = {};
  for (int part = 0; part < count; part++) {
    const C* from = parts + part * stride + row * step + col;
#pragma unroll
    for (int j = 0; j < n; j += perPack<C>) {
      const auto pack = loadPack<perPack<C>>(from + j);
#pragma unroll
      for (int l = 0; l < perPack<C>; l++) v[j + l] += pack.at[l];
    }
  }
#pragma unroll
  for (int j = 0; j < n; j++) sums[j] = v[j];
  finishPack<T>(p, row * p.yStep + col, (int)col, sums);
}

void runInParts(const Product& p, const Plan& plan) {
  Product part = p;
  part.parts = plan.parts;
  part.out = p.type == Dtype::float64 ? Dtype::float64 : Dtype::float32;
  part.yStep = (p.n + 7) / 8 * 8;
  part.partsStride = p.m * part.yStep;
  part.alpha = 1, part.beta = 0;
  part.bias = part.residual = nullptr;
  part.pre = nullptr;
  part.activates = false;
  part.packs = true;
  Scratch sums((size_t)plan.parts * part.partsStride * dtypeSize(part.out));
  part.y = sums.as<void>();
  run(part, plan.tile);
  withFloat(p.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int n = finishLength<T>;
    launch("gemm: join", joinKernel<T>, {blocksFor(p.m * ((p.n + n - 1) / n), 256), 256, 256 * n * sizeof(Compute<T>)},
           p, (const Compute<T>*)part.y, part.yStep, part.partsStride, plan.parts);
  });
}

}  // namespace

bool stepPays(const Product& p, bool onSm90) {
  // A pass is a launch, and reads again what the product wrote or writes what it will read: 3 bytes, more or less.
  const double elements = (double)p.m * (p.poly.step == PolyStep::normInside ? p.k : p.n);
  const double pass = 4000 + 3 * elements / (bytesACycle * device().processors);
  return cyclesOf(p, tensorTiles[onSm90 ? polyTileOfSm90 : polyTileOfSm80], 1) <= bestPlan(p).cycles + pass;
}

void multiply(const Product& given) {
  Product p = given;
  uint64_t all = (uintptr_t)p.y | (uintptr_t)p.bias | (uintptr_t)p.pre | (uintptr_t)p.residual | (uint64_t)p.yStep * 2;
  for (int i = 0; i < p.kept; i++) all |= (uint64_t)p.axes[i].y * 2;
  if (p.grouped == Grouped::depth) all |= (uint64_t)p.groupStride * 2;
  p.packs = all % 16 == 0;
  const Plan plan = bestPlan(p);
  plan.parts > 1 ? runInParts(p, plan) : run(p, plan.tile);
}

}  // namespace cuda
