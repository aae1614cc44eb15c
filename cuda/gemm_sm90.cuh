#pragma once
// What the products on Hopper share: the copy engine fills a ring of stages, two warpgroups multiply out of it, tile
// after tile, and what they made leaves by way of shared memory.
#include "device/mma.cuh"
#include "device/product.cuh"
#include "device/shared.cuh"
#include "device/tma.cuh"
#include "device/wgmma.cuh"
#include "launch.cuh"

namespace cuda::sm90 {

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
  int band;          // which of the bands of `rows` rows, with groups of rows too
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
    at.band = top + tile % height;
    at.row = at.band * rows, at.col = tile / height * cols;
    at.end = p.m;
    at.batch = batch;
    at.out = p.parts > 1 ? part : p.grouped == Grouped::rows ? 0 : batch;
    at.from = 0, at.length = p.k;
    if (p.grouped == Grouped::rows) {
      if (!findBand(p, rows, at.band, at.batch, at.row, at.end)) return false;
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

// Depths from `taken` on belong to another group: both operands become zero there. By all threads that read the stage,
// each of which has waited for its copies. The zeros are written by another way than the products read and the copies
// write (the generic and the async proxy), so every writer fences, before the barrier that all readers pass: then the
// products see them, and the copy that fills the stage next, which waits for those products, comes after them.
template <int cols>
__device__ __forceinline__ void clearTail(Stage<cols>& stage, int taken, int group) {
  constexpr int readers = takesTurns<cols> ? 128 : consumers * 128;
  const int each = (depth - taken) * 8;  // units of 16 bytes in a block of 64 by 64
  for (int i = threadIdx.x % readers; i < each * (rows + cols) / 64; i += readers)
    *reinterpret_cast<uint4*>((unsigned char*)&stage + i / each * halfBytes + taken * 128 + i % each * 16) =
        uint4{0, 0, 0, 0};
  fenceProxyAsync();
  syncThreads(takesTurns<cols> ? 1 + group : 1 + consumers, readers);
}

// A warpgroup that multiplies, and its place in the ring. turned: the operand's columns (of a) or rows (of b) are in
// order.
template <class T, int cols, bool turnedA, bool turnedB>
struct Multiplier {
  static constexpr int halves = takesTurns<cols> ? 2 : 1;  // 64 rows each, that are ours
  using Sums = float[halves][cols / 2];

  const Work& w;
  Storage<cols>& mem;
  const int group, t, firstHalf;
  const uint64_t firstA, firstB;
  Walker walker;
  Turn<Storage<cols>::stages> turn;
  int whose = 0;
  unsigned goes;

  __device__ __forceinline__ Multiplier(const Work& w, Storage<cols>& mem, int group)
      : w(w),
        mem(mem),
        group(group),
        t(threadIdx.x % 128),
        firstHalf(takesTurns<cols> ? 0 : group),
        firstA(operandAt(mem.stage[0].a + firstHalf * halfBytes, turnedA, halfBytes)),
        firstB(operandAt(mem.stage[0].b, turnedB, halfBytes)),
        walker(w, cols),
        goes(group == 0) {}  // the first begins

  // The next tile that is ours.
  __device__ __forceinline__ bool take(Tile& at) {
    for (; walker.take(at); turn.skip(at.steps)) {
      whose ^= 1;
      if (!takesTurns<cols> || whose != group) return true;
    }
    return false;
  }

  __device__ __forceinline__ void multiply(const Tile& at, Sums& d) {
    constexpr uint64_t stageStep = sizeof(Stage<cols>) >> 4, halfStep = halfBytes >> 4;
    if constexpr (takesTurns<cols>) {
      // Also because a stage may be waited for only while nobody is a whole round behind it.
      mem.goes[group].wait(goes);
      goes ^= 1;
    }
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
  }
};

// The shared memory by which 64 rows of a tile leave: pieces of 64 rows of 128 bytes.
struct Pieces {
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
  // Once all have written it; one thread may store it then.
  __device__ __forceinline__ void ready() const {
    fenceProxyAsync();
    syncThreads(1 + group, 128);
  }
  // Where this lane points at for 16 rows by 16 columns of 16-bit elements, of which its warp has 4 (`j`) next to each
  // other: the lane's row of the four matrices that a warp stores or loads at once.
  __device__ __forceinline__ unsigned place(int j) const {
    const int mine = t / 32 * 16 + t % 16, half = t % 32 / 16;
    return swizzle128(mine * 128 + j * 32 + half * 16);
  }
  // 64 columns as T.
  template <class T>
  __device__ __forceinline__ void narrow(unsigned char* piece, const float* d) const {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t r[4];
#pragma unroll
      for (int i = 0; i < 4; i++) r[i] = packTwo<T>(d[j * 8 + 2 * i], d[j * 8 + 2 * i + 1]);
      storeMatrices(piece + place(j), r);
    }
  }
};

// Before anything else, by all threads.
template <int cols>
__device__ __forceinline__ void initBarriers(Storage<cols>& mem, int readers) {
  if (threadIdx.x == 0) {
    for (int i = 0; i < Storage<cols>::stages; i++) {
      mem.full[i].init(1);
      mem.empty[i].init(readers);
    }
    for (int i = 0; i < consumers; i++) mem.goes[i].init(4);
    fenceBarrierInit();
  }
  __syncthreads();
}

// The warpgroup that fills the ring.
template <int cols, bool turnedA, bool turnedB>
__device__ __forceinline__ void runProducer(const Work& w, Storage<cols>& mem) {
  giveUpRegisters<40>();
  if (warp() == consumers * 4) {
    if (lane() == 0) prefetch(w.a), prefetch(w.b);
    produce<cols, turnedA, turnedB>(w, mem);
  }
  if (w.p.grouped != Grouped::no && blockIdx.x == 0 && warp() == consumers * 4 + 1) checkOffsets(w.p);
}

// ---- the host's part

// alongDepth: its rows of adjacent elements lie along the depth of the product. across: m or n; box: of a tile.
inline TileSource operandSource(const Product& p, const Operand& o, bool alongDepth, int across, int box) {
  TileSource s{o.data, p.type, {p.k, across, 1}, {1, o.step, 0}, {depth, box, 1}};
  if (!alongDepth) s.length[0] = across, s.length[1] = p.k, s.box[0] = 64, s.box[1] = depth;
  return s;
}

}  // namespace cuda::sm90
