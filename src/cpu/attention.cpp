// isa: all
// Attention in tiles: scores exist for a few rows of queries at a time, and backward computes them again from the saved
// logsumexp (Dao, FlashAttention-2, arXiv 2307.08691).
#include <algorithm>

#include "cpu/blas.h"
#include "cpu/pool.h"
#include "cpu/rows.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

constexpr int64_t queryTile = 64, keyTile = 256;

void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const float* a, int64_t lda, const float* b,
          int64_t ldb, double beta, float* c, int64_t ldc) {
  cpu::sgemm(ta, tb, m, n, k, (float)alpha, a, lda, b, ldb, (float)beta, c, ldc);
}
void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda,
          const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  cpu::dgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// One head of a (B, H, T, D) view whose rows are adjacent elements.
template <class C>
struct Head {
  C* data;
  int64_t step;  // from row to row
  Head(const View& x, int64_t b, int64_t h)
      : data(x.as<C>() + b * x.stride[0] + h * x.stride[1]), step(x.shape[2] > 1 ? x.stride[2] : x.shape[3]) {}
  C* row(int64_t t) const { return data + t * step; }
};

// How many keys the query at row t may look at.
struct Reach {
  int64_t keys, queries;
  bool causal;
  int64_t operator()(int64_t t) const { return causal ? std::min(keys, keys - queries + t + 1) : keys; }
};

template <class C>
void forward(View q, View k, View v, double scale, bool causal, View y, View lse) {
  const int64_t heads = q.shape[1], group = heads / k.shape[1], T = q.shape[2], S = k.shape[2], D = q.shape[3];
  const int64_t tiles = (T + queryTile - 1) / queryTile;
  const Reach reach{S, T, causal};
  // One chunk a tile of queries of one head.
  parallelChunks(q.shape[0] * heads * tiles, [&](int64_t chunk) {
    // The longest tiles of a causal head come first, so that the chunks that end last are short.
    const int64_t tile = tiles - 1 - chunk % tiles, h = chunk / tiles % heads, b = chunk / tiles / heads;
    const int64_t first = tile * queryTile, m = std::min(queryTile, T - first);
    const Head<C> Q(q, b, h), K(k, b, h / group), V(v, b, h / group), Y(y, b, h);
    C* score = (C*)scratch(0, (queryTile * keyTile + queryTile * D) * sizeof(C));
    C* sum = score + queryTile * keyTile;
    C largestSoFar[queryTile];
    double total[queryTile];
    std::fill(sum, sum + m * D, C(0));
    std::fill(largestSoFar, largestSoFar + m, C(-__builtin_inf()));
    std::fill(total, total + m, 0.0);
    for (int64_t key = 0, end = reach(first + m - 1); key < end; key += keyTile) {
      const int64_t n = std::min(keyTile, end - key);
      gemm(false, true, m, n, D, scale, Q.row(first), Q.step, K.row(key), K.step, 0, score, keyTile);
      for (int64_t i = 0; i < m; i++) {
        C* s = score + i * keyTile;
        const int64_t seen = std::clamp<int64_t>(reach(first + i) - key, 0, n);
        std::fill(s + seen, s + n, C(0));
        if (!seen) continue;
        const C top = std::max(largestSoFar[i], largest(s, seen));
        const C fade = math::exp(largestSoFar[i] - top);
        total[i] = total[i] * (double)fade + exponentials(s, top, s, seen);
        largestSoFar[i] = top;
        if (key && fade != C(1))
          for (int64_t d = 0; d < D; d++) sum[i * D + d] *= fade;
      }
      gemm(false, false, m, D, n, 1, score, keyTile, V.row(key), V.step, 1, sum, D);
    }
    C* l = lse.as<C>() + (b * heads + h) * T + first;
    for (int64_t i = 0; i < m; i++) {
      l[i] = (C)((double)largestSoFar[i] + __builtin_log(total[i]));
      const C share = total[i] == 0 ? C(0) : (C)(1 / total[i]);
      C* out = Y.row(first + i);
      for (int64_t d = 0; d < D; d++) out[d] = sum[i * D + d] * share;
    }
  });
}

template <class C>
void backward(View q, View k, View v, View y, View lse, View dy, double scale, bool causal, View dq, View dk, View dv) {
  const int64_t heads = q.shape[1], shared = k.shape[1], group = heads / shared, T = q.shape[2], S = k.shape[2],
                D = q.shape[3];
  const Reach reach{S, T, causal};
  // One chunk a head of keys, with the heads of queries that share it: every sum has one owner.
  parallelChunks(q.shape[0] * shared, [&](int64_t chunk) {
    const int64_t b = chunk / shared, owner = chunk % shared;
    const Head<C> K(k, b, owner), V(v, b, owner), dK(dk, b, owner), dV(dv, b, owner);
    C* p = (C*)scratch(0, 2 * queryTile * keyTile * sizeof(C));
    C* dp = p + queryTile * keyTile;
    C* delta = (C*)scratch(1, T * sizeof(C));
    for (int64_t s = 0; s < S; s++) {
      std::fill(dK.row(s), dK.row(s) + D, C(0));
      std::fill(dV.row(s), dV.row(s) + D, C(0));
    }
    for (int64_t h = owner * group; h < (owner + 1) * group; h++) {
      const Head<C> Q(q, b, h), Y(y, b, h), dY(dy, b, h), dQ(dq, b, h);
      const C* l = lse.as<C>() + (b * heads + h) * T;
      for (int64_t t = 0; t < T; t++) {
        const C *o = Y.row(t), *d = dY.row(t);
        delta[t] = (C)sumOver<C>(D, [&](int64_t i) { return o[i] * d[i]; });
      }
      for (int64_t first = 0; first < T; first += queryTile) {
        const int64_t m = std::min(queryTile, T - first);
        for (int64_t t = first; t < first + m; t++) std::fill(dQ.row(t), dQ.row(t) + D, C(0));
        for (int64_t key = 0, end = reach(first + m - 1); key < end; key += keyTile) {
          const int64_t n = std::min(keyTile, end - key);
          gemm(false, true, m, n, D, scale, Q.row(first), Q.step, K.row(key), K.step, 0, p, keyTile);
          gemm(false, true, m, n, D, 1, dY.row(first), dY.step, V.row(key), V.step, 0, dp, keyTile);
          for (int64_t i = 0; i < m; i++) {
            C *s = p + i * keyTile, *ds = dp + i * keyTile;
            const int64_t seen = std::clamp<int64_t>(reach(first + i) - key, 0, n);
            const C level = l[first + i], mean = delta[first + i], factor = (C)scale;
#pragma omp simd
            for (int64_t j = 0; j < seen; j++) {
              s[j] = math::exp(s[j] - level);
              ds[j] = s[j] * (ds[j] - mean) * factor;
            }
            std::fill(s + seen, s + n, C(0));
            std::fill(ds + seen, ds + n, C(0));
          }
          gemm(true, false, n, D, m, 1, p, keyTile, dY.row(first), dY.step, 1, dV.row(key), dV.step);
          gemm(true, false, n, D, m, 1, dp, keyTile, Q.row(first), Q.step, 1, dK.row(key), dK.step);
          gemm(false, false, m, D, n, 1, dp, keyTile, K.row(key), K.step, 1, dQ.row(first), dQ.step);
        }
      }
    }
  });
}

}  // namespace

void attention(View q, View k, View v, double scale, bool causal, View y, View lse) {
  if (q.dtype == Dtype::float64)
    forward<double>(q, k, v, scale, causal, y, lse);
  else
    forward<float>(q, k, v, scale, causal, y, lse);
}

void attentionGrad(View q, View k, View v, View y, View lse, View dy, double scale, bool causal, View dq, View dk,
                   View dv) {
  if (q.dtype == Dtype::float64)
    backward<double>(q, k, v, y, lse, dy, scale, causal, dq, dk, dv);
  else
    backward<float>(q, k, v, y, lse, dy, scale, causal, dq, dk, dv);
}

}  // namespace cpu::ISA
