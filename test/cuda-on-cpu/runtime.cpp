// The host's part of the stand-in: streams, events, graphs, memory. CUDA_ON_CPU_CAPABILITY (80, 89, 90), _MEMORY
// (bytes) and _ORDER (reversed) choose what device it pretends to be.
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "coverage.h"
#include "cuda_runtime.h"

namespace {

thread_local cudaError_t last = cudaSuccess;
thread_local bool capturing = false;
std::mutex device;  // kernels run one at a time, and so do copies
std::string lastBreach;
cudaError_t sticky = cudaSuccess;  // what a kernel did wrong; as on a GPU, it ends the device's work

cudaError_t result(cudaError_t e) {
  if (e != cudaSuccess) last = e;
  return e;
}

long long setting(const char* name, long long otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoll(text) : otherwise;
}
int capability() { return (int)setting("CUDA_ON_CPU_CAPABILITY", 80); }
size_t sharedLimit() { return capability() >= 90 ? 232448 : capability() == 89 ? 101376 : 166912; }
size_t memoryLimit() { return (size_t)setting("CUDA_ON_CPU_MEMORY", 4ll << 30); }

size_t allocated = 0;
std::map<char*, size_t> blocks;

using Task = std::function<void()>;

}  // namespace

struct CUgraph_st {
  std::vector<Task> tasks;
};
struct CUgraphExec_st {
  std::vector<Task> tasks;
};
struct CUevent_st {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0, reached = 0;
  std::chrono::steady_clock::time_point when;
};
struct CUstream_st {
  std::mutex mutex;
  std::condition_variable wake, idle;
  std::deque<Task> queue;
  bool busy = false, ending = false;
  CUgraph_st* capture = nullptr;
  std::thread thread{[this] { loop(); }};

  ~CUstream_st() {
    {
      std::lock_guard lock(mutex);
      ending = true;
    }
    wake.notify_one();
    thread.join();
  }
  void loop() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return ending || !queue.empty(); });
      if (queue.empty()) return;
      Task task = std::move(queue.front());
      queue.pop_front();
      busy = true;
      lock.unlock();
      task();
      lock.lock();
      busy = false;
      if (queue.empty()) idle.notify_all();
    }
  }
  void add(Task task) {
    if (capture) {
      capture->tasks.push_back(std::move(task));
      return;
    }
    std::lock_guard lock(mutex);
    queue.push_back(std::move(task));
    wake.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex);
    idle.wait(lock, [&] { return queue.empty() && !busy; });
  }
};

namespace emulator {

namespace {
std::mutex lockOfKernels;  // threads of several environments launch
auto& allowed = *new std::map<const void*, size_t>;
auto& launched = *new std::set<const void*>;
}  // namespace

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& c, std::function<void()> body) {
  uint64_t threads = (uint64_t)c.blockDim.x * c.blockDim.y * c.blockDim.z;
  unsigned cluster = 1;
  for (unsigned i = 0; i < c.numAttrs; i++)
    if (c.attrs[i].id == cudaLaunchAttributeClusterDimension) cluster = c.attrs[i].val.clusterDim.x;
  size_t most = 48 << 10;
  {
    std::lock_guard lock(lockOfKernels);
    launched.insert(kernel);
    if (auto more = allowed.find(kernel); more != allowed.end()) most = std::max(most, more->second);
  }
  if (!c.stream || !c.gridDim.x || !c.gridDim.y || !c.gridDim.z || !threads || threads > 1024 ||
      c.gridDim.x > 0x7fffffffu || c.gridDim.y > 65535 || c.gridDim.z > 65535 || c.dynamicSmemBytes > most ||
      (cluster > 1 && (capability() < 90 || c.gridDim.x % cluster || cluster > 8)))
    return result(cudaErrorInvalidValue);
  c.stream->add([=, grid = c.gridDim, block = c.blockDim, shared = c.dynamicSmemBytes, body = std::move(body)] {
    std::lock_guard lock(device);
    if (sticky != cudaSuccess) return;
    std::string breach = run("kernel", grid, block, shared, cluster, body);
    if (breach.empty()) return;
    sticky = cudaErrorLaunchFailure;
    lastBreach = breach;
    std::fprintf(stderr, "cuda-on-cpu: %s\n", breach.c_str());
  });
  return cudaSuccess;
}

std::string builtFor() {
  const char* text = std::getenv("CUDA_ON_CPU_BUILT_FOR");
  return text ? text : "80,90a";
}

cudaError_t allowShared(const void* kernel, size_t bytes) {
  if (bytes > sharedLimit()) return result(cudaErrorInvalidValue);
  std::lock_guard lock(lockOfKernels);
  allowed[kernel] = bytes;
  return cudaSuccess;
}

std::vector<const void*> launchedKernels() {
  std::lock_guard lock(lockOfKernels);
  return {launched.begin(), launched.end()};
}

}  // namespace emulator

const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorLaunchFailure:
      return lastBreach.c_str();
    default:
      return "unknown error";
  }
}
cudaError_t cudaGetLastError() {
  cudaError_t e = sticky != cudaSuccess ? sticky : last;
  last = cudaSuccess;
  return e;
}
cudaError_t cudaPeekAtLastError() { return sticky != cudaSuccess ? sticky : last; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = (int)setting("CUDA_ON_CPU_DRIVER", 13000);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = (int)setting("CUDA_ON_CPU_DEVICES", 1);
  return *count ? cudaSuccess : result(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int d) {
  return d < setting("CUDA_ON_CPU_DEVICES", 1) ? cudaSuccess : result(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* d) {
  *d = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::snprintf(p->name, sizeof p->name, "stand-in for sm_%d on the CPU", capability());
  p->totalGlobalMem = memoryLimit();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = (int)setting("CUDA_ON_CPU_PROCESSORS", 4);
      break;
    case cudaDevAttrL2CacheSize:
      *value = 4 << 20;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = capability() / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = capability() % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = (int)sharedLimit();
      break;
    default:
      return result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return result(cudaErrorStreamCaptureUnsupported); }  // nobody should

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard lock(device);
  *total = memoryLimit();
  *free = memoryLimit() - std::min(memoryLimit(), allocated);
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (capturing) return result(cudaErrorStreamCaptureUnsupported);
  std::lock_guard lock(device);
  if (allocated + bytes > memoryLimit()) return result(cudaErrorMemoryAllocation);
  *p = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  std::memset(*p, 0xff, bytes);
  blocks[(char*)*p] = bytes;
  allocated += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  std::lock_guard lock(device);
  auto at = blocks.find((char*)p);
  if (at == blocks.end()) return result(cudaErrorInvalidValue);
  allocated -= at->second;
  blocks.erase(at);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  if (capturing) return result(cudaErrorStreamCaptureUnsupported);
  *p = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  return *p ? cudaSuccess : result(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}

bool emulator::onDevice(const void* p, size_t bytes) {
  auto after = blocks.upper_bound((char*)p);
  if (after == blocks.begin()) return false;
  auto& [begin, size] = *std::prev(after);
  return (char*)p + bytes <= begin + size;
}
static void deviceError(const char* what) {
  sticky = cudaErrorLaunchFailure;
  lastBreach = what;
  std::fprintf(stderr, "cuda-on-cpu: %s\n", what);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (!stream || kind == cudaMemcpyHostToHost || kind == cudaMemcpyDefault) return result(cudaErrorInvalidValue);
  stream->add([=] {
    std::lock_guard lock(device);
    if (sticky != cudaSuccess) return;
    if ((kind != cudaMemcpyDeviceToHost && !emulator::onDevice(to, bytes)) ||
        (kind != cudaMemcpyHostToDevice && !emulator::onDevice(from, bytes)))
      return deviceError("a copy reaches beside the memory of the device");
    std::memmove(to, from, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (!stream) return result(cudaErrorInvalidValue);
  stream->add([=] {
    std::lock_guard lock(device);
    if (sticky != cudaSuccess) return;
    if (!emulator::onDevice(to, bytes)) return deviceError("a memset reaches beside the memory of the device");
    std::memset(to, value, bytes);
  });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->wait();
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!stream) return result(cudaErrorInvalidValue);
  if (stream->capture) return result(cudaErrorStreamCaptureUnsupported);
  stream->wait();
  return result(sticky);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void* context) {
  if (!stream) return result(cudaErrorInvalidValue);
  stream->add([=] { fn(context); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  cudaEventSynchronize(event);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  uint64_t mark;
  {
    std::lock_guard lock(event->mutex);
    mark = ++event->recorded;
  }
  stream->add([=] {
    std::lock_guard lock(event->mutex);
    event->reached = mark;
    event->when = std::chrono::steady_clock::now();
    event->changed.notify_all();
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::lock_guard lock(event->mutex);
  return event->reached == event->recorded ? sticky : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::unique_lock lock(event->mutex);
  event->changed.wait(lock, [&] { return event->reached == event->recorded; });
  return result(sticky);
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = std::chrono::duration<float, std::milli>(b->when - a->when).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  stream->add([=] { cudaEventSynchronize(event); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (!stream || stream->capture) return result(cudaErrorInvalidValue);
  stream->capture = new CUgraph_st;
  capturing = mode != cudaStreamCaptureModeRelaxed;  // what may not be called meanwhile
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->capture) return result(cudaErrorInvalidValue);
  *graph = stream->capture;
  stream->capture = nullptr;
  capturing = false;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->tasks};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (auto& task : exec->tasks) stream->add(task);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
