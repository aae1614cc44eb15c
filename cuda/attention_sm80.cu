// Attention on the tensor cores of every GPU from sm_80 on (mma.sync), in the manner of FlashAttention-2 (Dao, arXiv
// 2307.08691): online softmax in registers; the weights never leave them between the two products.
#include <type_traits>

#include "attention_sm80.cuh"
#include "launch.cuh"
#include "math/transcendental.h"

namespace cuda {
namespace sm80 {
namespace {

// Rows of D = width elements: a warp owns 16 M queries and sees N keys at a time. More rows a warp means fewer reads of
// shared memory a product; what limits M and N is the 255 registers of a thread: M (width + N) / 2 hold sums.
constexpr int rowsOf(int width) { return width > 128 ? 1 : 2; }
constexpr int keysOf(int width) { return width == 128 ? 48 : 64; }

template <class T, int width>
struct Storage {
  alignas(128) T q[16 * warpsOfBlock * rowsOf(width)][width];
  alignas(128) T k[keysOf(width)][width];
  alignas(128) T v[keysOf(width)][width];
};

// Which rows of which heads a block owns; the longest first.
template <int blockRows>
struct Block {
  int first, head, batch;
  __device__ __forceinline__ Block(const AttentionProblem& p, int tiles, int at) {
    const int headTiles = at / tiles, heads = p.heads / p.pack;
    first = (tiles - 1 - at % tiles) * blockRows;
    head = headTiles % heads * p.pack, batch = headTiles / heads;
  }
};

// A block owns 64 or 128 queries (rows of `pack` heads) and one split of the keys. Values arrive during the first
// product, the next keys during the second.
template <class T, int width>
__global__ void __launch_bounds__(threads, 2) attentionSm80Kernel(AttentionProblem p, int tiles) {
  constexpr int M = rowsOf(width), N = keysOf(width), blockRows = 16 * M * warpsOfBlock;
  auto& s = sharedMemory<Storage<T, width>>();
  const int rows = p.queries * p.pack, split = (int)blockIdx.y;
  auto [first, head, batch] = Block<blockRows>(p, tiles, (int)blockIdx.x);
  const int kvHead = head / p.group();
  const T* q = p.q.at<T>(batch, head);
  const T* k = p.k.at<T>(batch, kvHead);
  const T* v = p.v.at<T>(batch, kvHead);
  // Keys that a row sees; rows past the end are of no account.
  auto seen = [&](int row) { return min(p.keys, p.seen(p.pack == 1 ? row : row / p.pack)); };
  const int begin = split * p.splitTiles * N;
  const int end = min(seen(min(first + blockRows, rows) - 1), begin + p.splitTiles * N);
  auto fetchKeys = [&](int key) {
    fetch<N, width>(s.k[0], k + key * p.k.row, p.k.row, end - key, p.depth, p.vectors);
    commitCopies();
  };
  auto fetchValues = [&](int key) {
    fetch<N, width>(s.v[0], v + key * p.v.row, p.v.row, end - key, p.depth, p.vectors);
    commitCopies();
  };
  if (begin < end) {
    auto queryRow = [&](int i) {
      const int row = first + i;
      return p.pack == 1 ? q + row * p.q.row : q + row / p.pack * p.q.row + row % p.pack * p.q.head;
    };
    fetchRows<blockRows, width, 1>(s.q[0], rows - first, p.depth, p.vectors, queryRow,
                                   [&](const T* from, int i, int n) { return from + (queryRow(i + n) - queryRow(i)); });
    fetchKeys(begin);
  }

  const int own = first + 16 * M * warp();  // the warp's first row
  const int warpFirst = seen(own), warpEnd = seen(own + 16 * M - 1);
  const auto queryLane = lanesDown<width>(s.q[16 * M * warp()]);
  const auto keyLane = lanesAcross<width>(s.k[0]);
  const auto valueLane = lanesDown<width>(s.v[0]);
  const float scale = (float)p.scale * log2e;
  float sum[M][width / 8][4] = {}, top[M][2], total[M][2];
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) top[m][half] = -INFINITY, total[m][half] = 0;

#pragma unroll 1
  for (int key = begin; key < end; key += N) {
    waitCopies<0>();
    __syncthreads();  // the keys are there, and all are done with the last values
    fetchValues(key);
    float scores[M][N / 8][4] = {};
    const bool any = key < warpEnd;  // that the warp's rows see
    if (any) multiplyRows<M, N>(scores, queryLane, keyLane);
    waitCopies<0>();
    __syncthreads();  // the values are there, and all are done with these keys
    if (key + N < end) fetchKeys(key + N);
    if (!any) continue;
    if (key + N > min(warpFirst, end))
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int limit = min(seen(own + 16 * m + 8 * half + lane() / 4), end) - key - lane() % 4 * 2;
#pragma unroll
          for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++)
              if (8 * n + i >= limit) scores[m][n][2 * half + i] = -INFINITY;
        }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float most = top[m][half];
#pragma unroll
        for (int n = 0; n < N / 8; n++) most = fmaxf(most, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
        most = warpReduce<4>(most, [](float a, float b) { return fmaxf(a, b); });
        const float base = most > -INFINITY ? most * scale : 0.0f;
        const float shrink = exp2Fast(top[m][half] * scale - base);
        top[m][half] = most;
        float here = 0;
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            float& score = scores[m][n][2 * half + i];
            score = exp2Fast(fmaf(score, scale, -base));
            here += score;
          }
        total[m][half] = fmaf(total[m][half], shrink, here);
#pragma unroll
        for (int n = 0; n < width / 8; n++) sum[m][n][2 * half] *= shrink, sum[m][n][2 * half + 1] *= shrink;
      }
    multiplyWeights<M, N, width>(sum, scores, valueLane);
  }

#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float all = warpSum<4>(total[m][half]);
      const int row = own + 16 * m + 8 * half + lane() / 4;
      // Without keys y is 0. What a split did not see weighs nothing, and must not become NaN.
      const float one = end <= begin || (p.splits > 1 && all == 0) ? 0.0f : 1 / all;
      total[m][half] = one;
      if (row >= rows) continue;
      const int64_t place = ((int64_t)batch * p.heads + head + row % p.pack) * p.queries + row / p.pack;
      const int64_t splitPlace = (int64_t)split * p.batches * p.heads * p.queries + place;
      const float lse = top[m][half] * scale / log2e + math::log(all);
      if (lane() % 4 == 0) ((float*)(p.splits > 1 ? p.partLse : p.lse))[splitPlace] = lse;
      if (p.splits > 1) {
        float* to = (float*)p.part + splitPlace * p.depth + lane() % 4 * 2;
        const int left = opaque(p.depth - lane() % 4 * 2);  // else all comparisons are kept for the next row
#pragma unroll
        for (int n = 0; n < width / 8; n++)
#pragma unroll
          for (int i = 0; i < 2; i++)
            if (8 * n + i < left) to[8 * n + i] = sum[m][n][2 * half + i] * one;
      }
    }
  if (p.splits > 1) return;
  storeRows<M, width, width>(
      sum, [&](int m, int half) { return total[m][half]; }, s.q[16 * M * warp()],
      [&](int i) -> T* {
        const int row = own + i;
        if (row >= rows) return nullptr;
        return p.y.at<T>(batch, head + row % p.pack) + row / p.pack * p.y.row;
      },
      0, p.depth, p.vectors);
}

}  // namespace
}  // namespace sm80

bool sm80Takes(Dtype type, const AttentionProblem& p) {
  return (type == Dtype::bfloat16 || type == Dtype::float16) && p.depth <= 256 && p.scale > 0 &&
         device().capability >= 80;
}

ForwardTiling sm80Tiling(int depth) {
  const int width = sm80::widthOf(depth);
  return {16 * sm80::warpsOfBlock * sm80::rowsOf(width), sm80::keysOf(width), 1};
}

void attentionSm80(Dtype type, const AttentionProblem& p) {
  sm80::withKind(type, p.depth, [&](auto tag, auto width) {
    using T = typename decltype(tag)::type;
    const int tiles = (int)rowTiles(p, sm80Tiling(p.depth).rows);
    const dim3 blocks(tiles * (p.heads / p.pack) * p.batches, p.splits);
    launch("attention", sm80::attentionSm80Kernel<T, width()>,
           {blocks, sm80::threads, sizeof(sm80::Storage<T, width()>)}, p, tiles);
  });
}

}  // namespace cuda
