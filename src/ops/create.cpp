// New tensors, and casts and copies of old ones.
#include <memory>

#include "ops/op.h"

OP(Tensor, empty, (const Shape& shape, Dtype dtype, Device device)) { return ::empty(shape, dtype, device); }

OP(Tensor, full, (const Shape& shape, double value, Dtype dtype, Device device)) {
  Tensor y = ::empty(shape, dtype, device);
  kernels(device).fill(y, value);
  return y;
}

OP(Tensor, arange, (double start, double step, int64_t count, Dtype dtype, Device device)) {
  Tensor y = ::empty(Shape{count}, dtype, device);
  kernels(device).arange(y, start, step);
  return y;
}

OP(Tensor, cast, (const Tensor& x, Dtype dtype)) {
  if (x.dtype != dtype) return ::cast(x, dtype);
  Tensor y = emptyLike(x);
  kernels(x.device()).copy(x, y);
  return y;
}

OP(Tensor, contiguous, (const Tensor& x)) { return ::contiguous(x); }

// to <- from, in place, with a cast and a broadcast where needed.
OP(void, assign, (const Tensor& from, const Tensor& to)) {
  kernels(to.device()).copy(broadcastTo(from, to.shape, "assign"), to);
}
OP(void, assignValue, (double value, const Tensor& to)) {
  check(to.contiguous(), "assignValue: the tensor should be contiguous");
  kernels(to.device()).fill(to, value);
}

OP(Shape, shapeOf, (const Tensor& x)) { return x.shape; }
OP(Shape, stridesOf, (const Tensor& x)) { return x.stride; }
OP(int64_t, dtypeOf, (const Tensor& x)) { return (int64_t)x.dtype; }
OP(int64_t, deviceOf, (const Tensor& x)) { return (int64_t)x.device(); }

// Another handle to the same memory.
OP(Tensor, alias, (const Tensor& x)) { return x; }

// Waits for what x is computed from: the queues of two devices know nothing of each other.
OP(Tensor, toDevice, (const Tensor& x, Device device)) {
  if (device == x.device()) return x;
  const Tensor from = ::contiguous(x);
  Tensor y = ::empty(x.shape, x.dtype, device);
  std::unique_ptr<char[]> host(new char[x.size() * dtypeSize(x.dtype) + 1]);
  readNow(from, host.get());
  backend(device).upload(host.get(), y);
  return y;
}

// Whether no other handle sees this memory, and x is (nearly) all of it, in order.
OP(bool, ownsMemory, (const Tensor& x)) {
  return x.buffer.use_count() == 1 && x.contiguous() && (size_t)(x.size() * dtypeSize(x.dtype)) * 2 >= x.buffer->bytes;
}
