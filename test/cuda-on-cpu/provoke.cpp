// Ops of the test build alone: they make go wrong what no other op lets go wrong.
#include <atomic>
#include <mutex>

#include "cuda_runtime.h"
#include "device/failure.cuh"
#include "launch.cuh"
#include "ops/op.h"

namespace {

// Every thread reports its number, the last ones first, and half of them something else of a later position.
__global__ void reportKernel(int n, cuda::Failure failure) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n || i < 3) return;
  if (i % 2) cuda::report(failure, 1000 + i, 1, 1);
  cuda::report(failure, i, 100 * i, n);
}
__global__ void breachKernel() {
  if (threadIdx.x == 0) __syncthreads();
}

}  // namespace

OP(void, provoke, (const std::string& what, const Tensor& x)) {
  View v = x;
  char* end = v.as<char>() + x.buffer->bytes;
  if (what == "behind") {
    cuda::launch(
        "provoke", +[](char* at) { *at = 0; }, {dim3(1), 1}, end);
  } else if (what == "before") {
    cuda::launch(
        "provoke", +[](char* at) { *at = 0; }, {dim3(1), 1}, v.as<char>() - 2);
  } else if (what == "report") {
    cuda::launch("provoke", reportKernel, {dim3(4), 64}, 200, cuda::failure(sentence::vocabulary, "provoke"));
  } else if (what == "report later") {
    cuda::launch("provoke", reportKernel, {dim3(4), 64}, 10, cuda::failure(sentence::expert, "later"));
  } else {
    check(what == "breach", "provoke: cannot provoke ", what);
    cuda::launch("breachKernel", breachKernel, {dim3(1), 32});
  }
}

// A tensor goes from one environment to another, which nothing else can do: `hand` in the one, `receive` in the other.
static std::mutex lockOfHanded;
static auto& handed = *new Tensor;

OP(void, hand, (const Tensor& x)) {
  std::lock_guard lock(lockOfHanded);
  handed = x;
}
OP(Tensor, receive, ()) {
  std::lock_guard lock(lockOfHanded);
  check(handed.buffer != nullptr, "receive: nothing was handed over");
  return std::exchange(handed, Tensor());
}

// What this environment queues from now on waits until `proceed` was called, by anyone.
static std::atomic<bool> held;

OP(void, hold, ()) {
  held = true;
  cuda::checkCuda(cudaLaunchHostFunc(
                      cuda::stream(), [](void*) { held.wait(true); }, nullptr),
                  "hold");
}
OP(void, proceed, ()) {
  held = false;
  held.notify_all();
}
