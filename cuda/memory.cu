// The device: which one, its streams and memory, and what crosses between it and the host.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "device/failure.cuh"
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

namespace {

using Said = std::pair<const char*, const char*>;  // sentence and op
std::mutex saidMutex;
std::vector<Said>& said() {
  static auto& all = *new std::vector<Said>;
  return all;
}

FailureRecord* failureRecord() {
  thread_local FailureRecord* mine = nullptr;
  if (!mine) {
    checkCuda(cudaMalloc((void**)&mine, sizeof(FailureRecord)), "cudaMalloc");
    checkCuda(cudaMemsetAsync(mine, 0, sizeof(FailureRecord), stream()), "cudaMemset");
  }
  return mine;
}

std::string sentenceOf(const FailureRecord& record) {
  if (!record.sentence) return "";
  std::lock_guard lock(saidMutex);
  auto [sentence, op] = said().at(record.sentence - 1);
  return filled(sentence, op, record.at, record.value, record.limit);
}

}  // namespace

Failure failure(const char* sentence, const char* op) {
  thread_local unsigned launch = 0;
  std::lock_guard lock(saidMutex);
  auto& all = said();
  size_t i = std::find(all.begin(), all.end(), Said(sentence, op)) - all.begin();
  if (i == all.size()) all.emplace_back(sentence, op);
  return {failureRecord(), ++launch, (unsigned)i + 1};
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
  FailureRecord record{};
  checkCuda(cudaMemcpyAsync(&record, failureRecord(), sizeof record, cudaMemcpyDeviceToHost, stream()), "download");
  checkCuda(cudaMemsetAsync(failureRecord(), 0, sizeof record, stream()), "download");
  cudaError_t status = cudaStreamSynchronize(stream());
  done.call(done.context, status == cudaSuccess ? sentenceOf(record).c_str() : cudaGetErrorString(status));
}

}  // namespace cuda
