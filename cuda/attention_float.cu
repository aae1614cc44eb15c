// Attention in float32 and float64, and rows of any length: tiles of 64 x 64 scores by plain multiply-adds, online
// softmax (FlashAttention-2, Dao, arXiv 2307.08691), never a T x S matrix. 16-bit floats come here if the tensor cores'
// kernels do not take them; they are read, and then as float32 is.
#include <type_traits>

#include "attention.cuh"
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "device/shared.cuh"
#include "launch.cuh"
#include "math/transcendental.h"

namespace cuda {
namespace {

// A block owns `tile` rows (queries; keys in the gradient of k and v) and meets the others tile by tile. Thread (x, y)
// of 16 x 8 has the scores of rows 8 y + 0..7 with columns x + 16 c, and of the result the same rows, columns 4 x +
// 0..3 of every 64.
constexpr int tile = 64, threads = 128, threadRows = 8, threadColumns = 4, deep = 32;

template <class C>
constexpr int vector = 16 / (int)sizeof(C);  // elements that are moved together

template <class C, int groups>
struct Storage {
  static constexpr int pad = vector<C>;  // rows begin in different banks
  alignas(16) C mine[tile][deep + pad];
  alignas(16) C theirs[tile][deep + pad];
  alignas(16) C weights[tile][tile + pad];
  alignas(16) C rows[deep][64 * groups];
  C lse[tile], delta[tile];
};

__device__ inline int across() { return threadIdx.x % 16; }
__device__ inline int down() { return threadIdx.x / 16; }

// to (rows, width) = columns from `column` on of the rows that row(i) points at; zeros where there are none.
template <int rows, int width, class T, class C, class Row>
__device__ __forceinline__ void fetch(Row row, int column, int depth, bool vectors, C* to, int step) {
  constexpr int n = vector<C>;
  for (int i = threadIdx.x; i < rows * width / n; i += threads) {
    const int r = i / (width / n), c = i % (width / n) * n;
    const T* from = row(r);
    Pack<C, n> pack{};
    if (from && column + c < depth) {
      from += column + c;
      if (vectors) {
        const auto raw = loadPack<n>(from);
#pragma unroll
        for (int j = 0; j < n; j++) pack.at[j] = (C)raw.at[j];
      } else {
#pragma unroll
        for (int j = 0; j < n; j++)
          if (column + c + j < depth) pack.at[j] = (C)from[j];
      }
    }
    storePack(to + r * step + c, pack);
  }
}

// scores = mine . theirs, over all the depth. Ends with a barrier.
template <class T, class C, int groups, class Mine, class Theirs>
__device__ __forceinline__ void dot(Storage<C, groups>& s, Mine mine, Theirs theirs, int depth, bool vectors,
                                    C (&scores)[threadRows][threadColumns]) {
  constexpr int n = vector<C>;
#pragma unroll
  for (int i = 0; i < threadRows; i++)
#pragma unroll
    for (int j = 0; j < threadColumns; j++) scores[i][j] = 0;
  for (int column = 0; column < depth; column += deep) {
    fetch<tile, deep, T>(mine, column, depth, vectors, s.mine[0], deep + s.pad);
    fetch<tile, deep, T>(theirs, column, depth, vectors, s.theirs[0], deep + s.pad);
    __syncthreads();
#pragma unroll 1  // enough independent work, and few registers
    for (int d = 0; d < deep; d += n) {
      Pack<C, n> b[threadColumns];
#pragma unroll
      for (int j = 0; j < threadColumns; j++) b[j] = loadPack<n>(&s.theirs[across() + 16 * j][d]);
#pragma unroll
      for (int i = 0; i < threadRows; i++) {
        const auto a = loadPack<n>(&s.mine[threadRows * down() + i][d]);
#pragma unroll
        for (int j = 0; j < threadColumns; j++)
#pragma unroll
          for (int e = 0; e < n; e++) scores[i][j] += a.at[e] * b[j].at[e];
      }
    }
    __syncthreads();
  }
}

// sum += weights @ the rows that row(j) points at, 64 `groups` columns from `column` on. Begins and ends with a
// barrier.
template <class T, class C, int groups, class Row>
__device__ __forceinline__ void gather(Storage<C, groups>& s, Row row, int column, int depth, bool vectors,
                                       C (&sum)[threadRows][4 * groups]) {
  constexpr int n = vector<C>;
  for (int first = 0; first < tile; first += deep) {
    fetch<deep, 64 * groups, T>([&](int j) { return row(first + j); }, column, depth, vectors, s.rows[0], 64 * groups);
    __syncthreads();
#pragma unroll 1
    for (int j = 0; j < deep; j += n) {
      Pack<C, n> a[threadRows];
#pragma unroll
      for (int i = 0; i < threadRows; i++) a[i] = loadPack<n>(&s.weights[threadRows * down() + i][first + j]);
#pragma unroll
      for (int e = 0; e < n; e++)
#pragma unroll
        for (int g = 0; g < 4 * groups; g += n) {
          const auto b = loadPack<n>(&s.rows[j + e][g / 4 * 64 + 4 * across() + g % 4]);
#pragma unroll
          for (int i = 0; i < threadRows; i++)
#pragma unroll
            for (int c = 0; c < n; c++) sum[i][g + c] += a[i].at[e] * b.at[c];
        }
    }
    __syncthreads();
  }
}

template <class C>
__device__ __forceinline__ C larger(C a, C b) {
  return a > b ? a : b;
}

// A block owns 64 queries (rows of `pack` heads), one split of the keys, and 64 `groups` columns of y.
template <class T, int groups>
__global__ void __launch_bounds__(threads) attentionFloatKernel(AttentionProblem p, int tiles, int columnBlocks) {
  using C = Compute<T>;
  auto& s = sharedMemory<Storage<C, groups>>();
  unsigned at = blockIdx.x;
  const int first = (tiles - 1 - (int)(at % tiles)) * tile;  // the longest first
  at /= tiles;
  const int column = (int)(at % columnBlocks) * 64 * groups;
  at /= columnBlocks;
  const int head = (int)(at % (p.heads / p.pack)) * p.pack, batch = (int)(at / (p.heads / p.pack));
  const int rows = p.queries * p.pack, kvHead = head / p.group(), split = (int)blockIdx.y;
  const T* q = p.q.at<T>(batch, head);
  const T* k = p.k.at<T>(batch, kvHead);
  const T* v = p.v.at<T>(batch, kvHead);
  auto query = [&](int i) -> const T* {
    const int row = first + i;
    return row < rows ? q + row / p.pack * p.q.row + row % p.pack * p.q.head : nullptr;
  };

  C sum[threadRows][4 * groups] = {}, top[threadRows], total[threadRows];
  int seen[threadRows];
#pragma unroll
  for (int i = 0; i < threadRows; i++) {
    const int row = first + threadRows * down() + i;
    top[i] = -INFINITY, total[i] = 0, seen[i] = row < rows ? p.seen(row / p.pack) : 0;
  }
  const int all = p.seen((min(first + tile, rows) - 1) / p.pack);
  const int begin = split * p.splitTiles * tile, end = min(all, begin + p.splitTiles * tile);
  for (int key = begin; key < end; key += tile) {
    C scores[threadRows][threadColumns];
    dot<T>(
        s, query, [&](int j) { return key + j < end ? k + (key + j) * p.k.row : nullptr; }, p.depth, p.vectors, scores);
#pragma unroll
    for (int i = 0; i < threadRows; i++) {
      C most = top[i];
#pragma unroll
      for (int j = 0; j < threadColumns; j++) {
        scores[i][j] *= (C)p.scale;
        if (key + across() + 16 * j >= seen[i]) scores[i][j] = -INFINITY;
        most = larger(scores[i][j], most);
      }
      most = warpReduce<16>(most, [](C a, C b) { return larger(a, b); });
      const C base = most > -INFINITY ? most : C(0), shrink = math::exp(top[i] - base);
      top[i] = most;
      total[i] *= shrink;
#pragma unroll
      for (int c = 0; c < 4 * groups; c++) sum[i][c] *= shrink;
#pragma unroll
      for (int j = 0; j < threadColumns; j++) {
        const C e = math::exp(scores[i][j] - base);
        total[i] += e;
        s.weights[threadRows * down() + i][across() + 16 * j] = e;
      }
    }
    gather<T>(
        s, [&](int j) { return key + j < end ? v + (key + j) * p.v.row : nullptr; }, column, p.depth, p.vectors, sum);
  }

#pragma unroll
  for (int i = 0; i < threadRows; i++) {
    const C all = warpSum<16>(total[i]);
    const int row = first + threadRows * down() + i;
    if (row >= rows) continue;
    const int t = row / p.pack, h = head + row % p.pack;
    const int64_t place = ((int64_t)batch * p.heads + h) * p.queries + t;
    const int64_t splitPlace = (int64_t)split * p.batches * p.heads * p.queries + place;
    // Without keys y is 0. What a split did not see weighs nothing, and must not become NaN.
    const C one = end <= begin || (p.splits > 1 && all == 0) ? C(0) : C(1) / all;
    const C lse = top[i] + math::log(all);
    if (column == 0 && across() == 0) ((C*)(p.splits > 1 ? p.partLse : p.lse))[splitPlace] = lse;
#pragma unroll
    for (int c = 0; c < 4 * groups; c++) {
      const int d = column + c / 4 * 64 + 4 * across() + c % 4;
      if (d >= p.depth) continue;
      if (p.splits > 1)
        ((C*)p.part)[splitPlace * p.depth + d] = sum[i][c] * one;
      else
        (p.y.at<T>(batch, h) + t * p.y.row)[d] = (T)(sum[i][c] * one);
    }
  }
}

// ofKeys: a block owns 64 keys and sums dk and dv over the queries, of every head that shares them, that see them.
// Else it owns 64 queries and sums dq over their keys. 64 `groups` columns of the result.
template <class T, int groups, bool ofKeys>
__global__ void __launch_bounds__(threads, groups == 2 ? 2 : 1)
    attentionGradFloatKernel(AttentionProblem p, int tiles, int columnBlocks) {
  using C = Compute<T>;
  auto& s = sharedMemory<Storage<C, groups>>();
  unsigned at = blockIdx.x;
  const int mine = (ofKeys ? (int)(at % tiles) : tiles - 1 - (int)(at % tiles)) * tile;  // the longest first
  at /= tiles;
  const int column = (int)(at % columnBlocks) * 64 * groups;
  at /= columnBlocks;
  const int owners = ofKeys ? p.kvHeads : p.heads, owner = (int)(at % owners), batch = (int)(at / owners);
  const int kvHead = ofKeys ? owner : owner / p.group();
  const int offset = p.keys - p.queries;  // causal: query t sees keys up to t + offset
  const int count = ofKeys ? p.keys : p.queries, others = ofKeys ? p.queries : p.keys;
  const T* k = p.k.at<T>(batch, kvHead);
  const T* v = p.v.at<T>(batch, kvHead);

  int begin = 0, end = others;
  if (p.causal && ofKeys) begin = max(0, mine - offset) / tile * tile;
  if (!ofKeys) end = p.seen(min(mine + tile, count) - 1);
  C sum[threadRows][4 * groups] = {}, sumV[ofKeys ? threadRows : 1][4 * groups] = {};
  for (int h = ofKeys ? kvHead * p.group() : owner; h < (ofKeys ? (kvHead + 1) * p.group() : owner + 1); h++) {
    const T* q = p.q.at<T>(batch, h);
    const T* dy = p.dy.at<T>(batch, h);
    const C* lse = (const C*)p.lse + ((int64_t)batch * p.heads + h) * p.queries;
    const C* delta = (const C*)p.delta + ((int64_t)batch * p.heads + h) * p.queries;
    for (int other = begin; other < end; other += tile) {
      auto rows = [&](const T* x, int64_t step, int first, int limit) {
        return [=](int i) { return first + i < limit ? x + (first + i) * step : nullptr; };
      };
      const int query = ofKeys ? other : mine, key = ofKeys ? mine : other;
      const auto qRows = rows(q, p.q.row, query, p.queries), dyRows = rows(dy, p.dy.row, query, p.queries);
      const auto kRows = rows(k, p.k.row, key, p.keys), vRows = rows(v, p.v.row, key, p.keys);
      if (threadIdx.x < tile) {
        const int t = query + (int)threadIdx.x;
        s.lse[threadIdx.x] = t < p.queries ? lse[t] : C(INFINITY);  // the exponential of a query past the end is 0
        s.delta[threadIdx.x] = t < p.queries ? delta[t] : C(0);
      }
      // Calls fn(row of this thread, its column, whether the query sees the key, which query of the tile) for each
      // score.
      auto each = [&](auto fn) {
#pragma unroll
        for (int i = 0; i < threadRows; i++)
#pragma unroll
          for (int j = 0; j < threadColumns; j++) {
            const int my = threadRows * down() + i, their = across() + 16 * j;
            const int a = ofKeys ? their : my, t = query + a, b = key + (ofKeys ? my : their);
            fn(i, j, t < p.queries && b < p.seen(t), a);
          }
      };
      auto shown = [&](int i, int j) -> C& { return s.weights[threadRows * down() + i][across() + 16 * j]; };
      // The weights wait in shared memory for the second product's scores: there are no registers for both.
      C scores[threadRows][threadColumns];
      if constexpr (ofKeys)
        dot<T>(s, kRows, qRows, p.depth, p.vectors, scores);
      else
        dot<T>(s, qRows, kRows, p.depth, p.vectors, scores);
      each([&](int i, int j, bool visible, int a) {
        shown(i, j) = visible ? math::exp(scores[i][j] * (C)p.scale - s.lse[a]) : C(0);
      });
      if constexpr (ofKeys) {
        gather<T>(s, dyRows, column, p.depth, p.vectors, sumV);
        dot<T>(s, vRows, dyRows, p.depth, p.vectors, scores);
      } else {
        dot<T>(s, dyRows, vRows, p.depth, p.vectors, scores);
      }
      each([&](int i, int j, bool visible, int a) {
        shown(i, j) = visible ? shown(i, j) * (scores[i][j] - s.delta[a]) * (C)p.scale : C(0);
      });
      if constexpr (ofKeys)
        gather<T>(s, qRows, column, p.depth, p.vectors, sum);
      else
        gather<T>(s, kRows, column, p.depth, p.vectors, sum);
    }
  }

  const Heads &to = ofKeys ? p.dk : p.dq, &toV = p.dv;
#pragma unroll
  for (int i = 0; i < threadRows; i++) {
    const int row = mine + threadRows * down() + i;
    if (row >= count) continue;
#pragma unroll
    for (int c = 0; c < 4 * groups; c++) {
      const int d = column + c / 4 * 64 + 4 * across() + c % 4;
      if (d >= p.depth) continue;
      (to.at<T>(batch, owner) + row * to.row)[d] = (T)sum[i][c];
      if constexpr (ofKeys) (toV.at<T>(batch, owner) + row * toV.row)[d] = (T)sumV[i][c];
    }
  }
}

// How many groups of 64 columns a block makes.
int groupsFor(Dtype type, int depth) {
  return type == Dtype::float64 || (type == Dtype::float32 && depth <= 64) ? 1 : 2;
}

template <class Fn>
void withKind(Dtype type, int depth, Fn fn) {
  using std::integral_constant;
  if (type == Dtype::float64) return fn(Tag<double>{}, integral_constant<int, 1>{});
  if (type == Dtype::bfloat16) return fn(Tag<bf16>{}, integral_constant<int, 2>{});
  if (type == Dtype::float16) return fn(Tag<f16>{}, integral_constant<int, 2>{});
  if (depth <= 64) return fn(Tag<float>{}, integral_constant<int, 1>{});
  fn(Tag<float>{}, integral_constant<int, 2>{});
}

}  // namespace

ForwardTiling floatTiling(Dtype type, int depth) {
  const int width = 64 * groupsFor(type, depth);
  return {tile, tile, (depth + width - 1) / width};
}

void attentionFloat(Dtype type, const AttentionProblem& p) {
  withKind(type, p.depth, [&](auto tag, auto groups) {
    using T = typename decltype(tag)::type;
    const int tiles = (int)rowTiles(p, tile), columns = floatTiling(type, p.depth).columns;
    const dim3 blocks(tiles * columns * (p.heads / p.pack) * p.batches, p.splits);
    launch("attention", attentionFloatKernel<T, groups()>, {blocks, threads, sizeof(Storage<Compute<T>, groups()>)}, p,
           tiles, columns);
  });
}

void attentionGradFloat(Dtype type, const AttentionProblem& p) {
  withKind(type, p.depth, [&](auto tag, auto groups) {
    using T = typename decltype(tag)::type;
    const int columns = floatTiling(type, p.depth).columns;
    const size_t shared = sizeof(Storage<Compute<T>, groups()>);
    const int keyTiles = (int)blocksFor(p.keys, tile), queryTiles = (int)blocksFor(p.queries, tile);
    launch("attentionGrad: k and v", attentionGradFloatKernel<T, groups(), true>,
           {keyTiles * columns * p.kvHeads * p.batches, threads, shared}, p, keyTiles, columns);
    launch("attentionGrad: q", attentionGradFloatKernel<T, groups(), false>,
           {queryTiles * columns * p.heads * p.batches, threads, shared}, p, queryTiles, columns);
  });
}

}  // namespace cuda
