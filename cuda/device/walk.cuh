#pragma once
// Walks several views of one shape together. The host merges adjacent axes; the device turns the number of an item, a
// pack of neighbours along the last axis, into the places of its elements.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>

#include "core/view.h"
#include "device/pack.cuh"

namespace cuda {

// Division by what only the host knows, with a multiplication (Granlund and Montgomery 1994); n below 2^31.
struct Divisor {
  uint32_t by, multiplier, shift;

  Divisor() = default;
  explicit Divisor(uint32_t d) : by(d), shift(0) {
    while (shift < 31 && (1u << shift) < d) shift++;
    multiplier = (uint32_t)(((((uint64_t)1 << shift) - d) << 32) / d + 1);
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

// The axes of some views, without those of length 1, the longest strides of the first view first, merged where they
// can be.
template <int N>
struct Axes {
  int rank = 0;
  int64_t count = 1;
  int64_t shape[maxRank];
  int64_t stride[N][maxRank];
  char* data[N];
  int size[N];  // bytes of an element

  explicit Axes(const View* const (&views)[N]) {
    const View& first = *views[0];
    auto distance = [&](int axis) { return std::abs(first.stride[axis]); };
    int order[maxRank], n = 0;
    for (int axis = 0; axis < first.rank; axis++) {
      count *= first.shape[axis];
      if (first.shape[axis] == 1) continue;
      int at = n++;
      for (; at > 0 && distance(order[at - 1]) < distance(axis); at--) order[at] = order[at - 1];
      order[at] = axis;
    }
    for (int v = 0; v < N; v++) data[v] = (char*)views[v]->data, size[v] = dtypeSize(views[v]->dtype);
    for (int i = 0; i < n; i++) {
      const int axis = order[i];
      const int64_t length = first.shape[axis];
      bool merge = rank > 0;
      for (int v = 0; v < N && merge; v++) merge = stride[v][rank - 1] == views[v]->stride[axis] * length;
      if (!merge) shape[rank++] = 1;
      shape[rank - 1] *= length;
      for (int v = 0; v < N; v++) stride[v][rank - 1] = views[v]->stride[axis];
    }
    if (!rank) {
      shape[rank++] = 1;
      for (int v = 0; v < N; v++) stride[v][0] = 1;
    }
  }

  int64_t step(int v) const { return stride[v][rank - 1]; }

  // fn(part), for parts whose elements 31 bits can number.
  template <class Fn>
  void split(Fn&& fn) const {
    constexpr int64_t most = (int64_t)1 << 30;
    if (count <= most) return fn(*this);
    Axes first = *this, second = *this;
    first.shape[0] = rank > 1 ? shape[0] / 2 : shape[0] / 32 * 16;  // packs stay whole
    second.shape[0] = shape[0] - first.shape[0];
    first.count = count / shape[0] * first.shape[0];
    second.count = count - first.count;
    for (int v = 0; v < N; v++) second.data[v] += first.shape[0] * stride[v][0] * size[v];
    first.split(fn);
    second.split(fn);
  }
};

template <int N>
struct Walk {
  uint32_t items;  // what threads number
  uint32_t count;  // elements
  int32_t rank;
  int32_t pack;     // elements of an item
  bool packed;      // else the elements of an item are `items` apart in the order of the walk
  bool vectors[N];  // this view's packs can be loaded whole
  uint32_t length;  // of the last axis
  Divisor last;     // items along the last axis
  Divisor shape[maxRank];
  int64_t stride[N][maxRank];
  void* data[N];

  Walk(const Axes<N>& axes, int pack) : count((uint32_t)axes.count), rank(axes.rank), pack(pack) {
    length = (uint32_t)axes.shape[rank - 1];
    packed = rank == 1 || length % pack == 0 || length >= 8u * pack;
    last = Divisor(packed ? (length + pack - 1) / pack : length);
    items = packed ? count / length * last.by : (count + pack - 1) / pack;
    for (int axis = 0; axis < rank; axis++) shape[axis] = Divisor((uint32_t)axes.shape[axis]);
    for (int v = 0; v < N; v++) {
      data[v] = axes.data[v];
      vectors[v] = axes.step(v) == 1 && (uintptr_t)axes.data[v] % (axes.size[v] * pack) == 0;
      for (int axis = 0; axis < rank; axis++) {
        stride[v][axis] = axes.stride[v][axis];
        if (axis + 1 < rank && stride[v][axis] % pack) vectors[v] = false;
      }
    }
  }

  // Where item i of a packed walk, or element i of another, lies in view v; n: elements that the item has.
  __device__ __forceinline__ int64_t locate(int v, uint32_t i, int& n) const {
    uint32_t row = rank > 1 ? last.quotient(i) : 0, column = i - row * last.by;
    if (packed) {
      column *= pack;
      n = (int)min((uint32_t)pack, length - column);
    }
    int64_t at = column * stride[v][rank - 1];
    for (int axis = rank - 2; axis > 0; axis--) {
      uint32_t next = shape[axis].quotient(row);
      at += (row - next * shape[axis].by) * stride[v][axis];
      row = next;
    }
    return rank > 1 ? at + row * stride[v][0] : at;
  }

  template <class T, int V>
  __device__ __forceinline__ Pack<T, V> load(int v, uint32_t item) const {
    const T* from = (const T*)data[v];
    Pack<T, V> out;
    int n = 1;
    if (packed) {
      const int64_t at = locate(v, item, n), step = stride[v][rank - 1];
      if (vectors[v] && n == V) return loadPack<V>(from + at);
      if (step == 0) {
        const T same = from[at];
#pragma unroll
        for (int k = 0; k < V; k++) out.at[k] = same;
        return out;
      }
#pragma unroll
      for (int k = 0; k < V; k++) out.at[k] = from[at + (k < n ? k * step : 0)];
      return out;
    }
#pragma unroll
    for (int k = 0; k < V; k++) out.at[k] = from[item + k * items < count ? locate(v, item + k * items, n) : 0];
    return out;
  }

  template <class T, int V>
  __device__ __forceinline__ void store(int v, uint32_t item, const Pack<T, V>& values) const {
    T* to = (T*)data[v];
    int n = 1;
    if (packed) {
      const int64_t at = locate(v, item, n), step = stride[v][rank - 1];
      if (vectors[v] && n == V) return storePack<V>(to + at, values);
#pragma unroll
      for (int k = 0; k < V; k++)
        if (k < n) to[at + k * step] = values.at[k];
      return;
    }
#pragma unroll
    for (int k = 0; k < V; k++)
      if (item + k * items < count) to[locate(v, item + k * items, n)] = values.at[k];
  }
};

}  // namespace cuda
