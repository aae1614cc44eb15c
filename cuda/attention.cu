// Attention and its gradient: which kernels, what they need beside their operands. 16-bit floats go to the tensor cores
// (attention_sm80.cu), float32, float64 and rows longer than 256 to attention_float.cu.
#include "attention.cuh"

#include <algorithm>

#include "core/check.h"
#include "device/pack.cuh"
#include "device/reduce.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "math/transcendental.h"

namespace cuda {
namespace {

constexpr int rowLanes = 8, blockRows = 256 / rowLanes;

// Eight lanes a row: delta = dy . y, which the gradient of softmax subtracts.
template <class T>
__global__ void attentionDeltaKernel(AttentionProblem p, int64_t rows) {
  using C = Compute<T>;
  constexpr int n = perPack<T>;
  const int64_t at = (int64_t)blockIdx.x * blockRows + threadIdx.x / rowLanes;
  const int64_t row = at < rows ? at : rows - 1;  // every lane takes part in the sum
  const int t = (int)(row % p.queries), first = threadIdx.x % rowLanes;
  const int64_t head = row / p.queries;
  const T* y = p.y.at<T>(head / p.heads, head % p.heads) + t * p.y.row;
  const T* dy = p.dy.at<T>(head / p.heads, head % p.heads) + t * p.dy.row;
  C sum = 0;
  if (p.vectors) {
    for (int d = first * n; d < p.depth; d += rowLanes * n) {
      const auto a = loadPack<n>(y + d), b = loadPack<n>(dy + d);
#pragma unroll
      for (int i = 0; i < n; i++) sum += (C)a.at[i] * (C)b.at[i];
    }
  } else {
    for (int d = first; d < p.depth; d += rowLanes) sum += (C)y[d] * (C)dy[d];
  }
  sum = warpSum<rowLanes>(sum);
  if (at < rows && first == 0) ((C*)p.delta)[row] = sum;
}

// A warp a query: joins what each split found, in order.
template <class T>
__global__ void attentionJoinKernel(AttentionProblem p, int64_t rows) {
  using C = Compute<T>;
  const int64_t row = (int64_t)blockIdx.x * warps() + warp();
  if (row >= rows) return;
  const C* lse = (const C*)p.partLse + row;
  C top = -INFINITY, total = 0;
  for (int i = 0; i < p.splits; i++) top = max(top, lse[i * rows]);
  const C base = top > -INFINITY ? top : C(0);
  for (int i = 0; i < p.splits; i++) total += math::exp(lse[i * rows] - base);
  const int64_t head = row / p.queries;
  T* y = p.y.at<T>(head / p.heads, head % p.heads) + row % p.queries * p.y.row;
  const C one = C(1) / total;
  for (int d = lane(); d < p.depth; d += 32) {
    C sum = 0;
    for (int i = 0; i < p.splits; i++)
      sum += math::exp(lse[i * rows] - base) * ((const C*)p.part)[(i * rows + row) * p.depth + d];
    y[d] = (T)(sum * one);
  }
  if (lane() == 0) ((C*)p.lse)[row] = top + math::log(total);
}

// Strides as Heads has them; `vectors` stays true if every row of x is whole packs of 16 bytes.
Heads heads(const View& x, bool& vectors) {
  const int64_t n = 16 / dtypeSize(x.dtype);
  bool whole = (uintptr_t)x.data % 16 == 0 && x.shape[3] % n == 0;
  for (int i = 0; i < 3; i++) whole = whole && (x.shape[i] <= 1 || x.stride[i] % n == 0);
  vectors = vectors && (whole || x.size() == 0);
  return {x.data, x.stride[0], x.stride[1], x.stride[2]};
}

AttentionProblem problem(View q, View k, View v, View y, View lse, double scale, bool causal) {
  for (const View* x : {&q, &k})
    check(x->shape[2] < 1 << 30 && x->shape[3] < 1 << 20, "attention: ", x->shape[2], " positions of ", x->shape[3],
          " elements, but kernels take at most 2^30 of 2^20");
  AttentionProblem p{};
  p.vectors = true;
  p.q = heads(q, p.vectors), p.k = heads(k, p.vectors), p.v = heads(v, p.vectors), p.y = heads(y, p.vectors);
  p.lse = lse.data;
  p.batches = (int)q.shape[0], p.heads = (int)q.shape[1], p.kvHeads = (int)k.shape[1];
  p.queries = (int)q.shape[2], p.keys = (int)k.shape[2], p.depth = (int)q.shape[3];
  p.scale = scale, p.causal = causal;
  return p;
}

// Few queries against many keys (a model that generates) would leave most of the GPU idle, and read keys once a head.
void planFewQueries(AttentionProblem& p, const ForwardTiling& tiling) {
  if (2 * p.queries <= tiling.rows) p.pack = p.group();
  const int64_t blocks = (int64_t)p.batches * (p.heads / p.pack) * rowTiles(p, tiling.rows) * tiling.columns;
  const int64_t tiles = (p.keys + tiling.keys - 1) / tiling.keys;
  const int64_t wanted = std::min<int64_t>({2 * device().processors / blocks, tiles / 2, 128});
  p.splits = 1, p.splitTiles = (int)tiles;
  if (wanted < 3) return;
  p.splitTiles = (int)((tiles + wanted - 1) / wanted);
  p.splits = (int)((tiles + p.splitTiles - 1) / p.splitTiles);
}

}  // namespace

void attention(View q, View k, View v, double scale, bool causal, View y, View lse) {
  if (y.size() == 0) return;
  AttentionProblem p = problem(q, k, v, y, lse, scale, causal);
  const bool tensorCores = sm80Takes(q.dtype, p);
  planFewQueries(p, tensorCores ? sm80Tiling(p.depth) : floatTiling(q.dtype, p.depth));
  const int64_t rows = lse.size(), bytes = dtypeSize(lse.dtype);
  const Scratch part(p.splits > 1 ? p.splits * rows * (p.depth + 1) * bytes : 0);
  p.part = part.as<void>(), p.partLse = part.as<void>(p.splits * rows * p.depth * bytes);
  (tensorCores ? attentionSm80 : attentionFloat)(q.dtype, p);
  if (p.splits > 1)
    withFloat(q.dtype, [&](auto tag) {
      launch("attention: join", attentionJoinKernel<typename decltype(tag)::type>, {blocksFor(rows, 4), 128}, p, rows);
    });
}

void attentionGrad(View q, View k, View v, View y, View lse, View dy, double scale, bool causal, View dq, View dk,
                   View dv) {
  if (q.size() == 0 && k.size() == 0) return;
  AttentionProblem p = problem(q, k, v, y, lse, scale, causal);
  p.dy = heads(dy, p.vectors), p.dq = heads(dq, p.vectors), p.dk = heads(dk, p.vectors), p.dv = heads(dv, p.vectors);
  const int64_t rows = lse.size();
  const Scratch delta(rows * dtypeSize(lse.dtype));
  p.delta = delta.as<void>();
  withFloat(q.dtype, [&](auto tag) {
    launch("attentionGrad: delta", attentionDeltaKernel<typename decltype(tag)::type>, {blocksFor(rows, blockRows)}, p,
           rows);
  });
  (sm80Takes(q.dtype, p) ? attentionGradSm80 : attentionGradFloat)(q.dtype, p);
}

}  // namespace cuda
