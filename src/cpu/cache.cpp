#include "cpu/cache.h"

#include <unistd.h>

namespace cpu {

size_t streamingBytes() {
  static const size_t bytes = [] {
    long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (size <= 0) size = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return size > 0 ? (size_t)size / 2 : (size_t)16 << 20;
  }();
  return bytes;
}

}  // namespace cpu
