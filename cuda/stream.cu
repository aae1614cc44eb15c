// The device: whether there is one that can be used, and what each thread has of it.
#include "stream.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>

#include "architectures.h"
#include "core/check.h"
#include "environment.h"
#include "guard.h"
#include "kernels.h"
#include "launch.cuh"

namespace cuda {

bool asked(const char* variable) {
  const char* text = std::getenv(variable);
  return text && !std::strcmp(text, "1");
}

void checkCuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(text("cuda: ", what, ": ", cudaGetErrorString(status)), "ERR_CUDA");
}

namespace {

constexpr int oldestDriver = 13000;  // that runs what CUDA 13 compiles: 580
constexpr int oldestCapability = 80;

int attribute(cudaDeviceAttr which, int gpu) {
  int value = 0;
  checkCuda(cudaDeviceGetAttribute(&value, which, gpu), "cudaDeviceGetAttribute");
  return value;
}
int capabilityOf(int gpu) {
  return attribute(cudaDevAttrComputeCapabilityMajor, gpu) * 10 + attribute(cudaDevAttrComputeCapabilityMinor, gpu);
}
CudaReport look() {
  CudaReport found;
  cudaDriverGetVersion(&found.driver);
  cudaGetLastError();
  if (!found.driver) {
    found.reason = "no NVIDIA driver is loaded on this machine";
    return found;
  }
  if (found.driver < oldestDriver) {
    found.reason =
        text("the NVIDIA driver is too old: it knows CUDA ", text(found.driver / 1000, ".", found.driver % 1000 / 10),
             ", but 13.0 is needed, which is driver 580 or newer");
    return found;
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (status != cudaSuccess || !count) {
    found.reason =
        text("there is an NVIDIA driver but no GPU that it offers",
             status == cudaSuccess || status == cudaErrorNoDevice ? std::string(" (is CUDA_VISIBLE_DEVICES empty?)")
                                                                  : text(": ", cudaGetErrorString(status)));
    return found;
  }
  for (int i = 0; i < count; i++) {
    cudaDeviceProp properties;
    checkCuda(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    found.gpus.push_back({properties.name, properties.totalGlobalMem, capabilityOf(i)});
  }
  const auto& [name, memory, capability] = found.gpus[0];
  const std::string which = text(name, " has compute capability ", capability / 10, ".", capability % 10);
  if (capability < oldestCapability)
    found.reason = "the GPU is too old: " + which + ", but 8.0 (Ampere) or newer is needed";
  else if (!imageFor(CUDA_BUILT_FOR, capability).architecture)
    found.reason = "this build has no kernels for the GPU: " + which + ", but it was built for " +
                   listed(CUDA_BUILT_FOR) + "; ./setup.sh --cuda on this machine builds for its GPU";
  return found;
}

thread_local Environment* mine = nullptr;  // a pointer: destructors of thread_locals would run at process exit

using Said = std::pair<const char*, const char*>;  // sentence and op
std::mutex& lockOfSentences() {
  static auto& one = *new std::mutex;
  return one;
}
std::vector<Said>& sentences() {
  static auto& all = *new std::vector<Said>;
  return all;
}

}  // namespace

CudaReport report() {
  static const CudaReport& found = *new CudaReport(look());
  return found;
}

Environment* environmentIfThere() { return mine; }

Environment& environment() {
  if (mine) return *mine;
  const CudaReport found = report();
  if (!found.reason.empty()) throw Error("there is no CUDA device: " + found.reason, "ERR_DEVICE");
  auto made = std::make_unique<Environment>();
  checkCuda(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  checkCuda(cudaMalloc((void**)&made->failures, sizeof(FailureRecord)), "cudaMalloc");
  checkCuda(cudaMemsetAsync(made->failures, 0, sizeof(FailureRecord), made->stream), "cudaMemset");
  made->pool = newPool(made->stream);
  made->transfers = std::make_unique<Transfers>(made->stream, made->failures);
  return *(mine = made.release());
}

cudaStream_t stream() { return mine ? mine->stream : environment().stream; }

const DeviceInfo& device() {
  static const DeviceInfo info = [] {
    environment();
    const Image image = imageFor(CUDA_BUILT_FOR, capabilityOf(0));
    return DeviceInfo{
        attribute(cudaDevAttrMultiProcessorCount, 0), image.architecture, image.specific && image.architecture == 90,
        (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), (size_t)attribute(cudaDevAttrL2CacheSize, 0)};
  }();
  return info;
}

void launched(const char* name) {
  static const bool wait = asked("POLYGRAD_SYNC");
  if (guarding()) nameBlocks(*mine, name);
  if (wait && !mine->capture) checkCuda(cudaStreamSynchronize(mine->stream), name);
}

Failure failure(const char* sentence, const char* op) {
  Environment& e = environment();
  std::lock_guard lock(lockOfSentences());
  auto& all = sentences();
  size_t i = std::find(all.begin(), all.end(), Said(sentence, op)) - all.begin();
  if (i == all.size()) all.emplace_back(sentence, op);
  return {e.failures, ++e.launches, (unsigned)i + 1};
}

std::string said(const FailureRecord& record) {
  if (!record.sentence) return "";
  std::lock_guard lock(lockOfSentences());
  auto [sentence, op] = sentences().at(record.sentence - 1);
  return filled(sentence, op, record.at, record.value, record.limit);
}

void closeStream() {
  if (!mine) return;
  if (mine->capture) endCapture(false);
  cudaStreamSynchronize(mine->stream);  // an error has been told, or nobody is left to be told
  cudaGetLastError();
  mine->transfers.reset();
}

void closeMemory() {
  if (!mine) return;
  while (!mine->graphs.empty()) destroyGraph(mine->graphs.back());
  cudaStreamSynchronize(mine->stream);
  closePool(mine->pool);
  cudaFree(mine->failures);
  cudaStreamDestroy(mine->stream);
  cudaGetLastError();
  delete mine;
  mine = nullptr;
}

}  // namespace cuda
