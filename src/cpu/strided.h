#pragma once
// Walks several views of one shape together, in long runs along the last axis; adjacent axes are merged where they can
// be.
#include <cstdint>

#include "core/view.h"
#include "cpu/pool.h"

namespace cpu::ISA {

template <int N>
struct Walk {
  int rank = 0;
  int64_t count = 1;
  int64_t shape[maxRank];
  int64_t stride[N][maxRank];

  explicit Walk(const View* const (&views)[N]) {
    const View& first = *views[0];
    for (int axis = 0; axis < first.rank; axis++) {
      int64_t length = first.shape[axis];
      count *= length;
      if (length == 1) continue;
      bool merge = rank > 0;
      for (int v = 0; v < N && merge; v++) merge = stride[v][rank - 1] == views[v]->stride[axis] * length;
      if (!merge) {
        rank++;
        shape[rank - 1] = 1;
      }
      shape[rank - 1] *= length;
      for (int v = 0; v < N; v++) stride[v][rank - 1] = views[v]->stride[axis];
    }
    if (!rank) {
      rank = 1;
      shape[0] = 1;
      for (int v = 0; v < N; v++) stride[v][0] = 1;
    }
  }

  int64_t step(int v) const { return stride[v][rank - 1]; }

  // fn(offsets of the N views, length of the run), in parallel over fixed chunks.
  template <class Fn>
  void run(Fn&& fn, int64_t grain = 16384) const {
    parallelFor(count, grain, [&](int64_t begin, int64_t end) {
      int64_t at[maxRank], offset[N] = {};
      int64_t rest = begin;
      for (int axis = rank - 1; axis >= 0; axis--) {
        at[axis] = rest % shape[axis];
        rest /= shape[axis];
        for (int v = 0; v < N; v++) offset[v] += at[axis] * stride[v][axis];
      }
      for (int64_t i = begin; i < end;) {
        int64_t length = shape[rank - 1] - at[rank - 1];
        if (length > end - i) length = end - i;
        fn(offset, length);
        i += length;
        if (i >= end) break;
        at[rank - 1] += length;
        for (int v = 0; v < N; v++) offset[v] += length * stride[v][rank - 1];
        for (int axis = rank - 1; axis > 0 && at[axis] == shape[axis]; axis--) {
          for (int v = 0; v < N; v++) offset[v] += stride[v][axis - 1] - at[axis] * stride[v][axis];
          at[axis] = 0;
          at[axis - 1]++;
        }
      }
    });
  }
};
template <int N>
Walk(const View* const (&)[N]) -> Walk<N>;

}  // namespace cpu::ISA
