#include "pool.h"

#include <algorithm>
#include <cstdlib>

#include "core/memory.h"

namespace cuda {
namespace {

constexpr size_t unit = 512;            // blocks are multiples of it, and begin on one
constexpr size_t smallLimit = 1 << 20;  // up to here a block is small
constexpr size_t smallSegment = 2 << 20;
constexpr size_t largeSegment = 20 << 20;  // for large blocks of up to half of it
constexpr size_t segmentUnit = 2 << 20;    // what the device hands out

size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t reserved = 0;  // bytes, by all pools

// POLYGRAD_MEMORY_LIMIT, or none.
size_t limit() {
  static const size_t bytes = [] {
    const char* asked = std::getenv("POLYGRAD_MEMORY_LIMIT");
    unsigned long long n = asked ? std::strtoull(asked, nullptr, 10) : 0;
    return n ? (size_t)n : ~(size_t)0;
  }();
  return bytes;
}

}  // namespace

size_t roomLeft() { return limit() > reserved ? limit() - reserved : 0; }

namespace {

char* deviceAllocate(size_t size) {
  void* data = nullptr;
  if (size > roomLeft()) return nullptr;
  if (cudaMalloc(&data, size) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  reserved += size;
  return (char*)data;
}

}  // namespace

Pool::Free& Pool::freeOf(const Segment& segment) { return segment.size == smallSegment ? small : large; }

// A new segment with one free block, which is not in the set of free ones.
Block* Pool::extend(size_t size) {
  size_t wanted = size <= smallLimit ? smallSegment : size <= largeSegment / 2 ? largeSegment : up(size, segmentUnit);
  char* data = deviceAllocate(wanted);
  if (!data && wanted == largeSegment)
    data = deviceAllocate(wanted = std::max(up(size, segmentUnit), 2 * smallSegment));
  if (!data) return nullptr;
  auto* segment = new Segment{data, wanted, this, nullptr};
  segment->first = new Block{data, wanted, 0, nullptr, nullptr, segment, nullptr, false};
  segments.push_back(segment);
  memoryStatistics(1).cached += wanted;
  return segment->first;
}

Block* Pool::take(size_t bytes) {
  const size_t size = up(std::max<size_t>(bytes, 1), unit);
  if (size < bytes) return nullptr;
  settle(false);
  Free& free = size <= smallLimit ? small : large;
  Block wanted{nullptr, size, 0, nullptr, nullptr, nullptr, nullptr, false};
  auto at = free.lower_bound(&wanted);
  Block* block;
  if (at != free.end()) {
    block = *at;
    free.erase(at);
  } else {
    block = extend(size);
    if (!block) return nullptr;
  }
  const size_t rest = block->size - size;
  if (rest >= (size <= smallLimit ? unit : smallLimit)) {
    auto* second = new Block{block->data + size, rest, 0, block, block->after, block->segment, nullptr, false};
    if (block->after) block->after->before = second;
    block->after = second;
    block->size = size;
    free.insert(second);
  }
  block->taken = true;
  block->asked = bytes;
  block->firstKernel = nullptr;
  auto& s = memoryStatistics(1);
  if (!counted) {
    s.cached -= block->size;
    s.use(block->size);
  }
  return block;
}

void Pool::give(Block* block) {
  auto& s = memoryStatistics(1);
  if (!counted) {
    s.inUse -= block->size;
    s.cached += block->size;
  }
  block->taken = false;
  Free& free = freeOf(*block->segment);
  auto join = [&](Block* a, Block* b) {  // b, behind a, becomes part of it
    a->size += b->size;
    a->after = b->after;
    if (b->after) b->after->before = a;
    delete b;
  };
  if (Block* after = block->after; after && !after->taken) {
    free.erase(after);
    join(block, after);
  }
  if (Block* before = block->before; before && !before->taken) {
    free.erase(before);
    join(before, block);
    block = before;
  }
  free.insert(block);
}

void Pool::giveLater(Block* block, cudaEvent_t when) { later.push_back({block, when}); }

void Pool::settle(bool wait) {
  for (size_t i = 0; i < later.size();) {
    Later one = later[i];
    if (wait) cudaEventSynchronize(one.when);
    if (!wait && cudaEventQuery(one.when) == cudaErrorNotReady) {
      i++;
      continue;
    }
    cudaEventDestroy(one.when);
    later.erase(later.begin() + (ptrdiff_t)i);
    give(one.block);
  }
}

size_t Pool::trim() {
  settle(true);
  size_t bytes = 0;
  for (size_t i = 0; i < segments.size();) {
    Segment* segment = segments[i];
    if (segment->first->taken || segment->first->after) {
      i++;
      continue;
    }
    freeOf(*segment).erase(segment->first);
    (counted ? memoryStatistics(1).inUse : memoryStatistics(1).cached) -= segment->size;
    reserved -= segment->size;
    bytes += segment->size;
    cudaFree(segment->data);
    delete segment->first;
    delete segment;
    segments.erase(segments.begin() + (ptrdiff_t)i);
  }
  return bytes;
}

size_t Pool::freeBytes() const {
  size_t bytes = 0;
  for (auto* free : {&small, &large})
    for (const Block* block : *free) bytes += block->size;
  return bytes;
}

}  // namespace cuda
