// isa: all
// Attention by tiles, in the manner of FlashAttention-2 (Dao, arXiv 2307.08691): 64 queries against 128 keys at a time,
// never a T x S matrix. Scores are kept key by key (a row a key, a column a query), so that maxima, exponentials and
// sums run down columns, a query a lane.
#include <cmath>

#include "cpu/pool.h"
#include "cpu/tile.h"
#include "kernels.h"
#include "math/transcendental.h"

namespace cpu::ISA {
namespace {

constexpr int64_t queryTile = 64, keyTile = 128;

template <class C>
int64_t padded(int64_t n) {
  return (n + lanes<C> - 1) / lanes<C> * lanes<C>;
}

// Rows of length D of one head.
template <class C>
struct Rows {
  C* data;
  int64_t step, count;
  Rows(C* data, int64_t step, int64_t count) : data(data), step(step), count(count) {}
  Rows(const View& x, int64_t batch, int64_t head)
      : data(x.as<C>() + batch * x.stride[0] + head * x.stride[1]), step(x.stride[2]), count(x.shape[3]) {}
  C* row(int64_t i) const { return data + i * step; }
};

// Memory of this thread, handed out piece by piece.
template <class C>
struct Workspace {
  C* next;
  explicit Workspace(int64_t elements) : next((C*)scratch(0, (elements + 64) * sizeof(C))) {}
  C* take(int64_t elements) {
    C* here = next;
    next += (elements + 15) / 16 * 16;
    return here;
  }
};

// to (D, n) = scale * the rows from `first` on, turned; columns up to n are zero.
template <class C>
void turn(const Rows<C>& x, int64_t first, int64_t rows, int64_t n, C scale, C* to) {
  int64_t done = 0;  // rows
  if constexpr (std::is_same_v<C, float>)
    for (; done + 8 <= rows; done += 8) {
      int64_t d = 0;
      for (; d + 8 <= x.count; d += 8) turnSquare(x.row(first + done) + d, x.step, scale, to + d * n + done, n);
      for (; d < x.count; d++)
        for (int64_t i = done; i < done + 8; i++) to[d * n + i] = x.row(first + i)[d] * scale;
    }
  for (int64_t d = 0; d < x.count; d++) {
    for (int64_t i = done; i < rows; i++) to[d * n + i] = x.row(first + i)[d] * scale;
    for (int64_t i = rows; i < n; i++) to[d * n + i] = 0;
  }
}

// Rows as a product can read them: where they lie, or padded with zeros to whole vectors in `to`.
template <class C>
struct Block {
  const C* data;
  int64_t step;
};
template <class C>
constexpr bool fits(int64_t depth) {
  return depth % lanes<C> == 0;
}
// Where to sum rows of the result: in place if that fits, else in `own`.
template <class C>
struct Sums {
  C* data;
  int64_t step;
  Sums(const Rows<C>& x, C* own, int64_t width) : data(own), step(width) {
    if (fits<C>(x.count)) data = x.row(0), step = x.step;
  }
  C* row(int64_t i) const { return data + i * step; }
  void finish(const Rows<C>& x, int64_t rows) const {
    if (fits<C>(x.count)) return;
    for (int64_t i = 0; i < rows; i++)
      for (int64_t d = 0; d < x.count; d++) x.row(i)[d] = row(i)[d];
  }
};
template <class C>
Block<C> block(const Rows<C>& x, int64_t first, int64_t rows, C* to) {
  if (fits<C>(x.count)) return {x.row(first), x.step};
  const int64_t width = padded<C>(x.count);
  for (int64_t i = 0; i < rows; i++) {
    const C* from = x.row(first + i);
    for (int64_t d = 0; d < x.count; d++) to[i * width + d] = from[d];
    for (int64_t d = x.count; d < width; d++) to[i * width + d] = 0;
  }
  return {to, width};
}

// Where a tile of queries meets a tile of keys. Query i sees keys up to i + offset.
struct Tile {
  int64_t query, queries, key, keys, offset;
  bool causal;
  // How many of the tile's first queries do not see its key j.
  int64_t blind(int64_t j) const { return causal ? std::clamp<int64_t>(key + j - offset - query, 0, queries) : 0; }
  // How many of the tile's keys its query i sees.
  int64_t seen(int64_t i) const { return causal ? std::clamp<int64_t>(query + i + offset - key + 1, 0, keys) : keys; }
};

// scores (keys, n) = left (keys, D) @ right (D, n), as far as seen.
template <class C>
void against(const Tile& t, Block<C> left, const C* right, int64_t n, int64_t depth, C* scores) {
  tileProduct(t.keys, n, left.data, left.step, 1, right, n, scores, n, false, [&](int64_t j, int) {
    return Need{t.blind(j), 0, depth};
  });
}
// y (queries, width) += scores^T @ rows (keys, width)
template <class C>
void gatherKeys(const Tile& t, const C* scores, int64_t n, Block<C> rows, int64_t width, C* y, int64_t yRow, bool add) {
  tileProduct(t.queries, width, scores, 1, n, rows.data, rows.step, y, yRow, add, [&](int64_t i, int count) {
    return Need{0, 0, t.seen(i + count - 1)};
  });
}
// y (keys, width) += scores @ rows (queries, width)
template <class C>
void gatherQueries(const Tile& t, const C* scores, int64_t n, Block<C> rows, int64_t width, C* y, int64_t yRow) {
  tileProduct(t.keys, width, scores, n, 1, rows.data, rows.step, y, yRow, true, [&](int64_t j, int) {
    return Need{0, t.blind(j), t.queries};
  });
}

template <class C>
void forward(const Rows<C>& q, const Rows<C>& k, const Rows<C>& v, const Rows<C>& y, C* lse, int64_t begin, int64_t end,
             int64_t keys, int64_t offset, C scale, bool causal) {
  const int64_t depth = q.count, width = padded<C>(depth);
  Workspace<C> space(queryTile * (depth + width + keyTile + 4) + 2 * keyTile * width + 256);
  C* turned = space.take(depth * queryTile);
  C* scores = space.take(keyTile * queryTile);
  C* sum = space.take(queryTile * width);
  C* most = space.take(queryTile);    // the largest score of each query so far
  C* total = space.take(queryTile);   // the sum of its exponentials
  C* higher = space.take(queryTile);  // the largest score with this tile
  C* shrink = space.take(queryTile);  // what that makes of the earlier sums
  C* wideK = space.take(keyTile * width);
  C* wideV = space.take(keyTile * width);
  for (int64_t query = begin; query < end; query += queryTile) {
    Tile t{query, std::min(queryTile, end - query), 0, 0, offset, causal};
    const int64_t n = padded<C>(t.queries);
    turn(q, query, t.queries, n, scale, turned);
    for (int64_t i = 0; i < n; i++) most[i] = -INFINITY, total[i] = 0;
    const int64_t last = causal ? std::min(keys, query + t.queries + offset) : keys;
    if (last == 0) std::fill(sum, sum + t.queries * width, C(0));
    for (t.key = 0; t.key < last; t.key += keyTile) {
      t.keys = std::min(keyTile, last - t.key);
      against(t, block(k, t.key, t.keys, wideK), turned, n, depth, scores);
      for (int64_t i = 0; i < n; i++) higher[i] = most[i];
      for (int64_t j = 0; j < t.keys; j++) {
        C* row = scores + j * n;
        const int64_t blind = t.blind(j);
        for (int64_t i = 0; i < blind; i++) row[i] = -INFINITY;
#pragma omp simd
        for (int64_t i = blind / lanes<C> * lanes<C>; i < n; i++) higher[i] = row[i] > higher[i] ? row[i] : higher[i];
      }
      bool changed = false;
      for (int64_t i = 0; i < n; i++) {
        const C from = higher[i] > -INFINITY ? higher[i] : C(0);
        shrink[i] = math::exp(most[i] - from);
        changed |= most[i] != higher[i];
        most[i] = higher[i];
        higher[i] = from;
        total[i] *= shrink[i];
      }
      for (int64_t j = 0; j < t.keys; j++) {
        C* row = scores + j * n;
        const int64_t from = t.blind(j) / lanes<C> * lanes<C>;
        for (int64_t i = 0; i < from; i++) row[i] = 0;
#pragma omp simd
        for (int64_t i = from; i < n; i++) {
          row[i] = math::exp(row[i] - higher[i]);
          total[i] += row[i];
        }
      }
      if (changed && t.key)
        for (int64_t i = 0; i < t.queries; i++)
          for (int64_t d = 0; d < width; d++) sum[i * width + d] *= shrink[i];
      gatherKeys(t, scores, n, block(v, t.key, t.keys, wideV), width, sum, width, t.key > 0);
    }
    for (int64_t i = 0; i < t.queries; i++) {
      C* to = y.row(query + i);
      const C one = last ? C(1) / total[i] : C(0);
      for (int64_t d = 0; d < depth; d++) to[d] = sum[i * width + d] * one;
      lse[query + i] = most[i] + math::log(total[i]);
    }
  }
}

// One key/value head: all queries of all the heads that share it, in order.
template <class C>
void backward(const View& q, const View& k, const View& v, const View& y, const View& lse, const View& dy,
              const View& dq, const View& dk, const View& dv, int64_t batch, int64_t kvHead, C scale, bool causal) {
  const int64_t queries = q.shape[2], keys = k.shape[2], depth = q.shape[3], offset = keys - queries;
  const int64_t width = padded<C>(depth), group = q.shape[1] / k.shape[1];
  Workspace<C> space(2 * keys * width + queryTile * (2 * depth + 3 * width + 2 * keyTile + 2) + 2 * keyTile * width +
                     512);
  const Rows<C> kRows(k, batch, kvHead), vRows(v, batch, kvHead), dkRows(dk, batch, kvHead), dvRows(dv, batch, kvHead);
  const Sums<C> sumK(dkRows, space.take(keys * width), width), sumV(dvRows, space.take(keys * width), width);
  C* turnedQ = space.take(depth * queryTile);
  C* turnedD = space.take(depth * queryTile);
  C* p = space.take(keyTile * queryTile);
  C* ds = space.take(keyTile * queryTile);
  C* ownQ = space.take(queryTile * width);
  C* level = space.take(queryTile);  // logsumexp of each query
  C* mean = space.take(queryTile);   // dy . y of each query
  C* wideQ = space.take(queryTile * width);
  C* wideD = space.take(queryTile * width);
  C* wideK = space.take(keyTile * width);
  C* wideV = space.take(keyTile * width);
  for (int64_t i = 0; i < keys; i++)
    for (int64_t d = 0; d < width; d++) sumK.row(i)[d] = sumV.row(i)[d] = 0;
  for (int64_t head = kvHead * group; head < (kvHead + 1) * group; head++) {
    const Rows<C> qRows(q, batch, head), yRows(y, batch, head), dRows(dy, batch, head), dqRows(dq, batch, head);
    const C* levels = lse.as<C>() + (batch * q.shape[1] + head) * queries;
    for (int64_t query = 0; query < queries; query += queryTile) {
      Tile t{query, std::min(queryTile, queries - query), 0, 0, offset, causal};
      const int64_t n = padded<C>(t.queries);
      turn(qRows, query, t.queries, n, scale, turnedQ);
      turn(dRows, query, t.queries, n, C(1), turnedD);
      for (int64_t i = 0; i < n; i++) {
        level[i] = mean[i] = 0;
        if (i >= t.queries) continue;
        level[i] = levels[query + i];
        const C *a = yRows.row(query + i), *b = dRows.row(query + i);
        C s = 0;
#pragma omp simd reduction(+ : s)
        for (int64_t d = 0; d < depth; d++) s += a[d] * b[d];
        mean[i] = s;
      }
      const Rows<C> dqTile{dqRows.row(query), dqRows.step, depth};
      const Sums<C> sumQ(dqTile, ownQ, width);
      const Block<C> qBlock = block(qRows, query, t.queries, wideQ), dBlock = block(dRows, query, t.queries, wideD);
      const int64_t last = causal ? std::min(keys, query + t.queries + offset) : keys;
      if (last == 0)
        for (int64_t i = 0; i < t.queries; i++) std::fill(sumQ.row(i), sumQ.row(i) + width, C(0));
      for (t.key = 0; t.key < last; t.key += keyTile) {
        t.keys = std::min(keyTile, last - t.key);
        const Block<C> kBlock = block(kRows, t.key, t.keys, wideK), vBlock = block(vRows, t.key, t.keys, wideV);
        against(t, kBlock, turnedQ, n, depth, p);
        against(t, vBlock, turnedD, n, depth, ds);
        for (int64_t j = 0; j < t.keys; j++) {
          C *row = p + j * n, *d = ds + j * n;
          const int64_t blind = t.blind(j);
#pragma omp simd
          for (int64_t i = blind / lanes<C> * lanes<C>; i < n; i++) {
            row[i] = math::exp(row[i] - level[i]);
            d[i] = row[i] * (d[i] - mean[i]) * scale;
          }
          for (int64_t i = 0; i < blind; i++) row[i] = d[i] = 0;
        }
        gatherQueries(t, p, n, dBlock, width, sumV.row(t.key), sumV.step);
        gatherQueries(t, ds, n, qBlock, width, sumK.row(t.key), sumK.step);
        gatherKeys(t, ds, n, kBlock, width, sumQ.data, sumQ.step, t.key > 0);
      }
      sumQ.finish(dqTile, t.queries);
    }
  }
  sumK.finish(dkRows, keys);
  sumV.finish(dvRows, keys);
}

template <class C>
void forwardAll(View q, View k, View v, C scale, bool causal, View y, View lse) {
  const int64_t heads = q.shape[1], queries = q.shape[2], keys = k.shape[2], group = heads / k.shape[1];
  constexpr int64_t part = 256;  // queries a chunk
  const int64_t parts = (queries + part - 1) / part;
  parallelChunks(q.shape[0] * heads * parts, [&](int64_t chunk) {
    const int64_t batch = chunk / parts / heads, head = chunk / parts % heads;
    const int64_t begin = (parts - 1 - chunk % parts) * part;  // the longest first, so that short ones end the work
    forward<C>({q, batch, head}, {k, batch, head / group}, {v, batch, head / group}, {y, batch, head},
               lse.as<C>() + (batch * heads + head) * queries, begin, std::min(queries, begin + part), keys,
               keys - queries, scale, causal);
  });
}

}  // namespace

void attention(View q, View k, View v, double scale, bool causal, View y, View lse) {
  if (q.dtype == Dtype::float64)
    forwardAll<double>(q, k, v, scale, causal, y, lse);
  else
    forwardAll<float>(q, k, v, (float)scale, causal, y, lse);
}

// A chunk owns a key/value head: the queries of all heads that share it are summed there, in order.
void attentionGrad(View q, View k, View v, View y, View lse, View dy, double scale, bool causal, View dq, View dk,
                   View dv) {
  parallelChunks(k.shape[0] * k.shape[1], [&](int64_t chunk) {
    const int64_t batch = chunk / k.shape[1], head = chunk % k.shape[1];
    if (q.dtype == Dtype::float64)
      backward<double>(q, k, v, y, lse, dy, dq, dk, dv, batch, head, scale, causal);
    else
      backward<float>(q, k, v, y, lse, dy, dq, dk, dv, batch, head, (float)scale, causal);
  });
}

}  // namespace cpu::ISA
