// A radix sort by digits of eight bits, from the lowest, and sums over runs of equal keys.
#include "radix.h"

#include <algorithm>
#include <utility>

#include "core/dtype.h"
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "launch.cuh"

namespace cuda {
namespace {

constexpr int digits = 256;
constexpr unsigned threads = digits;  // a thread a digit, where digits are gone through
constexpr int warpsOfBlock = threads / 32, perLane = 16, perWarp = 32 * perLane, tile = perWarp * warpsOfBlock;

struct Counters {
  uint32_t at[digits];
};

// A block a tile of a row: how often each digit occurs. counts: row, tile, digit.
template <class Key>
__global__ void __launch_bounds__(threads)
    radixCountKernel(const Key* keys, int64_t n, int64_t tiles, int shift, uint32_t* counts) {
  auto& s = sharedMemory<Counters>();
  const int64_t row = blockIdx.x / tiles, first = (blockIdx.x - row * tiles) * tile;
  s.at[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll 4
  for (int64_t i = first + threadIdx.x; i < min(n, first + tile); i += threads)
    atomicAdd(&s.at[(keys[row * n + i] >> shift) % digits], 1u);
  __syncthreads();
  counts[(int64_t)blockIdx.x * digits + threadIdx.x] = s.at[threadIdx.x];
}

// A block a row: where the keys of each digit and tile begin.
__global__ void __launch_bounds__(threads) radixScanKernel(uint32_t* counts, int64_t tiles) {
  auto& s = sharedMemory<Counters>();
  uint32_t* own = counts + blockIdx.x * tiles * digits + threadIdx.x;
  uint32_t sum = 0;
#pragma unroll 8
  for (int64_t t = 0; t < tiles; t++) sum += own[t * digits];
  s.at[threadIdx.x] = sum;
  __syncthreads();
  uint32_t start = 0;
  for (int d = 0; d < (int)threadIdx.x; d++) start += s.at[d];
#pragma unroll 8
  for (int64_t t = 0; t < tiles; t++) {
    const uint32_t count = own[t * digits];
    own[t * digits] = start;
    start += count;
  }
}

struct Ranks {
  uint32_t at[warpsOfBlock][digits];  // keys of the digit seen by the warp; then where the warp's first one goes
};

// A block a tile of a row. A warp goes through its part in order and counts; equal digits among its lanes find each
// other by ballots.
template <class Key>
__global__ void __launch_bounds__(threads, 2)
    radixScatterKernel(const Key* keys, const int32_t* at, int64_t n, int64_t tiles, int shift, const uint32_t* starts,
                       Key* keysTo, int32_t* atTo) {
  auto& s = sharedMemory<Ranks>();
  const int64_t row = blockIdx.x / tiles, first = (blockIdx.x - row * tiles) * tile + warp() * perWarp + lane();
  const int left = (int)min(n - first, (int64_t)perWarp);  // of the lane's own keys, those below it are there
#pragma unroll
  for (int w = 0; w < warpsOfBlock; w++) s.at[w][threadIdx.x] = 0;
  __syncthreads();
  keys += row * n + first;
  Key key[perLane];
  uint32_t rank[perLane];
#pragma unroll
  for (int r = 0; r < perLane; r++) key[r] = 32 * r < left ? keys[32 * r] : Key(0);
#pragma unroll
  for (int r = 0; r < perLane; r++) {
    const bool valid = 32 * r < left;
    const uint32_t digit = (uint32_t)(key[r] >> shift) % digits;
    uint32_t same = __ballot_sync(~0u, valid);
#pragma unroll
    for (int bit = 1; bit < digits; bit *= 2) {
      const uint32_t set = __ballot_sync(~0u, (digit & bit) != 0);
      same &= digit & bit ? set : ~set;
    }
    const uint32_t before = s.at[warp()][digit], lower = same & ((1u << lane()) - 1);
    rank[r] = before + __popc(lower);
    __syncwarp();
    if (valid && !lower) s.at[warp()][digit] = before + __popc(same);
    __syncwarp();
  }
  __syncthreads();
  uint32_t start = starts[(int64_t)blockIdx.x * digits + threadIdx.x];
#pragma unroll
  for (int w = 0; w < warpsOfBlock; w++) {
    const uint32_t count = s.at[w][threadIdx.x];
    s.at[w][threadIdx.x] = start;
    start += count;
  }
  __syncthreads();
  keysTo += row * n;
  atTo += row * n;
#pragma unroll
  for (int r = 0; r < perLane; r++) {
    if (32 * r >= left) break;
    const uint32_t to = s.at[warp()][(uint32_t)(key[r] >> shift) % digits] + rank[r];
    keysTo[to] = key[r];
    atTo[to] = at ? at[row * n + first + 32 * r] : (int32_t)first + 32 * r;
  }
}

}  // namespace

template <class Key>
Ranking<Key>::Ranking(int64_t rows, int64_t n)
    : rows(rows),
      n(n),
      memory(2 * rows * n * (sizeof(Key) + sizeof(int32_t))),
      counts(rows * ((n + tile - 1) / tile) * digits * sizeof(uint32_t)) {
  keys = memory.as<Key>();
}

template <class Key>
void Ranking<Key>::sort(const char* name, int bits) {
  Key* other = keys + rows * n;
  int32_t* places = (int32_t*)(keys + 2 * rows * n);
  const int32_t* from = nullptr;
  const int64_t tiles = (n + tile - 1) / tile;
  for (int shift = 0; shift < bits; shift += 8) {
    int32_t* to = from == places ? places + rows * n : places;
    launch(name, radixCountKernel<Key>, {(unsigned)(rows * tiles), threads, sizeof(Counters)}, keys, n, tiles, shift,
           counts.as<uint32_t>());
    launch(name, radixScanKernel, {(unsigned)rows, threads, sizeof(Counters)}, counts.as<uint32_t>(), tiles);
    launch(name, radixScatterKernel<Key>, {(unsigned)(rows * tiles), threads, sizeof(Ranks)}, keys, from, n, tiles,
           shift, counts.as<uint32_t>(), other, to);
    std::swap(keys, other);
    from = at = to;
  }
}
template class Ranking<uint32_t>;
template class Ranking<uint64_t>;

namespace {

constexpr int runTile = 32;  // places that a thread goes through

struct Runs {
  const uint32_t* keys;
  const int32_t* at;
  int64_t n, tiles;
  Sums sums;
  int64_t packs;  // of columns
  void* partial;  // (row, tile, 2, column): what a tile's first run adds to one begun before, and its last run's part
};

struct Spot {
  int64_t row, tile, column, dy, dx;  // dy, dx: where the column of the row begins
  const uint32_t* keys;
  const int32_t* at;
  bool valid;
};
template <int V>
__device__ __forceinline__ Spot spotOf(const Runs& runs, int64_t rows) {
  const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, line = i / runs.packs;
  Spot s{};
  s.row = line / runs.tiles;
  s.tile = line - s.row * runs.tiles;
  s.column = (i - line * runs.packs) * V;
  s.valid = s.row < rows;
  if (!s.valid) return s;
  const int64_t outer = s.column / runs.sums.inner, within = s.column - outer * runs.sums.inner;
  s.dy = outer * runs.sums.outerDy + within;
  s.dx = outer * runs.sums.outerDx + within;
  runs.sums.lines.locate(s.row, s.dy, s.dx);
  s.keys = runs.keys + s.row * runs.n;
  s.at = runs.at + s.row * runs.n;
  return s;
}
template <class C, int V>
__device__ __forceinline__ C* partialOf(const Runs& runs, const Spot& s, int64_t tile, int which) {
  return (C*)runs.partial + (((s.row * runs.tiles + tile) * 2 + which) * runs.packs) * V + s.column;
}
template <class C, int V>
__device__ __forceinline__ void addTo(C* to, const Pack<C, V>& sum) {
  Pack<C, V> before = loadPack<V>(to);
#pragma unroll
  for (int k = 0; k < V; k++) before.at[k] += sum.at[k];
  storePack<V>(to, before);
}

// A thread a tile of places and a pack of columns: runs within the tile are added to dx, those that go on beyond it are
// left for the next kernel.
template <class T, int V>
__global__ void __launch_bounds__(threads, 2)
    addRunsKernel(const __grid_constant__ Runs runs, int64_t rows, const T* dy, Wide<T>* dx) {
  using C = Wide<T>;
  const Spot s = spotOf<V>(runs, rows);
  if (!s.valid) return;
  const int64_t begin = s.tile * runTile, end = min(runs.n, begin + runTile);
  uint32_t key = s.keys[begin];
  bool begunBefore = begin > 0 && s.keys[begin - 1] == key;
  Pack<C, V> sum{};
  auto finish = [&](bool goesOn) {
    if (key >= runs.sums.limit) return;
    if (begunBefore)
      storePack<V>(partialOf<C, V>(runs, s, s.tile, 0), sum);
    else if (goesOn)
      storePack<V>(partialOf<C, V>(runs, s, s.tile, 1), sum);
    else
      addTo<C, V>(dx + s.dx + key * runs.sums.stepDx, sum);
  };
  constexpr int ahead = 4;
  for (int64_t i = begin; i < end; i += ahead) {
    Pack<T, V> in[ahead];
    uint32_t keys[ahead];
#pragma unroll
    for (int u = 0; u < ahead; u++) {
      if (i + u >= end) break;
      keys[u] = s.keys[i + u];
      in[u] = loadPack<V>(dy + s.dy + s.at[i + u] * runs.sums.stepDy);
    }
#pragma unroll
    for (int u = 0; u < ahead; u++) {
      if (i + u >= end) break;
      if (keys[u] != key) {
        finish(false);
        key = keys[u];
        begunBefore = false;
        sum = {};
      }
#pragma unroll
      for (int k = 0; k < V; k++) sum.at[k] += loaded<C>(in[u].at[k]);
    }
  }
  finish(end < runs.n && s.keys[end] == key);
}

// A thread a tile and a pack of columns: the run that begins in the tile and goes on beyond it.
template <class C, int V>
__global__ void __launch_bounds__(threads, 2) joinRunsKernel(const __grid_constant__ Runs runs, int64_t rows, C* dx) {
  const Spot s = spotOf<V>(runs, rows);
  if (!s.valid) return;
  const int64_t begin = s.tile * runTile, end = begin + runTile;
  if (end >= runs.n) return;
  const uint32_t key = s.keys[end];
  if (key >= runs.sums.limit || s.keys[end - 1] != key) return;
  if (begin > 0 && s.keys[begin - 1] == key) return;  // begun before
  Pack<C, V> sum = loadPack<V>(partialOf<C, V>(runs, s, s.tile, 1));
#pragma unroll 4
  for (int64_t t = s.tile + 1; t < runs.tiles; t++) {
    if (s.keys[t * runTile] != key) break;
    const Pack<C, V> more = loadPack<V>(partialOf<C, V>(runs, s, t, 0));
#pragma unroll
    for (int k = 0; k < V; k++) sum.at[k] += more.at[k];
  }
  addTo<C, V>(dx + s.dx + key * runs.sums.stepDx, sum);
}

}  // namespace

void addByKey(const char* name, const Ranking<uint32_t>& order, const Sums& sums, View dy, View dx) {
  withFloat(dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Wide<T>;
    auto all = [&](auto width) {
      constexpr int V = decltype(width)::value;
      Runs runs{order.keys, order.at, order.n, (order.n + runTile - 1) / runTile, sums, sums.columns / V, nullptr};
      Scratch partial(order.rows * runs.tiles * 2 * sums.columns * sizeof(C));
      runs.partial = partial.as<void>();
      const unsigned blocks = blocksFor(order.rows * runs.tiles * runs.packs, threads);
      launch(name, addRunsKernel<T, V>, {blocks, threads}, runs, order.rows, dy.as<const T>(), dx.as<C>());
      launch(name, joinRunsKernel<C, V>, {blocks, threads}, runs, order.rows, dx.as<C>());
    };
    constexpr int V = perPack<T>;
    if (sums.inner % V == 0 && sums.lines.rank == 0 && aligned(dy.as<T>(), V) && aligned(dx.as<C>(), V))
      all(std::integral_constant<int, V>{});
    else
      all(std::integral_constant<int, 1>{});
  });
}

}  // namespace cuda
