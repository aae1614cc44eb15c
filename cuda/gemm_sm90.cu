// Products of bf16 or f16 on Hopper, with any epilogue that works element by element.
#include "gemm_sm90.cuh"

#include "device/pack.cuh"

namespace cuda {
namespace {

using namespace sm90;

// Which function is decided once. Two values at a time: the accumulators leave no registers for more.
__device__ __forceinline__ void activateFour(UnaryOp op, float (&x)[4]) {
  auto each = [&](auto f) {
#pragma unroll 1
    for (int half = 0; half < 2; half++) {
      const float first = decltype(f)::f(x[0]), second = decltype(f)::f(x[1]);
      x[0] = x[2], x[1] = x[3], x[2] = first, x[3] = second;
    }
  };
  switch (op) {
    case UnaryOp::relu:
      return each(Relu{});
    case UnaryOp::relu2:
      return each(Relu2{});
    case UnaryOp::gelu:
      return each(Gelu{});
    case UnaryOp::geluTanh:
      return each(GeluTanh{});
    case UnaryOp::silu:
      return each(Silu{});
    default:
      return;
  }
}

// Up to four neighbours of y: what finish() does, in one piece.
template <class T>
__device__ __forceinline__ void finishFour(const Work& w, int64_t to, int col, float4 v) {
  const Product& p = w.p;
  float x[4] = {v.x * w.alpha, v.y * w.alpha, v.z * w.alpha, v.w * w.alpha};
  const int count = min(4, p.n - col);
  const bool narrow = p.out != Dtype::float32, whole = w.byFours && count == 4;
  auto addOf = [&](auto tag, const void* data, float times) {
    using E = typename decltype(tag)::type;
    const E* from = reinterpret_cast<const E*>(data) + to;
    if (whole) {
      const auto pack = loadPack<4>(from);
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] += times * (float)pack.at[i];
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < count) x[i] += times * (float)from[i];
    }
  };
  auto add = [&](const void* data, float times) {
    narrow ? addOf(Tag<T>{}, data, times) : addOf(Tag<float>{}, data, times);
  };
  auto writeOf = [&](auto tag, void* data) {
    using E = typename decltype(tag)::type;
    E* into = reinterpret_cast<E*>(data) + to;
    if (whole) {
      Pack<E, 4> pack;
#pragma unroll
      for (int i = 0; i < 4; i++) pack.at[i] = E(x[i]);
      storePack(into, pack);
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < count) into[i] = E(x[i]);
    }
  };
  auto write = [&](void* data) { narrow ? writeOf(Tag<T>{}, data) : writeOf(Tag<float>{}, data); };
  if (p.bias) {
    const float* bias = reinterpret_cast<const float*>(p.bias) + col;
    if (whole) {
      const auto pack = loadPack<4>(bias);
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] += pack.at[i];
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < count) x[i] += bias[i];
    }
  }
  if (w.beta != 0) add(p.y, w.beta);
  if (p.pre) write(p.pre);
  if (p.activates) activateFour(p.activation, x);
  if (p.residual) add(p.residual, 1);
  write(p.y);
}

// 64 rows of a tile go to y.
template <class T, int cols>
struct Writer : Pieces {
  const Work& w;

  __device__ __forceinline__ Writer(const Work& w, unsigned char (&out)[2][halfBytes], int group, int t)
      : Pieces{out, group, t}, w(w) {}
  __device__ __forceinline__ void close(const void* piece, int col, int row, int third) {
    ready();
    if (t != 0) return;
    if (w.adds)
      addTile(w.y, col, row, third, piece);
    else
      storeTile(w.y, col, row, third, piece);
    commitStores();
  }
  __device__ __forceinline__ void scale(float (&d)[cols / 2], int col) const {
    if (w.alpha != 1) {
#pragma unroll
      for (int i = 0; i < cols / 2; i++) d[i] *= w.alpha;
    }
    if (!w.p.bias) return;
    const float* bias = reinterpret_cast<const float*>(w.p.bias);
#pragma unroll
    for (int i = 0; i < cols / 2; i += 4) {
      const int c = col + resultCol(t, i);
      const float first = c < w.p.n ? bias[c] : 0, second = c + 1 < w.p.n ? bias[c + 1] : 0;
      d[i] += first, d[i + 1] += second, d[i + 2] += first, d[i + 3] += second;
    }
  }
  // 32 columns as float32.
  __device__ __forceinline__ void floats(unsigned char* piece, const float* d) const {
#pragma unroll
    for (int i = 0; i < 16; i += 2)
      *reinterpret_cast<float2*>(piece + swizzle128(resultRow(t, i) * 128 + resultCol(t, i) * 4)) =
          float2{d[i], d[i + 1]};
  }

  __device__ __forceinline__ void tiles(const Tile& at, int row, float (&d)[cols / 2]) {
    scale(d, at.col);
    if (w.p.out == Dtype::float32) {
#pragma unroll
      for (int c = 0; c < cols; c += 32) {
        if (at.col + c >= w.p.n) break;
        unsigned char* piece = open<1>();
        floats(piece, d + c / 2);
        close(piece, at.col + c, row, at.out);
      }
    } else {
#pragma unroll
      for (int c = 0; c < cols; c += 64) {
        if (at.col + c >= w.p.n) break;
        unsigned char* piece = open<1>();
        narrow<T>(piece, d + c / 2);
        close(piece, at.col + c, row, at.out);
      }
    }
  }

  // Any y and any epilogue: rows up to the end of the group, columns up to n.
  __device__ __forceinline__ void elements(const Tile& at, int row, const float (&d)[cols / 2]) {
    const Product& p = w.p;
    const int64_t base = at.out * w.outStride;
#pragma unroll
    for (int c = 0; c < cols; c += 32) {
      if (at.col + c >= p.n) break;
      unsigned char* piece = open<0>();
      floats(piece, d + c / 2);
      syncThreads(1 + group, 128);
#pragma unroll 1
      for (int i = t; i < 64 * 8; i += 128) {
        const int r = row + i / 8, col = at.col + c + i % 8 * 4;
        if (r >= at.end || col >= p.n) continue;
        const float4 v = *reinterpret_cast<const float4*>(piece + swizzle128(i * 16));
        finishFour<T>(w, base + r * p.yStep + col, col, v);
      }
    }
  }
};

template <class T, int cols, bool turnedA, bool turnedB>
__device__ __forceinline__ void consume(const Work& w, Storage<cols>& mem, int group) {
  Multiplier<T, cols, turnedA, turnedB> multiplier(w, mem, group);
  Writer<T, cols> writer(w, mem.out[group], group, multiplier.t);
  Tile at;
  while (multiplier.take(at)) {
    typename decltype(multiplier)::Sums d;
    multiplier.multiply(at, d);
#pragma unroll
    for (int half = 0; half < multiplier.halves; half++) {
      const int row = at.row + (multiplier.firstHalf + half) * 64;
      if (row >= at.end) break;
      if (w.tiled && (at.end == w.p.m || row + 64 <= at.end))
        writer.tiles(at, row, d[half]);
      else
        writer.elements(at, row, d[half]);
    }
  }
  if (multiplier.t == 0) waitStoresRead<0>();
}

// One block a multiprocessor, tile after tile. turned: the operand's columns (of a) or rows (of b) are in order.
template <class T, int cols, bool turnedA, bool turnedB>
__global__ void __launch_bounds__(threads, 1) warpgroupsKernel(const __grid_constant__ Work w) {
#ifdef HAS_SM90A
  auto& mem = sharedMemory<Storage<cols>>();
  const int group = __shfl_sync(~0u, (int)threadIdx.x / 128, 0);
  initBarriers(mem, takesTurns<cols> ? 1 : consumers);
  if (group == consumers) {
    runProducer<cols, turnedA, turnedB>(w, mem);
  } else {
    takeRegisters<232>();
    consume<T, cols, turnedA, turnedB>(w, mem, group);
  }
#else
  __trap();
#endif
}

// ---- the host's part

// Neighbouring axes that all three step through as if they were one become one.
int joinAxes(BatchAxis* axes, int count) {
  int n = 0;
  for (int i = 0; i < count; i++) {
    const BatchAxis& inner = axes[i];
    if (inner.length == 1) continue;
    if (n) {
      BatchAxis& outer = axes[n - 1];
      const int64_t l = inner.length;
      if (outer.a == inner.a * l && outer.b == inner.b * l && outer.y == inner.y * l) {
        outer = {(int)(outer.length * l), inner.a, inner.b, inner.y};
        continue;
      }
    }
    axes[n++] = inner;
  }
  return n;
}

// How long a launch takes, in cycles of a multiprocessor. Narrow tiles load more for each product, but hide their
// stores.
double cycles(const Product& p, int cols, bool tiled, int processors) {
  const double each = std::ceil((double)Tiles(p, rows, cols).blocks(p) / processors);
  const double length = (double)p.k / (p.grouped == Grouped::depth ? p.groups : 1);
  const double steps = (double)p.sums * std::ceil(length / depth) / p.parts;
  const double products = steps * cols * 4, stores = cols * (tiled ? 8 : 40);
  if (cols == 256) return each * (products + stores) + 1000;
  return each * std::max(1.2 * products, (products + stores) / 2) + stores + 1000;
}

template <class T, int cols>
void launchCols(const Work& w, bool turnedA, bool turnedB) {
  const int64_t tiles = Tiles(w.p, rows, cols).blocks(w.p);
  const Grid grid{(unsigned)std::min<int64_t>(tiles, device().processors), threads, sizeof(Storage<cols>)};
  const char* name = "gemm (sm_90)";
  if (!turnedA && !turnedB) launch(name, warpgroupsKernel<T, cols, false, false>, grid, w);
  if (!turnedA && turnedB) launch(name, warpgroupsKernel<T, cols, false, true>, grid, w);
  if (turnedA && !turnedB) launch(name, warpgroupsKernel<T, cols, true, false>, grid, w);
  if (turnedA && turnedB) launch(name, warpgroupsKernel<T, cols, true, true>, grid, w);
}

}  // namespace

bool gemmSm90(const Product& product, int cols) {
  Work w{};
  Product& p = w.p = product;
  if (!device().warpgroups || (p.type != Dtype::bfloat16 && p.type != Dtype::float16)) return false;
  if (p.m < 32 || p.n < 32 || p.k < 16) return false;
  const bool turnedA = p.a.transposed, turnedB = !p.b.transposed;
  if (p.grouped == Grouped::rows && turnedA) return false;
  if (p.grouped == Grouped::depth && !(turnedA && turnedB)) return false;

  BatchAxis summed[maxRank];
  std::copy(p.axes + p.kept, p.axes + p.kept + p.summed, summed);
  p.kept = joinAxes(p.axes, p.kept);
  p.summed = joinAxes(summed, p.summed);
  if (p.kept > 1 || p.summed > 1 || (p.batch > 1 && p.parts > 1)) return false;
  const BatchAxis kept = p.kept ? p.axes[0] : BatchAxis{1, 0, 0, 0}, sum = p.summed ? summed[0] : BatchAxis{1, 0, 0, 0};
  p.axes[p.kept] = sum;

  w.adds = p.out == Dtype::float32 && p.beta == 1;
  w.tiled = (p.beta == 0 || w.adds) && !p.pre && !p.activates && !p.residual;
  const int processors = device().processors;
  if (!cols) cols = cycles(p, 256, w.tiled, processors) <= cycles(p, 128, w.tiled, processors) ? 256 : 128;
  TileSource a = operandSource(p, p.a, !turnedA, p.m, rows), b = operandSource(p, p.b, !turnedB, p.n, cols);
  auto third = [&](TileSource& s, int64_t ofKept, int64_t ofSum, Third& use) {
    if (ofKept && ofSum) return false;
    use = ofKept ? Third::batch : ofSum ? Third::sum : Third::none;
    s.length[2] = ofKept ? kept.length : ofSum ? sum.length : 1;
    s.stride[2] = ofKept ? ofKept : ofSum;
    return true;
  };
  if (!third(a, kept.a, sum.a, w.ofA) || !third(b, kept.b, sum.b, w.ofB)) return false;
  if (p.grouped == Grouped::rows) b.length[2] = p.groups, b.stride[2] = p.groupStride, w.ofB = Third::batch;
  if (!a.fits() || !b.fits()) return false;

  TileSource y{p.y, p.out, {p.n, p.m, 1}, {1, p.yStep, 0}, {128 / dtypeSize(p.out), 64, 1}};
  if (p.grouped == Grouped::depth)
    y.length[2] = p.groups, y.stride[2] = p.groupStride;
  else if (p.parts > 1)
    y.length[2] = p.parts, y.stride[2] = p.partsStride;
  else
    y.length[2] = kept.length, y.stride[2] = kept.y;
  w.outStride = y.stride[2];
  w.alpha = (float)p.alpha, w.beta = (float)p.beta;
  w.tiled = w.tiled && y.fits();
  auto aligned = [&](const void* at) { return (uintptr_t)at % (4 * dtypeSize(p.out)) == 0; };
  w.byFours = aligned(p.y) && aligned(p.pre) && aligned(p.residual) && (uintptr_t)p.bias % 16 == 0 &&
              p.yStep % 4 == 0 && y.stride[2] % 4 == 0;
  w.a = tensorMap(a), w.b = tensorMap(b);
  if (w.tiled) w.y = tensorMap(y);
  auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
    cols == 256 ? launchCols<T, 256>(w, turnedA, turnedB) : launchCols<T, 128>(w, turnedA, turnedB);
  };
  p.type == Dtype::bfloat16 ? run(Tag<bf16>{}) : run(Tag<f16>{});
  return true;
}

}  // namespace cuda
