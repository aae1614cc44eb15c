#pragma once
// Runs CUDA kernels that g++ compiled: each thread of a block is a fiber, and a fiber is switched only where threads
// wait for each other. One block (or cluster of blocks) runs at a time. What the kernels are held to:
// - every thread of a block reaches every barrier, every lane of a warp every warp operation, in the same order;
// - shared memory starts poisoned, and nothing is written beside it;
// - an asynchronous copy has not happened until it has been waited for.
// A breach stops the kernel and comes back as the error of the launch.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vector_types.h"

extern dim3 gridDim, blockDim;  // of the kernel that runs

namespace emulator {

struct Barrier {
  int arrived = 0, expected = 0;
  uint64_t generation = 0;
  bool fenced = false, allFenced = false;  // by fence.proxy.async: those that arrived so far, all of the last time
};

struct Cluster;
struct Hopper;  // hopper.h
struct Block {
  uint3 index{};
  int threads = 0;
  unsigned char* shared = nullptr;
  size_t sharedBytes = 0;
  Barrier barriers[16];
  Cluster* cluster = nullptr;
  int rank = 0;  // in its cluster
  std::shared_ptr<Hopper> hopper;
};
struct Cluster {
  std::vector<Block> blocks;
  Barrier barrier;
};

constexpr size_t slotBytes = 128;
struct Warp {
  int lanes = 0, arrived = 0;
  uint64_t generation = 0;
  // What the lanes show each other. Two sets in turn: a lane can be at most one operation ahead of another.
  alignas(16) unsigned char slots[2][32][slotBytes];
  const char* operation[2][32];
};

// A group of lanes' copies that were issued and not yet made.
using Copies = std::vector<std::function<void()>>;

struct Fiber {
  void* stackPointer = nullptr;
  Block* block = nullptr;
  Warp* warp = nullptr;
  uint3 index{};
  int lane = 0;
  bool done = true;
  const char* waitsFor = nullptr;
  bool (*ready)(void*) = nullptr;  // null: can go on
  void* context = nullptr;
  Copies open;                 // copies of the group that is being made up
  std::vector<Copies> groups;  // committed, oldest first
  Copies bulk;                 // the same of stores of tiles
  std::vector<Copies> bulkGroups;
  bool fenced = false;        // fence.proxy.async since the last barrier
  bool sharedFenced = false;  // at its last barrier, every thread was
};

extern Fiber* current;  // the thread that runs

[[noreturn]] void fail(const std::string& message);  // a breach, of the thread that runs
std::string builtFor();  // the architectures that the kernels pretend to be compiled for, with commas
void yield();

// Lets others run until `ready()` holds. It is asked again and again, so it must have no effect.
template <class Ready>
void waitUntil(const char* what, Ready ready) {
  if (ready()) return;
  Fiber* me = current;
  me->waitsFor = what;
  me->context = &ready;
  me->ready = [](void* context) { return (bool)(*(Ready*)context)(); };
  yield();
  me->ready = nullptr;
}

void arriveAndWait(Barrier& barrier, int count, const char* what);
void arrive(Barrier& barrier, int count);
void syncWarp(const char* operation);

// Shows `mine` to the warp and reads what lane `from` shows.
template <class T>
const T* shown(const T& mine, const char* operation) {
  static_assert(sizeof(T) <= slotBytes);
  Warp& w = *current->warp;
  int set = (int)(w.generation & 1);
  std::memcpy(w.slots[set][current->lane], &mine, sizeof(T));
  w.operation[set][current->lane] = operation;
  syncWarp(operation);
  for (int i = 0; i < w.lanes; i++)
    if (std::strcmp(w.operation[set][i], operation))
      fail(std::string("lane ") + std::to_string(current->lane) + " is at " + operation + " but lane " +
           std::to_string(i) + " at " + w.operation[set][i]);
  return (const T*)w.slots[set];
}
template <class T>
T laneValue(const T* all, int lane) {
  T value;
  std::memcpy(&value, (const unsigned char*)all + (size_t)lane * slotBytes, sizeof(T));
  return value;
}
template <class T>
T exchange(unsigned mask, const T& mine, int from, const char* operation) {
  if (mask != ~0u) fail(std::string(operation) + ": the mask should be that of the whole warp");
  const T* all = shown(mine, operation);
  int lanes = current->warp->lanes;
  return from >= 0 && from < lanes ? laneValue(all, from) : mine;
}

// Asynchronous copies of one thread.
void issueCopy(std::function<void()> copy);
void commitCopies();
void waitCopies(int mayRemain);

// Whether all of these bytes are device memory that was allocated at once.
bool onDevice(const void* p, size_t bytes);

// Runs every block of the grid. Returns "" or what went wrong.
std::string run(const char* kernel, dim3 grid, dim3 block, size_t sharedBytes, unsigned clusterSize,
                const std::function<void()>& body);

}  // namespace emulator
