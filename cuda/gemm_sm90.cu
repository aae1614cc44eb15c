// Products of bf16 or f16 on Hopper: the copy engine fills a ring of stages, two warpgroups multiply out of it.
#include "device/mma.cuh"
#include "device/pack.cuh"
#include "device/product.cuh"
#include "device/shared.cuh"
#include "device/tma.cuh"
#include "device/wgmma.cuh"
#include "launch.cuh"

namespace cuda {
namespace {

constexpr int rows = 128, depth = 64;  // of a tile of y, and of a stage
constexpr int consumers = 2;           // warpgroups
constexpr int threads = (consumers + 1) * 128;
constexpr int halfBytes = 64 * 128;  // 64 rows of 128 bytes: what a consumer has of a, a block of b, a piece of y

// The consumers share a tile of 256 columns, 64 rows each. Of the narrow ones each makes every other tile alone, so
// that one can store while the other multiplies.
template <int cols>
constexpr bool takesTurns = cols <= 128;

template <int cols>
struct Stage {
  alignas(1024) unsigned char a[rows * 128], b[cols * 128];
};
template <int cols>
struct Storage {
  static constexpr int stages = cols == 256 ? 4 : cols == 192 ? 4 : 6;
  Stage<cols> stage[stages];
  alignas(1024) unsigned char out[consumers][2][halfBytes];
  PhaseBarrier full[stages], empty[stages];
  PhaseBarrier goes[consumers];  // where they take turns: the other has all stages of its tile
};

// What a stride of a and b along the batch axis is for.
enum class Third : int { none, batch, sum };

struct Work {
  TensorMap a, b, y;
  Product p;
  float alpha, beta;
  Third ofA, ofB;
  int64_t outStride;  // of y's third axis
  bool tiled;         // y is written by the copy engine
  bool adds;          // .. and added to what is there
  bool byFours;       // y, pre and residual may be read and written four elements at a time
};

struct Tile {
  int row, col;      // of y
  int end;           // rows from here on are not ours
  int batch;         // or group: the third coordinate of a and b
  int out;           // the third coordinate of y
  int from, length;  // the depth of one product
  int begin, steps;  // our share of all products' depth, in stages
};

// The tiles of y that this block makes, in the order of all blocks: neighbours share what they read of a and b.
struct Walker {
  const Work& w;
  Tiles tiles;
  unsigned next, count;
  int cols;

  __device__ Walker(const Work& w, int cols)
      : w(w), tiles(w.p, rows, cols), next(blockIdx.x), count((unsigned)tiles.blocks(w.p)), cols(cols) {}

  // Whole warps.
  __device__ bool take(Tile& at) {
    for (; next < count; next += gridDim.x)
      if (find(next, at)) {
        next += gridDim.x;
        return true;
      }
    return false;
  }

 private:
  __device__ bool find(unsigned index, Tile& at) const {
    const Product& p = w.p;
    const unsigned each = (unsigned)tiles.down * tiles.across, outer = index / each;
    const int batch = (int)(outer / p.parts), part = (int)(outer % p.parts);
    int tile = (int)(index - outer * each);
    constexpr int bandHeight = 8;
    const int band = tile / (bandHeight * tiles.across), top = band * bandHeight;
    const int height = min(bandHeight, tiles.down - top);
    tile -= top * tiles.across;
    at.row = (top + tile % height) * rows, at.col = tile / height * cols;
    at.end = p.m;
    at.batch = batch;
    at.out = p.parts > 1 ? part : p.grouped == Grouped::rows ? 0 : batch;
    at.from = 0, at.length = p.k;
    if (p.grouped == Grouped::rows) {
      if (!findBand(p, rows, at.row / rows, at.batch, at.row, at.end)) return false;
    } else if (p.grouped == Grouped::depth) {
      at.from = clampOffset(p.offsets[batch], p.k);
      at.length = max(0, clampOffset(p.offsets[batch + 1], p.k) - at.from);
    }
    const int all = (int)p.sums * ((at.length + depth - 1) / depth);
    const int share = all / p.parts, more = all % p.parts;  // the first parts have one step more
    at.begin = part * share + min(part, more);
    at.steps = max(1, share + (part < more));  // a group without any depth makes one step, of zeros
    return true;
  }
};

// Which stage, and how often the ring has gone round.
template <int stages>
struct Turn {
  int stage = 0;
  unsigned parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  __device__ __forceinline__ void skip(int steps) {
    stage += steps;
    parity ^= (unsigned)(stage / stages) & 1;
    stage %= stages;
  }
};

__device__ __forceinline__ int third(Third use, int batch, int sum) {
  return use == Third::batch ? batch : use == Third::sum ? sum : 0;
}

// A warp, of which one lane works: fills the stages as they become free.
template <int cols, bool turnedA, bool turnedB>
__device__ __forceinline__ void produce(const Work& w, Storage<cols>& mem) {
  constexpr unsigned bytes = (rows + cols) * depth * 2;
  const bool mine = electOne();
  Walker walker(w, cols);
  Turn<Storage<cols>::stages> turn;
  Tile at;
  while (walker.take(at)) {
    if (mine) {
      const int each = (at.length + depth - 1) / depth;
      int sum = each ? at.begin / each : 0, step = at.begin - sum * each;
      for (int i = 0; i < at.steps; i++) {
        auto& stage = mem.stage[turn.stage];
        PhaseBarrier& full = mem.full[turn.stage];
        mem.empty[turn.stage].wait(turn.parity ^ 1);
        full.arriveExpecting(bytes);
        const int k = at.from + step * depth;
        const int za = third(w.ofA, at.batch, sum), zb = third(w.ofB, at.batch, sum);
        if constexpr (turnedA) {
#pragma unroll
          for (int half = 0; half < rows / 64; half++)
            loadTile(stage.a + half * halfBytes, w.a, at.row + half * 64, k, za, full);
        } else {
          loadTile(stage.a, w.a, k, at.row, za, full);
        }
        if constexpr (turnedB) {
#pragma unroll
          for (int block = 0; block < cols / 64; block++)
            loadTile(stage.b + block * halfBytes, w.b, at.col + block * 64, k, zb, full);
        } else {
          loadTile(stage.b, w.b, k, at.col, zb, full);
        }
        turn.next();
        if (++step == each) step = 0, sum++;
      }
    }
    __syncwarp();
  }
}

// Depths from `taken` on belong to another group: both operands become zero there. By all threads that read the stage.
template <int cols>
__device__ __forceinline__ void clearTail(Stage<cols>& stage, int taken, int group) {
  constexpr int readers = takesTurns<cols> ? 128 : consumers * 128;
  const int each = (depth - taken) * 8;  // units of 16 bytes in a block of 64 by 64
  for (int i = threadIdx.x % readers; i < each * (rows + cols) / 64; i += readers)
    *reinterpret_cast<uint4*>(stage.a + i / each * halfBytes + taken * 128 + i % each * 16) = uint4{0, 0, 0, 0};
  fenceProxyAsync();
  syncThreads(takesTurns<cols> ? 1 + group : 1 + consumers, readers);
}

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

// 64 rows of a tile go to y by way of shared memory, in pieces of 64 rows of 128 bytes.
template <class T, int cols>
struct Writer {
  const Work& w;
  unsigned char (&out)[2][halfBytes];
  int group, t;
  int turn = 0;  // of the two pieces

  // The piece to write to, once nobody reads it.
  template <int mayRemain>
  __device__ __forceinline__ unsigned char* open() {
    if (t == 0) waitStoresRead<mayRemain>();
    syncThreads(1 + group, 128);
    return out[turn++ % 2];
  }
  __device__ __forceinline__ void close(const void* piece, int col, int row, int third) {
    fenceProxyAsync();
    syncThreads(1 + group, 128);
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
      // This lane's row of the four matrices that a warp stores at once: 16 rows by 16 columns.
      const int mine = t / 32 * 16 + t % 16, half = t % 32 / 16;
#pragma unroll
      for (int c = 0; c < cols; c += 64) {
        if (at.col + c >= w.p.n) break;
        unsigned char* piece = open<1>();
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float* from = d + c / 2 + j * 8;
          uint32_t r[4];
#pragma unroll
          for (int i = 0; i < 4; i++) r[i] = packTwo<T>(from[2 * i], from[2 * i + 1]);
          storeMatrices(piece + swizzle128(mine * 128 + j * 32 + half * 16), r);
        }
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
  constexpr uint64_t stageStep = sizeof(Stage<cols>) >> 4, halfStep = halfBytes >> 4;
  constexpr int halves = takesTurns<cols> ? 2 : 1;  // 64 rows each, that are ours
  const int t = threadIdx.x % 128, firstHalf = takesTurns<cols> ? 0 : group;
  const uint64_t firstA = operandAt(mem.stage[0].a + firstHalf * halfBytes, turnedA, halfBytes);
  const uint64_t firstB = operandAt(mem.stage[0].b, turnedB, halfBytes);
  Walker walker(w, cols);
  Writer<T, cols> writer{w, mem.out[group], group, t};
  Turn<Storage<cols>::stages> turn;
  Tile at;
  unsigned goes = group == 0;  // the first begins
  for (int whose = 0; walker.take(at); whose ^= 1) {
    if constexpr (takesTurns<cols>) {
      if (whose != group) {
        turn.skip(at.steps);
        continue;
      }
      // Also because a stage may be waited for only while nobody is a whole round behind it.
      mem.goes[group].wait(goes);
      goes ^= 1;
    }
    float d[halves][cols / 2];
    int before = 0;
    for (int i = 0; i < at.steps; i++) {
      mem.full[turn.stage].wait(turn.parity);
      if constexpr (turnedA && turnedB) {
        const int taken = max(0, at.length - (at.begin + i) * depth);
        if (w.p.grouped == Grouped::depth && taken < depth) clearTail(mem.stage[turn.stage], taken, group);
      }
      const uint64_t a = firstA + turn.stage * stageStep, b = firstB + turn.stage * stageStep;
      fenceProducts();
#pragma unroll
      for (int k = 0; k < depth / 16; k++)
#pragma unroll
        for (int half = 0; half < halves; half++)
          addProduct<T, turnedA, turnedB>(d[half], a + half * halfStep + k * nextDepth(turnedA),
                                          b + k * nextDepth(turnedB), i > 0 || k > 0);
      commitProducts();
      if (i > 0) {  // the products before these have read their stage
        waitProducts<1>();
        if (t == 0) mem.empty[before].arrive();
      }
      before = turn.stage;
      turn.next();
    }
    if constexpr (takesTurns<cols>) {  // every warp says so: none may still wait for its own turn then
      __syncwarp();
      if (lane() == 0) mem.goes[group ^ 1].arrive();
    }
    waitProducts<0>();
    if (t == 0) mem.empty[before].arrive();
#pragma unroll
    for (int half = 0; half < halves; half++) pinRegisters(d[half]);
#pragma unroll
    for (int half = 0; half < halves; half++) {
      const int row = at.row + (firstHalf + half) * 64;
      if (row >= at.end) break;
      if (w.tiled && (at.end == w.p.m || row + 64 <= at.end))
        writer.tiles(at, row, d[half]);
      else
        writer.elements(at, row, d[half]);
    }
  }
  if (t == 0) waitStoresRead<0>();
}

// One block a multiprocessor, tile after tile. turned: the operand's columns (of a) or rows (of b) are in order.
template <class T, int cols, bool turnedA, bool turnedB>
__global__ void __launch_bounds__(threads, 1) warpgroupsKernel(const __grid_constant__ Work w) {
#ifdef HAS_SM90A
  auto& mem = sharedMemory<Storage<cols>>();
  const int group = __shfl_sync(~0u, (int)threadIdx.x / 128, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Storage<cols>::stages; i++) {
      mem.full[i].init(1);
      mem.empty[i].init(takesTurns<cols> ? 1 : consumers);
    }
    for (int i = 0; i < consumers; i++) mem.goes[i].init(4);
    fenceBarrierInit();
  }
  __syncthreads();
  if (group == consumers) {
    giveUpRegisters<40>();
    if (warp() == consumers * 4) {
      if (lane() == 0) prefetch(w.a), prefetch(w.b);
      produce<cols, turnedA, turnedB>(w, mem);
    }
    if (w.p.grouped != Grouped::no && blockIdx.x == 0 && warp() == consumers * 4 + 1) checkOffsets(w.p);
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

// alongDepth: its rows of adjacent elements lie along the depth of the product. across: m or n; box: of a tile.
TileSource operandSource(const Product& p, const Operand& o, bool alongDepth, int across, int box) {
  TileSource s{o.data, p.type, {p.k, across, 1}, {1, o.step, 0}, {depth, box, 1}};
  if (!alongDepth) s.length[0] = across, s.length[1] = p.k, s.box[0] = 64, s.box[1] = depth;
  return s;
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
  if (device().capability != 90 || (p.type != Dtype::bfloat16 && p.type != Dtype::float16)) return false;
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
