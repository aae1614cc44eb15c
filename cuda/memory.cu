// Allocation: each environment has a pool, each graph one of its own. A released block may serve the next allocation of
// its stream at once, because whatever uses it next is queued behind what used it last.
#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "core/check.h"
#include "core/memory.h"
#include "environment.h"
#include "guard.h"
#include "kernels.h"
#include "stream.h"

namespace cuda {
namespace {

std::mutex& lockOfPools() {
  static auto& one = *new std::mutex;
  return one;
}
std::unordered_map<void*, Block*>& taken() {
  static auto& all = *new std::unordered_map<void*, Block*>;
  return all;
}
std::vector<Pool*>& pools() {
  static auto& all = *new std::vector<Pool*>;
  return all;
}

// Gives back what no stream needs now.
void trimAll() {
  for (Pool* pool : pools())
    if (!pool->recording && !pool->counted && !pool->closed && cudaStreamSynchronize(pool->stream) == cudaSuccess)
      pool->trim();
}

void close(Pool* pool) {
  pool->closed = true;
  pool->trim();
  if (!pool->empty()) return;
  std::erase(pools(), pool);
  delete pool;
}

[[noreturn]] void throwOutOfMemory(size_t bytes) {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  auto& s = memoryStatistics(1);
  throw OutOfMemory(
      text("out of memory on cuda: ", bytes, " bytes asked for, ", free, " of ", total, " free on the device, ",
           s.cached.load(), " cached in pieces, ", s.inUse.load(), " in use, peak ", s.peak.load()),
      bytes, free + s.cached, s.peak);
}

}  // namespace

Pool* newPool(cudaStream_t stream) {
  std::lock_guard lock(lockOfPools());
  pools().push_back(new Pool(stream));
  return pools().back();
}

void closePool(Pool* pool) {
  std::lock_guard lock(lockOfPools());
  close(pool);
}

void setRecording(Environment& e, bool on) {
  std::lock_guard lock(lockOfPools());
  e.pool->recording = on;
}

void countAsUsed(Pool* pool) {
  std::lock_guard lock(lockOfPools());
  const size_t bytes = pool->freeBytes();
  memoryStatistics(1).cached -= bytes;
  memoryStatistics(1).use(bytes);
  pool->counted = true;
}

void* allocate(size_t bytes) {
  Environment& e = environment();
  const size_t room = bytes + (guarding() ? 2 * guardBytes : 0);
  if (room < bytes) throwOutOfMemory(bytes);
  char* data;
  {
    std::lock_guard lock(lockOfPools());
    Pool& pool = e.capture ? *e.capture->pool : *e.pool;
    Block* block = pool.take(room);
    if (!block) {
      trimAll();
      block = pool.take(room);
    }
    if (!block) throwOutOfMemory(bytes);
    data = block->data;
    if (guarding()) {
      data += guardBytes;
      e.unnamed.push_back(data);
    }
    taken()[data] = block;
    if (!guarding()) return data;
  }
  guard(data, bytes);
  return data;
}

void release(void* data, size_t bytes) {
  Environment* e = environmentIfThere();
  std::unique_lock lock(lockOfPools());
  auto at = taken().find(data);
  if (at == taken().end()) return;
  Block* block = at->second;
  Pool* pool = block->segment->pool;
  if (e && e->capture && pool != e->capture->pool) {
    e->capture->held.push_back({data, bytes});
    return;
  }
  taken().erase(at);
  // Outside its recording, a graph's block may never have got its bands: the graph checks it when it is replayed.
  if (guarding() && e && !pool->counted) {
    std::erase(e->unnamed, data);
    lock.unlock();
    checkGuard(data, bytes, block->firstKernel);
    lock.lock();
  }
  cudaEvent_t when;
  if (e && e->stream != pool->stream && !pool->closed &&
      cudaEventCreateWithFlags(&when, cudaEventDisableTiming) == cudaSuccess) {
    cudaEventRecord(when, e->stream);
    pool->giveLater(block, when);
    return;
  }
  pool->give(block);
  if (pool->closed) {
    if (e) cudaStreamSynchronize(e->stream);
    close(pool);
  }
}

void nameBlocks(Environment& e, const char* kernel) {
  std::lock_guard lock(lockOfPools());
  for (void* data : e.unnamed)
    if (auto at = taken().find(data); at != taken().end()) at->second->firstKernel = kernel;
  e.unnamed.clear();
}

size_t availableMemory() {
  environment();
  size_t free = 0, total = 0;
  checkCuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  std::lock_guard lock(lockOfPools());
  return std::min(free, roomLeft()) + memoryStatistics(1).cached;
}

void trim() {
  Environment* e = environmentIfThere();
  if (!e || e->capture) return;
  std::lock_guard lock(lockOfPools());
  if (cudaStreamSynchronize(e->stream) == cudaSuccess) e->pool->trim();
}

Scratch::Scratch(size_t bytes) : data(allocate(bytes ? bytes : 1)), bytes(bytes ? bytes : 1) {}
Scratch::~Scratch() { release(data, bytes); }

}  // namespace cuda
