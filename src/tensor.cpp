#include "tensor.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>

#include "kernels.h"

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  out << '[';
  for (int i = 0; i < s.rank; i++) out << (i ? ", " : "") << s[i];
  return out << ']';
}
std::ostream& operator<<(std::ostream& out, Dtype t) { return out << dtypeName(t); }

static std::atomic<uint64_t> buffers{0};
uint64_t nextSerial() { return buffers; }
Buffer::Buffer(Device device, size_t bytes)
    : device(device), data(backend(device).allocate(bytes ? bytes : 1)), bytes(bytes ? bytes : 1), serial(buffers++) {}
Buffer::~Buffer() { backend(device).release(data, bytes); }

Tensor empty(const Shape& shape, Dtype dtype, Device device) {
  for (int64_t d : shape) check(d >= 0, "a tensor cannot have the shape ", shape);
  double count = 1;
  for (int64_t d : shape) count *= (double)d;
  check(count < 9e15, "a tensor of shape ", shape, " has too many elements");
  Tensor t;
  t.buffer = std::make_shared<Buffer>(device, (size_t)shape.count() * dtypeSize(dtype));
  t.dtype = dtype;
  t.shape = shape;
  t.stride = shape.strides();
  return t;
}

Tensor window(const Tensor& x, const Shape& shape, const Shape& stride, int64_t offset) {
  Tensor t = x;
  t.shape = shape;
  t.stride = stride;
  t.offset = offset;
  return t;
}

Tensor contiguous(const Tensor& x) {
  if (x.contiguous()) return x;
  Tensor y = emptyLike(x);
  kernels(x.device()).copy(x, y);
  return y;
}

Tensor rowsOf(const Tensor& x) {
  int64_t cols = x.shape.last();
  if (x.shape.rank == 2) return x;
  Tensor t = contiguous(x);
  return window(t, Shape{x.rows(), cols}, Shape{cols, 1}, t.offset);
}

Tensor cast(const Tensor& x, Dtype dtype) {
  if (x.dtype == dtype) return contiguous(x);
  Tensor y = empty(x.shape, dtype, x.device());
  kernels(x.device()).copy(x, y);
  return y;
}

Tensor broadcastTo(const Tensor& x, const Shape& shape, const char* op) {
  if (x.shape == shape) return x;
  Shape stride = shape;
  int lead = shape.rank - x.shape.rank;
  bool fits = lead >= 0;
  for (int i = 0; fits && i < shape.rank; i++) {
    int from = i - lead;
    fits = from < 0 || x.shape[from] == shape[i] || x.shape[from] == 1;
    stride[i] = from < 0 || x.shape[from] == 1 ? 0 : x.stride[from];
  }
  check(fits, op, ": ", x.shape, " cannot be broadcast to ", shape);
  return window(x, shape, stride, x.offset);
}

Shape broadcastShapes(const Shape& a, const Shape& b, const char* op) {
  Shape out = a.rank >= b.rank ? a : b;
  for (int i = 1; i <= out.rank; i++) {
    int64_t da = i <= a.rank ? a[a.rank - i] : 1, db = i <= b.rank ? b[b.rank - i] : 1;
    check(da == db || da == 1 || db == 1, op, ": shapes ", a, " and ", b, " cannot be broadcast together");
    out[out.rank - i] = da == 1 ? db : da;
  }
  return out;
}

int axisOf(int64_t axis, int rank, const char* op) {
  check(axis >= -rank && axis < rank, op, ": axis ", axis, " is out of range for a tensor of ", rank, " axes");
  return (int)(axis < 0 ? axis + rank : axis);
}

void readNow(const Tensor& from, void* to) {
  struct Wait {
    std::mutex mutex;
    std::condition_variable ready;
    bool done = false;
    std::string failure, code;
  } wait;
  auto done = [](void* context, const char* failure, const char* code) {
    auto& w = *(Wait*)context;
    std::lock_guard lock(w.mutex);
    w.failure = failure;
    w.code = code;
    w.done = true;
    w.ready.notify_one();
  };
  backend(from.device()).download(from, to, {done, &wait});
  std::unique_lock lock(wait.mutex);
  wait.ready.wait(lock, [&] { return wait.done; });
  if (wait.failure.empty()) return;
  throw Error(wait.failure, wait.code == deviceDataCode ? deviceDataCode : "ERR_CUDA");
}

void sameDevice(const Tensor& a, const Tensor& b, const char* op) {
  check(a.device() == b.device(), op, ": one tensor is on ", a.device() == Device::cpu ? "cpu" : "cuda",
        ", the other on ", b.device() == Device::cpu ? "cpu" : "cuda");
}
