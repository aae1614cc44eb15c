#pragma once
// What the host keeps of the device: the stream of each thread, scratch memory, errors.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstddef>

namespace cuda {

// Throws what a call of the runtime returned, unless it is success; `what` names the caller.
void checkCuda(cudaError_t status, const char* what);

cudaStream_t stream();  // of the calling thread; made at first use

struct DeviceInfo {
  int processors;      // streaming multiprocessors
  int capability;      // that the kernels it runs were compiled for: 80, 89, 90, 100 ..
  bool warpgroups;     // whether for the very architecture, sm_90a, so that they may use wgmma
  size_t sharedBytes;  // that a block may ask for
  size_t l2Bytes;
};
const DeviceInfo& device();

// After each launch: with POLYGRAD_SYNC=1, waits and throws the kernel's own error under its name.
void launched(const char* name);

// Memory for the time of one kernel call (or a few), in stream order: its destructor only gives it back for what is
// queued afterwards.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  template <class T>
  T* as(size_t byteOffset = 0) const {
    return (T*)((char*)data + byteOffset);
  }

 private:
  void* data;
  size_t bytes;
};

}  // namespace cuda
