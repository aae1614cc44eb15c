// Uploads go through a pinned ring, downloads through pinned buffers; one thread waits for the downloads.
#include "transfers.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/check.h"
#include "core/memory.h"
#include "environment.h"
#include "stream.h"

namespace cuda {
namespace {

constexpr size_t ringBytes = 16 << 20;
constexpr size_t chunkBytes = 4 << 20;
constexpr size_t recordBytes = 64;
static_assert(sizeof(FailureRecord) <= recordBytes);

char* pinned(size_t bytes) {
  void* data = nullptr;
  if (cudaHostAlloc(&data, bytes, cudaHostAllocDefault) != cudaSuccess) {
    cudaGetLastError();
    throw OutOfMemory(text("out of memory: ", bytes, " bytes of pinned host memory for transfers"), bytes, 0,
                      memoryStatistics(1).peak);
  }
  return (char*)data;
}

}  // namespace

cudaEvent_t Transfers::event() {
  {
    std::lock_guard lock(mutex);
    if (!events.empty()) {
      cudaEvent_t one = events.back();
      events.pop_back();
      return one;
    }
  }
  cudaEvent_t made;
  checkCuda(cudaEventCreateWithFlags(&made, cudaEventDisableTiming | cudaEventBlockingSync), "cudaEventCreate");
  return made;
}

void Transfers::recycle(cudaEvent_t event) {
  std::lock_guard lock(mutex);
  events.push_back(event);
}

void Transfers::upload(const void* host, void* to, size_t bytes) {
  if (!ring) ring = pinned(ringBytes);
  for (size_t done = 0; done < bytes;) {
    const size_t n = std::min(bytes - done, chunkBytes);
    // In the order of the ring, so what lies in the way is at the front.
    auto clear = [&](size_t begin, size_t end) {
      while (!flights.empty() && flights.front().begin < end && begin < flights.front().end) {
        checkCuda(cudaEventSynchronize(flights.front().landed), "upload");
        recycle(flights.front().landed);
        flights.pop_front();
      }
    };
    if (head + n > ringBytes) {
      clear(head, ringBytes);
      head = 0;
    }
    clear(head, head + n);
    std::memcpy(ring + head, (const char*)host + done, n);
    checkCuda(cudaMemcpyAsync((char*)to + done, ring + head, n, cudaMemcpyHostToDevice, stream), "upload");
    flights.push_back({event(), head, head + n});
    checkCuda(cudaEventRecord(flights.back().landed, stream), "upload");
    head += (n + 63) / 64 * 64;
    done += n;
  }
}

Transfers::Staging Transfers::staging(size_t bytes) {
  {
    std::lock_guard lock(mutex);
    for (auto& one : unused)
      if (one.size >= bytes && one.size <= 4 * std::max<size_t>(bytes, 4096)) {
        Staging found = one;
        one = unused.back();
        unused.pop_back();
        return found;
      }
  }
  size_t size = 4096;
  while (size < bytes) size *= 2;
  return {pinned(size), size};
}

void Transfers::download(const void* from, void* host, size_t bytes, Done done) {
  const bool atOnce = bytes <= chunkBytes;
  Staging through = staging(recordBytes + (atOnce ? bytes : 0));
  if (atOnce) {
    if (bytes)
      checkCuda(cudaMemcpyAsync(through.data + recordBytes, from, bytes, cudaMemcpyDeviceToHost, stream), "download");
  } else {
    // The stream itself empties the buffer before it fills it again.
    struct Piece {
      void* to;
      const void* from;
      size_t bytes;
    };
    if (!chunk) chunk = pinned(chunkBytes);
    for (size_t at = 0; at < bytes; at += chunkBytes) {
      const size_t n = std::min(bytes - at, chunkBytes);
      checkCuda(cudaMemcpyAsync(chunk, (const char*)from + at, n, cudaMemcpyDeviceToHost, stream), "download");
      auto empty = [](void* context) {
        auto* piece = (Piece*)context;
        std::memcpy(piece->to, piece->from, piece->bytes);
        delete piece;
      };
      checkCuda(cudaLaunchHostFunc(stream, empty, new Piece{(char*)host + at, chunk, n}), "download");
    }
  }
  checkCuda(cudaMemcpyAsync(through.data, failures, sizeof(FailureRecord), cudaMemcpyDeviceToHost, stream), "download");
  checkCuda(cudaMemsetAsync(failures, 0, sizeof(FailureRecord), stream), "download");
  cudaEvent_t landed = event();
  checkCuda(cudaEventRecord(landed, stream), "download");
  std::lock_guard lock(mutex);
  queue.push_back({landed, through, atOnce ? host : nullptr, bytes, done});
  if (!waiter.joinable()) waiter = std::thread([this] { wait(); });
  wake.notify_one();
}

void Transfers::wait() {
  std::unique_lock lock(mutex);
  for (;;) {
    wake.wait(lock, [&] { return ending || !queue.empty(); });
    if (queue.empty()) return;
    Waiting one = queue.front();
    queue.pop_front();
    lock.unlock();
    // An event is reached, or fails, even when a kernel has ended the device's work; a host function would not run.
    const cudaError_t status = cudaEventSynchronize(one.event);
    std::string failure;
    const char* code = deviceDataCode;
    if (status != cudaSuccess) {
      failure = text("cuda: a kernel failed: ", cudaGetErrorString(status), " (POLYGRAD_SYNC=1 tells which)");
      code = "ERR_CUDA";
    } else {
      FailureRecord record;
      std::memcpy(&record, one.staging.data, sizeof record);
      failure = said(record);
      if (one.host) std::memcpy(one.host, one.staging.data + recordBytes, one.bytes);
    }
    lock.lock();
    events.push_back(one.event);
    unused.push_back(one.staging);
    lock.unlock();
    one.done.call(one.done.context, failure.c_str(), code);
    lock.lock();
  }
}

Transfers::~Transfers() {
  {
    std::lock_guard lock(mutex);
    ending = true;
  }
  wake.notify_one();
  if (waiter.joinable()) waiter.join();
  for (auto& one : flights) cudaEventDestroy(one.landed);
  for (auto& one : events) cudaEventDestroy(one);
  for (auto& one : unused) cudaFreeHost(one.data);
  if (ring) cudaFreeHost(ring);
  if (chunk) cudaFreeHost(chunk);
}

void upload(const void* host, View to) {
  check(!capturing(), "a step that is being captured takes no values from JavaScript");
  if (size_t bytes = to.size() * dtypeSize(to.dtype)) environment().transfers->upload(host, to.data, bytes);
}

void download(View from, void* host, Done done) {
  check(!capturing(), "a step that is being captured has no values yet");
  environment().transfers->download(from.data, host, from.size() * dtypeSize(from.dtype), done);
}

}  // namespace cuda
