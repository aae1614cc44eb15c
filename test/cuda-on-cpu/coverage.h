#pragma once
// What the stand-in remembers for test/cuda-on-cpu/coverage.cpp.
#include <vector>

namespace emulator {
std::vector<const void*> launchedKernels();
}
