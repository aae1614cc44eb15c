// The device: which one, its streams and memory, and what crosses between it and the host.
#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "core/memory.h"
#include "kernels.h"
#include "stream.h"

namespace cuda {

void checkCuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(text("cuda: ", what, ": ", cudaGetErrorString(status)), "ERR_CUDA");
}

const DeviceInfo& device() {
  static const DeviceInfo info = [] {
    auto ask = [](cudaDeviceAttr attribute) {
      int value = 0;
      checkCuda(cudaDeviceGetAttribute(&value, attribute, 0), "cudaDeviceGetAttribute");
      return value;
    };
    return DeviceInfo{ask(cudaDevAttrMultiProcessorCount),
                      ask(cudaDevAttrComputeCapabilityMajor) * 10 + ask(cudaDevAttrComputeCapabilityMinor),
                      (size_t)ask(cudaDevAttrMaxSharedMemoryPerBlockOptin), (size_t)ask(cudaDevAttrL2CacheSize)};
  }();
  return info;
}

cudaStream_t stream() {
  thread_local cudaStream_t mine = nullptr;
  if (!mine) checkCuda(cudaStreamCreateWithFlags(&mine, cudaStreamNonBlocking), "cudaStreamCreate");
  return mine;
}

void launched(const char* name) {
  static const bool wait = [] {
    const char* asked = std::getenv("POLYGRAD_SYNC");
    return asked && !std::strcmp(asked, "1");
  }();
  if (wait) checkCuda(cudaStreamSynchronize(stream()), name);
}

Scratch::Scratch(size_t bytes) : data(allocate(bytes ? bytes : 1)), bytes(bytes ? bytes : 1) {}
Scratch::~Scratch() { release(data, bytes); }

void* allocate(size_t bytes) {
  void* p = nullptr;
  checkCuda(cudaMalloc(&p, bytes), "cudaMalloc");
  memoryStatistics().use(bytes);
  return p;
}
void release(void* data, size_t bytes) {
  cudaStreamSynchronize(stream());
  cudaFree(data);
  memoryStatistics().inUse -= bytes;
}
void trim() {}
void upload(const void* host, View to) {
  checkCuda(cudaMemcpyAsync(to.data, host, to.size() * dtypeSize(to.dtype), cudaMemcpyHostToDevice, stream()),
            "upload");
  checkCuda(cudaStreamSynchronize(stream()), "upload");
}
void download(View from, void* host, Done done) {
  size_t bytes = from.size() * dtypeSize(from.dtype);
  if (bytes) checkCuda(cudaMemcpyAsync(host, from.data, bytes, cudaMemcpyDeviceToHost, stream()), "download");
  cudaError_t status = cudaStreamSynchronize(stream());
  done.call(done.context, status == cudaSuccess ? "" : cudaGetErrorString(status));
}

}  // namespace cuda
