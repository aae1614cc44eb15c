#pragma once
// What the machine's caches hold.
#include <cstddef>

namespace cpu {

// Results above this many bytes are written round the caches: about half of the last one. The reader finds nothing of
// them there anyway, and a store that goes through a cache reads the line first.
size_t streamingBytes();

}  // namespace cpu
