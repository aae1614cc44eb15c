#pragma once
// Counts of memory in use, over all threads of the process, for each kind of device.
#include <atomic>
#include <cstddef>

struct MemoryStatistics {
  std::atomic<size_t> inUse{0}, cached{0}, peak{0};  // bytes
  void use(size_t bytes) {
    size_t now = inUse.fetch_add(bytes) + bytes, seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }
};

// 0: the CPU's, 1: the GPU's.
inline MemoryStatistics& memoryStatistics(int device = 0) {
  static MemoryStatistics each[2];
  return each[device];
}
