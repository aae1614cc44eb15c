#pragma once
// What the kernels of attention know of a problem, and who calls them.
#include <cuda_runtime.h>

#include <cstdint>

#include "core/view.h"

namespace cuda {

// Rows of D adjacent elements: (B, heads, T, D).
struct Heads {
  void* data;
  int64_t batch, head, row;  // strides in elements

  template <class T>
  HD T* at(int64_t b, int64_t h) const {
    return (T*)data + b * batch + h * head;
  }
};

struct AttentionProblem {
  Heads q, k, v, y, dy, dq, dk, dv;  // the last four of a gradient only
  void* lse;                         // (B, H, T), in the compute type
  void* delta;                       // (B, H, T), of a gradient: dy . y of each query
  int batches, heads, kvHeads, queries, keys, depth;
  bool causal;
  bool vectors;  // every row begins at a multiple of 16 bytes and is whole packs of 16 bytes
  double scale;

  // Forward, for few queries. The rows of a block are those of `pack` heads that share keys, the heads of a position
  // next to each other; every block sees `splitTiles` tiles of keys, and what `splits` of them find is joined
  // afterwards:
  int pack = 1, splits = 1, splitTiles = 0;
  void* part = nullptr;     // (splits, B, H, T, D), in the compute type
  void* partLse = nullptr;  // (splits, B, H, T)

  HD int group() const { return heads / kvHeads; }
  // Query t sees this many keys.
  HD int seen(int t) const { return causal ? keys - queries + t + 1 : keys; }
};

// How a forward kernel cuts a problem up: a block has so many rows (queries) and sees tiles of so many keys; the
// columns of y are shared out among `columns` blocks.
struct ForwardTiling {
  int rows, keys, columns;
};
inline int64_t rowTiles(const AttentionProblem& p, int rows) { return ((int64_t)p.queries * p.pack + rows - 1) / rows; }

ForwardTiling floatTiling(Dtype, int depth);
void attentionFloat(Dtype, const AttentionProblem& p);
void attentionGradFloat(Dtype, const AttentionProblem& p);

// bfloat16 and float16, D up to 256, and scores whose order is that of their products.
bool sm80Takes(Dtype, const AttentionProblem& p);
ForwardTiling sm80Tiling(int depth);
void attentionSm80(Dtype, const AttentionProblem& p);
void attentionGradSm80(Dtype, const AttentionProblem& p);

}  // namespace cuda
