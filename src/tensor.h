#pragma once
// A Tensor is a strided window on a shared buffer. It sits above the kernel contract because a backend allocates it.
#include <array>
#include <memory>
#include <ostream>

#include "core/check.h"
#include "core/view.h"

struct Shape {
  int rank = 0;
  std::array<int64_t, maxRank> dims{};

  Shape() = default;
  Shape(std::initializer_list<int64_t> list) {
    for (int64_t d : list) push(d);
  }
  void push(int64_t d) {
    check(rank < maxRank, "a tensor has at most ", maxRank, " axes");
    dims[rank++] = d;
  }
  int64_t& operator[](int i) { return dims[i]; }
  int64_t operator[](int i) const { return dims[i]; }
  const int64_t* begin() const { return dims.data(); }
  const int64_t* end() const { return dims.data() + rank; }
  bool operator==(const Shape& o) const {
    if (rank != o.rank) return false;
    for (int i = 0; i < rank; i++)
      if (dims[i] != o.dims[i]) return false;
    return true;
  }
  int64_t count() const {
    int64_t n = 1;
    for (int64_t d : *this) n *= d;
    return n;
  }
  int64_t last() const { return rank ? dims[rank - 1] : 1; }
  Shape without(int axis) const {
    Shape s;
    for (int i = 0; i < rank; i++)
      if (i != axis) s.push(dims[i]);
    return s;
  }
  Shape strides() const {  // of a contiguous tensor of this shape
    Shape s = *this;
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; i--) {
      s[i] = step;
      step *= dims[i];
    }
    return s;
  }
};
std::ostream& operator<<(std::ostream& out, const Shape& s);
std::ostream& operator<<(std::ostream& out, Dtype t);

struct Buffer {
  Device device;
  void* data;
  size_t bytes;
  const uint64_t serial;  // counts up with every buffer of the process
  Buffer(Device device, size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
};

uint64_t nextSerial();  // that the next buffer will get

struct Tensor {
  std::shared_ptr<Buffer> buffer;
  Dtype dtype = Dtype::float32;
  Shape shape, stride;  // in elements
  int64_t offset = 0;   // in elements

  Device device() const { return buffer->device; }
  int64_t size() const { return shape.count(); }
  int64_t cols() const { return shape.last(); }
  int64_t rows() const { return cols() ? size() / cols() : shape.without(shape.rank - 1).count(); }
  bool contiguous() const { return View(*this).contiguous(); }
  operator View() const {
    View v;
    v.data = (char*)buffer->data + offset * dtypeSize(dtype);
    v.dtype = dtype;
    v.rank = shape.rank;
    for (int i = 0; i < shape.rank; i++) v.shape[i] = shape[i], v.stride[i] = stride[i];
    return v;
  }
};

Tensor empty(const Shape& shape, Dtype dtype, Device device);
inline Tensor emptyLike(const Tensor& x) { return empty(x.shape, x.dtype, x.device()); }

// The same buffer seen through another shape and strides.
Tensor window(const Tensor& x, const Shape& shape, const Shape& stride, int64_t offset);

// x itself if its elements lie in order, else a copy.
Tensor contiguous(const Tensor& x);
// x (..., d) as rows (n, d); without a copy if it lies in order, or has two axes.
Tensor rowsOf(const Tensor& x);
// x itself if it has the dtype, else a copy. Contiguous.
Tensor cast(const Tensor& x, Dtype dtype);
// x with stride 0 along the axes it is repeated on. `op` names the caller in the error.
Tensor broadcastTo(const Tensor& x, const Shape& shape, const char* op);
Shape broadcastShapes(const Shape& a, const Shape& b, const char* op);

// The type that arithmetic on t is done in: what statistics and small parameters are kept in.
inline Dtype computeDtype(Dtype t) { return t == Dtype::float64 ? Dtype::float64 : Dtype::float32; }

// Which axis an index means; negative ones count from the end. `op` names the caller in the error.
int axisOf(int64_t axis, int rank, const char* op);
// Copies a contiguous tensor to the host; waits on the calling thread. Throws the failure of an earlier kernel.
void readNow(const Tensor& from, void* to);

// Throws unless both are on one device.
void sameDevice(const Tensor& a, const Tensor& b, const char* op);
