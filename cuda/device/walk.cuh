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
    const int axis = (int)(std::max_element(shape, shape + rank) - shape);
    const int64_t length = shape[axis], half = length >= 32 ? length / 32 * 16 : length / 2;  // packs stay whole
    first.shape[axis] = half;
    second.shape[axis] = length - half;
    first.count = count / length * half;
    second.count = count - first.count;
    for (int v = 0; v < N; v++) second.data[v] += half * stride[v][axis] * size[v];
    first.split(fn);
    second.split(fn);
  }
};

template <int N>
struct Walk {
  uint32_t count;  // elements
  uint32_t packs;  // whole packs at the start, each of which lies in order in every view, or is one element repeated
  uint32_t items;  // the packs, then as many elements an item, `items - packs` apart
  int32_t rank;
  bool repeats[N];  // the last axis of this view has stride 0
  Divisor last;     // packs, or else elements, along the last axis
  Divisor shape[maxRank];
  int64_t stride[N][maxRank];
  int64_t step[N];  // along the last axis
  void* data[N];

  Walk(const Axes<N>& axes, int pack) : count((uint32_t)axes.count), rank(axes.rank) {
    const int64_t length = axes.shape[rank - 1];
    bool packed = rank == 1 || length % pack == 0;
    for (int axis = 0; axis < rank; axis++) shape[axis] = Divisor((uint32_t)axes.shape[axis]);
    for (int v = 0; v < N; v++) {
      data[v] = axes.data[v];
      step[v] = axes.step(v);
      repeats[v] = step[v] == 0;
      packed = packed && (repeats[v] || (step[v] == 1 && (uintptr_t)data[v] % (axes.size[v] * pack) == 0));
      for (int axis = 0; axis < rank; axis++) {
        stride[v][axis] = axes.stride[v][axis];
        if (axis + 1 < rank && !repeats[v] && stride[v][axis] % pack) packed = false;
      }
    }
    packs = packed ? count / pack : 0;
    items = packs + (count - packs * pack + pack - 1) / pack;
    last = Divisor((uint32_t)(packed && length >= pack ? length / pack : length));
  }

  template <class T>
  __device__ __forceinline__ T* as(int v) const {
    return (T*)data[v];
  }

  // The number of element k of an item behind the packs; not below `count` where the item has fewer.
  template <int pack>
  __device__ __forceinline__ uint32_t elementOf(uint32_t item, int k) const {
    return packs * pack + (item - packs) + k * (items - packs);
  }

  // Where a pack, or where an element lies in each view.
  template <int pack>
  __device__ __forceinline__ void locatePack(uint32_t i, int64_t (&at)[N]) const {
    locate(i, last, pack, at);
  }
  __device__ __forceinline__ void locateElement(uint32_t i, int64_t (&at)[N]) const {
    locate(i, shape[rank - 1], 1, at);
  }

 private:
  __device__ __forceinline__ void locate(uint32_t i, const Divisor& columns, uint32_t unit, int64_t (&at)[N]) const {
    uint32_t row = rank > 1 ? columns.quotient(i) : 0;
    const uint32_t column = (i - row * columns.by) * unit;
#pragma unroll
    for (int v = 0; v < N; v++) at[v] = column * step[v];
    for (int axis = rank - 2; axis >= 0; axis--) {
      const uint32_t next = axis ? shape[axis].quotient(row) : 0, place = row - next * shape[axis].by;
#pragma unroll
      for (int v = 0; v < N; v++) at[v] += place * stride[v][axis];
      row = next;
    }
  }
};

// A pack of view v, of which `at` is the first element.
template <class T, int V, int N>
__device__ __forceinline__ Pack<T, V> loadPackOf(const Walk<N>& walk, int v, int64_t at) {
  const T* from = walk.template as<T>(v) + at;
  if (!walk.repeats[v]) return loadPack<V>(from);
  Pack<T, V> out;
  const T same = *from;
#pragma unroll
  for (int k = 0; k < V; k++) out.at[k] = same;
  return out;
}

// Some of the axes of two views, merged where they can be; their places are numbered by any number of bits.
struct Loop {
  int32_t rank = 0;
  bool wide = false;  // 31 bits do not number the places
  Divisor by[maxRank];
  int64_t shape[maxRank], x[maxRank], y[maxRank];

  void push(int64_t length, int64_t strideX, int64_t strideY) {
    if (!rank || x[rank - 1] != strideX * length || y[rank - 1] != strideY * length) shape[rank++] = 1;
    shape[rank - 1] *= length;
    x[rank - 1] = strideX;
    y[rank - 1] = strideY;
  }
  void finish() {  // after the last push
    wide = count() > INT32_MAX;
    for (int i = 0; i < rank; i++) by[i] = Divisor((uint32_t)std::clamp<int64_t>(shape[i], 1, INT32_MAX));
  }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  __device__ __forceinline__ void locate(int64_t index, int64_t& atX, int64_t& atY) const {
    for (int i = rank - 1; i > 0; i--) {
      const int64_t next = wide ? index / shape[i] : by[i].quotient((uint32_t)index), place = index - next * shape[i];
      atX += place * x[i];
      atY += place * y[i];
      index = next;
    }
    if (rank) atX += index * x[0], atY += index * y[0];
  }
  __device__ __forceinline__ int64_t locate(int64_t index) const {
    int64_t atX = 0, atY = 0;
    locate(index, atX, atY);
    return atX;
  }
};

}  // namespace cuda
