#pragma once
// POLYGRAD_GUARD=1, for tests: memory is poisoned when it is allocated, and bands of a pattern lie before and behind
// it, which are looked at when it is released. What was written there is thrown at the next wait.
#include <cstddef>

namespace cuda {

constexpr size_t guardBytes = 512;

bool guarding();
void guard(void* data, size_t bytes);
// kernel: the first that was launched after the allocation, or null.
void checkGuard(void* data, size_t bytes, const char* kernel);

}  // namespace cuda
