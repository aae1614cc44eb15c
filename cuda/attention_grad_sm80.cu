// The gradient of attention on the tensor cores of every GPU from sm_80 on. Two kernels of one form, one for dk and dv
// and one for dq: both make the weights again, which costs two products of seven but leaves no sum to more than one
// block, so that there are no atomics and the bits are always the same.
#include <type_traits>

#include "attention_sm80.cuh"
#include "launch.cuh"

namespace cuda {
namespace sm80 {
namespace {

// A block owns rows (keys, or queries) and meets the others N at a time; a warp owns 16 M of them. Sums, scores and
// their gradients have to fit into the 255 registers of a thread; the tiles into 99 KB, so that two blocks share a
// processor of 228 KB and every GPU from sm_80 on holds one. Rows of 256 are summed 128 columns a block.
template <int width, bool ofKeys>
struct Shape {
  static constexpr int M = ofKeys ? (width <= 64 ? 2 : 1) : (width <= 128 ? 2 : 1);
  static constexpr int N = width == 256 ? 16
                           : ofKeys     ? (width == 64    ? 32
                                           : width == 128 ? 48
                                                          : 64)
                                        : (width <= 64    ? 64
                                           : width == 128 ? 16
                                                          : 32);
  static constexpr int columns = ofKeys && width == 256 ? 128 : width;  // of the result
  static constexpr int rows = 16 * M * warpsOfBlock;
};

// ofKeys: mine are k and v, theirs q and dy; else mine are q and dy, theirs k and v.
template <class T, int width, bool ofKeys>
struct Storage {
  using S = Shape<width, ofKeys>;
  alignas(128) T mine[S::rows][width];
  alignas(128) T mineToo[S::rows][width];
  alignas(128) T theirs[2][S::N][width];
  alignas(128) T theirsToo[2][S::N][width];
  alignas(16) float lse[2][S::N], delta[2][S::N];  // of theirs, if those are queries
};

// While one tile of theirs is worked on the next arrives. Scores are (mine, theirs): of keys they are transposed, so
// that weights and gradients again go from registers to registers. The heads that share a key head are summed in order.
template <class T, int width, bool ofKeys>
__global__ void __launch_bounds__(threads, 2) attentionGradSm80Kernel(AttentionProblem p, int tiles) {
  using Sh = Shape<width, ofKeys>;
  constexpr int M = Sh::M, N = Sh::N, columns = Sh::columns;
  auto& s = sharedMemory<Storage<T, width, ofKeys>>();
  int at = (int)blockIdx.x;
  const int first = (ofKeys ? at % tiles : tiles - 1 - at % tiles) * Sh::rows;  // the longest first
  at /= tiles;
  const int column = columns < width ? at % (width / columns) * columns : 0;
  if (columns < width) at /= width / columns;
  const int owners = ofKeys ? p.kvHeads : p.heads, owner = at % owners, batch = at / owners;
  const int heads = ofKeys ? p.group() : 1, head = ofKeys ? owner * heads : owner, kvHead = head / p.group();
  const int count = ofKeys ? p.keys : p.queries, others = ofKeys ? p.queries : p.keys;

  // Theirs that meet mine: queries that see the first of my keys, or keys that the last of my queries sees.
  int begin = 0, end = others;
  if (ofKeys && p.causal) begin = max(0, first - (p.keys - p.queries)) / N * N;
  if (!ofKeys) end = p.seen(min(first + Sh::rows, count) - 1);
  const int steps = begin < end ? (end - begin + N - 1) / N * heads : 0;

  const Heads &theirsOf = ofKeys ? p.q : p.k, &theirsTooOf = ofKeys ? p.dy : p.v;
  int nextHead = head, next = begin;
  auto fetchNext = [&](int stage) {
    const int h = ofKeys ? nextHead : kvHead;
    fetch<N, width>(s.theirs[stage][0], theirsOf.at<T>(batch, h) + next * theirsOf.row, theirsOf.row, end - next,
                    p.depth, p.vectors);
    fetch<N, width>(s.theirsToo[stage][0], theirsTooOf.at<T>(batch, h) + next * theirsTooOf.row, theirsTooOf.row,
                    end - next, p.depth, p.vectors);
    if constexpr (ofKeys)
      if (threadIdx.x < N) {
        const int64_t query = ((int64_t)batch * p.heads + h) * p.queries + next + threadIdx.x;
        const int taken = next + (int)threadIdx.x < end ? 4 : 0;
        copyAsync<4>(&s.lse[stage][threadIdx.x], (const float*)p.lse + query, taken);
        copyAsync<4>(&s.delta[stage][threadIdx.x], (const float*)p.delta + query, taken);
      }
    commitCopies();
    next += N;
    if (next >= end) next = begin, nextHead++;
  };
  const Heads &mineOf = ofKeys ? p.k : p.q, &mineTooOf = ofKeys ? p.v : p.dy;
  if (steps) {
    fetch<Sh::rows, width>(s.mine[0], mineOf.at<T>(batch, owner) + first * mineOf.row, mineOf.row, count - first,
                           p.depth, p.vectors);
    fetch<Sh::rows, width>(s.mineToo[0], mineTooOf.at<T>(batch, owner) + first * mineTooOf.row, mineTooOf.row,
                           count - first, p.depth, p.vectors);
    fetchNext(0);
  }

  const int own = first + 16 * M * warp();  // the warp's first row
  const float scale = (float)p.scale * log2e;
  float lse[M][2], delta[M][2];  // of mine, if those are queries
  if constexpr (!ofKeys)
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int64_t t = min(own + 16 * m + 8 * half + lane() / 4, p.queries - 1);
        const int64_t query = ((int64_t)batch * p.heads + owner) * p.queries + t;
        lse[m][half] = ((const float*)p.lse)[query] * log2e, delta[m][half] = ((const float*)p.delta)[query];
      }
  const auto mine = lanesDown<width>(s.mine[16 * M * warp()]), mineToo = lanesDown<width>(s.mineToo[16 * M * warp()]);
  float sum[M][columns / 8][4] = {}, sumToo[ofKeys ? M : 1][columns / 8][4] = {};

  int other = begin;
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    const int stage = step % 2;
    waitCopies<0>();
    __syncthreads();
    if (step + 1 < steps) fetchNext(1 - stage);
    const int from = other;
    other += N;
    if (other >= end) other = begin;
    float weights[M][N / 8][4] = {}, ds[M][N / 8][4] = {};
    multiplyRows<M, N>(weights, mine, lanesAcross<width>(s.theirs[stage][0]));
    multiplyRows<M, N>(ds, mineToo, lanesAcross<width>(s.theirsToo[stage][0]));
    const bool all = from + N <= end && (ofKeys ? own + 16 * M <= p.seen(from) : from + N <= p.seen(own));
    if (!all) {  // what is not seen weighs nothing, whatever its gradient would be
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int row = own + 16 * m + 8 * (i / 2) + lane() / 4, their = from + 8 * n + lane() % 4 * 2 + i % 2;
            const bool sees = their < end && (ofKeys ? row < p.seen(their) : their < p.seen(row));
            if (!sees) weights[m][n][i] = -INFINITY, ds[m][n][i] = 0;
          }
    }
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
      const int c = 8 * n + lane() % 4 * 2;
      float2 theirLse, theirDelta;
      if constexpr (ofKeys) {
        theirLse = *reinterpret_cast<const float2*>(&s.lse[stage][c]);
        theirDelta = *reinterpret_cast<const float2*>(&s.delta[stage][c]);
        theirLse.x *= log2e, theirLse.y *= log2e;
      }
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float level = ofKeys ? (i % 2 ? theirLse.y : theirLse.x) : lse[m][i / 2];
          const float mean = ofKeys ? (i % 2 ? theirDelta.y : theirDelta.x) : delta[m][i / 2];
          const float w = exp2Fast(fmaf(weights[m][n][i], scale, -level)), d = w * (ds[m][n][i] - mean);
          weights[m][n][i] = w, ds[m][n][i] = d;
        }
    }
    if constexpr (ofKeys)
      multiplyWeights<M, N, columns>(sumToo, weights, lanesDown<width>(s.theirsToo[stage][0]), column);
    multiplyWeights<M, N, columns>(sum, ds, lanesDown<width>(s.theirs[stage][0]), column);
  }

  auto store = [&](const Heads& to, const auto& sums, float factor, T* through) {
    storeRows<M, columns, width>(
        sums, [=](int, int) { return factor; }, through,
        [&](int i) { return own + i < count ? to.at<T>(batch, owner) + (own + i) * to.row : nullptr; }, column, p.depth,
        p.vectors);
  };
  store(ofKeys ? p.dk : p.dq, sum, (float)p.scale, s.mine[16 * M * warp()]);
  if constexpr (ofKeys) store(p.dv, sumToo, 1.0f, s.mineToo[16 * M * warp()]);
}

template <class T, int width, bool ofKeys>
void launchGrad(const AttentionProblem& p) {
  using Sh = Shape<width, ofKeys>;
  const int tiles = (int)blocksFor(ofKeys ? p.keys : p.queries, Sh::rows);
  launch(ofKeys ? "attentionGrad: k and v" : "attentionGrad: q", attentionGradSm80Kernel<T, width, ofKeys>,
         {tiles * (width / Sh::columns) * (ofKeys ? p.kvHeads : p.heads) * p.batches, threads,
          sizeof(Storage<T, width, ofKeys>)},
         p, tiles);
}

}  // namespace
}  // namespace sm80

void attentionGradSm80(Dtype type, const AttentionProblem& p) {
  sm80::withKind(type, p.depth, [&](auto tag, auto width) {
    using T = typename decltype(tag)::type;
    sm80::launchGrad<T, width(), true>(p);
    sm80::launchGrad<T, width(), false>(p);
  });
}

}  // namespace cuda
