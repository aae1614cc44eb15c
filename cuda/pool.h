#pragma once
// Memory that one stream, or one graph, takes from the device in segments and hands out in blocks.
#include <cuda_runtime.h>

#include <cstddef>
#include <set>
#include <vector>

namespace cuda {

struct Block;
struct Segment {
  char* data;
  size_t size;
  class Pool* pool;
  Block* first;
};
struct Block {
  char* data;
  size_t size, asked;     // bytes; what the caller asked for, while it is taken
  Block *before, *after;  // neighbours in the segment
  Segment* segment;
  const char* firstKernel;  // launched after it was taken
  bool taken;
};

// The best fit is split; neighbours that are free are merged. Small blocks have segments of their own, so that they do
// not cut up the large ones. Every function wants the lock of all pools.
class Pool {
 public:
  explicit Pool(cudaStream_t stream) : stream(stream) {}
  Block* take(size_t bytes);  // null: neither it nor the device has as much
  void give(Block* block);
  void giveLater(Block* block, cudaEvent_t when);  // released by a thread with another stream
  void settle(bool wait);                          // takes back what was released by other threads
  size_t trim();  // gives back segments that are all free; their stream must be idle. Bytes
  size_t freeBytes() const;
  bool empty() const { return segments.empty(); }

  const cudaStream_t stream;  // whose work uses it
  bool closed = false;        // nobody takes from it any more; it goes with its last segment
  bool recording = false;     // its stream makes a graph
  bool counted = false;       // of a finished graph: all of it counts as in use, and nothing is given back

 private:
  struct Less {
    bool operator()(const Block* a, const Block* b) const {
      return a->size != b->size ? a->size < b->size : a->data < b->data;
    }
  };
  using Free = std::set<Block*, Less>;
  struct Later {
    Block* block;
    cudaEvent_t when;
  };
  Free small, large;
  std::vector<Segment*> segments;
  std::vector<Later> later;

  Free& freeOf(const Segment& segment);
  Block* extend(size_t size);
};

size_t roomLeft();  // bytes that pools may still ask the device for: POLYGRAD_MEMORY_LIMIT less what they have

}  // namespace cuda
