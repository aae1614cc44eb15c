// Memory of the CPU backend: a cache of blocks for each stream, and the copies between JavaScript and tensors.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "cpu/stream.h"
#include "kernels.h"

namespace cpu {
namespace {

constexpr size_t large = 1 << 20;

// Blocks come in size classes, so that a freed one fits the next tensor of about its size.
size_t rounded(size_t bytes) {
  if (bytes < 64) return 64;
  size_t step = std::max<size_t>(64, size_t(1) << (60 - __builtin_clzll(bytes)));  // at most an eighth is wasted
  return (bytes + step - 1) / step * step;
}

void* systemAllocate(size_t size) {
  if (size < large) return std::aligned_alloc(64, size);
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  madvise(data, size, MADV_HUGEPAGE);
  return data;
}

void systemFree(void* data, size_t size) {
  if (size < large)
    std::free(data);
  else
    munmap(data, size);
}

// Blocks of one size class: a power of two has eight.
struct Class {
  size_t size = 0;
  std::vector<void*> blocks;
};
size_t classOf(size_t size) {  // of a rounded size
  int log = 63 - __builtin_clzll(size);
  return (size_t)log * 8 + ((size >> (log - 3)) & 7);
}

// Free blocks of one stream, by size. Only the stream's owner (one JavaScript thread) touches it. A pointer, because
// the destructor of a thread_local would run at process exit while queued kernels still use the blocks.
using Cache = std::array<Class, 64 * 8>;
thread_local Cache* mine = nullptr;
Cache& cache() {
  if (!mine) mine = new Cache;
  return *mine;
}
std::vector<void*>& blocksOf(size_t size) {
  Class& c = cache()[classOf(size)];
  c.size = size;
  return c.blocks;
}

size_t limit() {
  static const size_t bytes = [] {
    if (const char* asked = std::getenv("POLYGRAD_MEMORY_LIMIT"))
      if (unsigned long long n = std::strtoull(asked, nullptr, 10)) return (size_t)n;
    return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
  }();
  return bytes;
}

}  // namespace

void trim() {
  auto& s = memoryStatistics();
  for (auto& [size, blocks] : cache()) {
    for (void* data : blocks) {
      s.cached -= size;
      stream().enqueue([size = size, data] { systemFree(data, size); });
    }
    blocks.clear();
  }
}

void closeMemory() {
  for (auto& [size, blocks] : cache())
    for (void* data : blocks) {
      memoryStatistics().cached -= size;
      systemFree(data, size);
    }
  delete mine;
  mine = nullptr;
}

void* allocate(size_t bytes) {
  auto& s = memoryStatistics();
  size_t size = bytes >> 46 ? bytes : rounded(bytes);
  auto& blocks = blocksOf(size);
  void* data = nullptr;
  if (!blocks.empty()) {
    data = blocks.back();
    blocks.pop_back();
    s.cached -= size;
  } else {
    if (s.inUse + s.cached + size > limit() && s.cached) {
      trim();
      stream().synchronize();
    }
    if (s.inUse + size <= limit()) data = systemAllocate(size);
  }
  if (!data) {
    size_t free = limit() > s.inUse ? limit() - s.inUse : 0;
    throw OutOfMemory(text("out of memory on cpu: ", bytes, " bytes asked for, ", free, " of ", limit(), " free, peak ",
                           s.peak.load(), " (POLYGRAD_MEMORY_LIMIT changes the limit)"),
                      bytes, free, s.peak);
  }
  s.use(size);
  return data;
}

void release(void* data, size_t bytes) {
  size_t size = rounded(bytes);
  memoryStatistics().inUse -= size;
  memoryStatistics().cached += size;
  blocksOf(size).push_back(data);
}

void upload(const void* host, View to) {
  size_t bytes = to.size() * dtypeSize(to.dtype);
  if (!bytes) return;
  void* staged = std::malloc(bytes);
  if (!staged) throw OutOfMemory("out of memory: no room to stage an upload", bytes, 0, memoryStatistics().peak);
  std::memcpy(staged, host, bytes);
  stream().enqueue([=] {
    std::memcpy(to.data, staged, bytes);
    std::free(staged);
  });
}

void download(View from, void* host, Done done) {
  size_t bytes = from.size() * dtypeSize(from.dtype);
  stream().enqueue([=] {
    if (bytes) std::memcpy(host, from.data, bytes);
    done.call(done.context, runningStream()->takeFailure().c_str(), deviceDataCode);
  });
}

// The CPU's queue costs so little that nothing would be won by a graph.
void beginCapture() { throw Error("a step can be captured on cuda only", "ERR_DEVICE"); }
Graph* endCapture(bool) { return nullptr; }
void replay(Graph*) {}
void destroyGraph(Graph*) {}
bool capturing() { return false; }

}  // namespace cpu
