#pragma once
// A View is what a kernel receives: a pointer, a type, and a strided shape; the memory is owned by somebody above.
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include "core/dtype.h"

// 0 is the CPU; 1 + i is CUDA device i. The numbering that lib/tensor.ts uses.
enum class Device : int32_t { cpu = 0, cuda = 1 };

constexpr int maxRank = 8;

struct View {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int32_t rank = 0;
  int64_t shape[maxRank] = {};
  int64_t stride[maxRank] = {};  // in elements; 0 where broadcast

  template <class T>
  HD T* as() const {
    return (T*)data;
  }
  HD int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  HD int64_t cols() const { return rank ? shape[rank - 1] : 1; }  // the last axis
  HD int64_t rows() const {                                       // all other axes
    int64_t n = 1;
    for (int i = 0; i + 1 < rank; i++) n *= shape[i];
    return n;
  }
  HD bool contiguous() const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; i--) {
      if (shape[i] != 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
  HD bool given() const { return data != nullptr || rank != 0; }  // false: an optional argument that was left out
};

// Of a view of two axes: `count` of its rows from `begin` on; its axes the other way round.
HD View rowsFrom(View v, int64_t begin, int64_t count) {
  v.data = v.as<char>() + begin * v.stride[0] * dtypeSize(v.dtype);
  v.shape[0] = count;
  return v;
}
HD View transposed(View v) {
  const int64_t shape = v.shape[0], stride = v.stride[0];
  v.shape[0] = v.shape[1], v.shape[1] = shape;
  v.stride[0] = v.stride[1], v.stride[1] = stride;
  return v;
}
