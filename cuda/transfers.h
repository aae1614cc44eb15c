#pragma once
// Copies between JavaScript's memory and the device's, through pinned memory, so that the caller does not wait.
#include <cuda_runtime.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "device/failure.cuh"
#include "kernels.h"

namespace cuda {

class Transfers {
 public:
  Transfers(cudaStream_t stream, FailureRecord* failures) : stream(stream), failures(failures) {}
  ~Transfers();  // the stream must be idle

  void upload(const void* host, void* to, size_t bytes);
  void download(const void* from, void* host, size_t bytes, Done done);

 private:
  struct Staging {
    char* data;
    size_t size;
  };
  struct Flight {  // an upload that may still read the ring
    cudaEvent_t landed;
    size_t begin, end;
  };
  struct Waiting {
    cudaEvent_t event;
    Staging staging;  // the failure record, then what was read
    void* host;
    size_t bytes;
    Done done;
  };
  const cudaStream_t stream;
  FailureRecord* const failures;

  char* ring = nullptr;
  size_t head = 0;
  std::deque<Flight> flights;
  char* chunk = nullptr;  // of large downloads

  std::mutex mutex;  // of what follows
  std::condition_variable wake;
  std::deque<Waiting> queue;
  std::vector<Staging> unused;
  std::vector<cudaEvent_t> events;
  bool ending = false;
  std::thread waiter;

  cudaEvent_t event();
  void recycle(cudaEvent_t event);
  Staging staging(size_t bytes);
  void wait();
};

}  // namespace cuda
