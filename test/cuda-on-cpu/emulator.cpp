// The fibers, and the loop that runs them.
#include "emulator.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <algorithm>
#include <exception>
#include <memory>
#include <stdexcept>

dim3 gridDim, blockDim;

namespace emulator {

Fiber* current = nullptr;

namespace {

constexpr size_t stackBytes = 256 << 10;
constexpr size_t guardBytes = 4096;
constexpr unsigned char poison = 0xff;  // NaN as a float, -1 as an integer
constexpr unsigned char guard = 0xa5;

struct Breach : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void* schedulerStack = nullptr;
const std::function<void()>* kernelBody = nullptr;
std::string breach;

extern "C" void emulatorSwitch(void** from, void* to);
asm(R"(
.text
.globl emulatorSwitch
.hidden emulatorSwitch
.type emulatorSwitch,@function
emulatorSwitch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
.size emulatorSwitch,.-emulatorSwitch
)");

void entry() {
  try {
    (*kernelBody)();
    if (!current->open.empty() || !current->groups.empty() || !current->bulk.empty() || !current->bulkGroups.empty())
      throw Breach("a thread ended before it had waited for its asynchronous copies");
  } catch (const std::exception& e) {
    if (breach.empty()) {
      const uint3 &b = current->block->index, &t = current->index;
      char where[128];
      std::snprintf(where, sizeof where, " (block %u %u %u, thread %u %u %u)", b.x, b.y, b.z, t.x, t.y, t.z);
      breach = std::string(e.what()) + where;
    }
  }
  current->done = true;
  yield();
  std::abort();  // a thread that has ended is not resumed
}

// A page that may not be touched lies below each stack.
unsigned char* stackOf(size_t i) {
  static std::vector<unsigned char*> stacks;
  while (stacks.size() <= i) {
    void* memory =
        mmap(nullptr, stackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, 4096, PROT_NONE);
    stacks.push_back((unsigned char*)memory);
  }
  return stacks[i];
}

void start(Fiber& f, unsigned char* stack) {
  void** top = (void**)(stack + stackBytes);
  *--top = nullptr;
  *--top = (void*)entry;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  f.stackPointer = top;
  f.done = false;
  f.ready = nullptr;
  f.open.clear();
  f.groups.clear();
  f.bulk.clear();
  f.bulkGroups.clear();
  f.fenced = f.sharedFenced = false;
}

bool reversed() {
  const char* order = std::getenv("CUDA_ON_CPU_ORDER");
  return order && !std::strcmp(order, "reversed");
}

struct SharedMemory {
  unsigned char* memory;
  size_t bytes;
  explicit SharedMemory(size_t bytes)
      : memory((unsigned char*)std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096 + 2 * guardBytes)), bytes(bytes) {}
  ~SharedMemory() { std::free(memory); }
  SharedMemory(const SharedMemory&) = delete;
  unsigned char* data() { return memory + guardBytes; }
  void fill() {
    std::memset(memory, guard, guardBytes);
    std::memset(data(), poison, bytes);
    std::memset(data() + bytes, guard, guardBytes);
  }
  bool intact() {
    for (size_t i = 0; i < guardBytes; i++)
      if (memory[i] != guard || data()[bytes + i] != guard) return false;
    return true;
  }
};

}  // namespace

void fail(const std::string& message) { throw Breach(message); }

void yield() { emulatorSwitch(&current->stackPointer, schedulerStack); }

void arrive(Barrier& b, int count) {
  if (b.arrived && b.expected != count) fail("threads wait at one barrier for different counts");
  b.expected = count;
  b.fenced = (b.fenced || !b.arrived) && current->fenced;
  current->fenced = false;
  if (++b.arrived == count) {
    b.allFenced = b.fenced;
    b.arrived = 0;
    b.generation++;
  }
}
void arriveAndWait(Barrier& b, int count, const char* what) {
  uint64_t before = b.generation;
  arrive(b, count);
  waitUntil(what, [&] { return b.generation != before; });
  current->sharedFenced = b.allFenced;
}

void syncWarp(const char* operation) {
  Warp& w = *current->warp;
  uint64_t before = w.generation;
  if (++w.arrived == w.lanes) {
    w.arrived = 0;
    w.generation++;
    return;
  }
  waitUntil(operation, [&] { return w.generation != before; });
}

void issueCopy(std::function<void()> copy) { current->open.push_back(std::move(copy)); }
void commitCopies() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}
void waitCopies(int mayRemain) {
  auto& groups = current->groups;
  size_t due = groups.size() > (size_t)mayRemain ? groups.size() - mayRemain : 0;
  for (size_t i = 0; i < due; i++)
    for (auto& copy : groups[i]) copy();
  groups.erase(groups.begin(), groups.begin() + (ptrdiff_t)due);
}

std::string run(const char* kernel, dim3 grid, dim3 block, size_t sharedBytes, unsigned clusterSize,
                const std::function<void()>& body) {
  const bool back = reversed();
  const int threads = (int)(block.x * block.y * block.z);
  const int warpsEach = (threads + 31) / 32;
  const size_t all = (size_t)threads * clusterSize;
  static std::vector<Fiber> fibers;
  static std::vector<Warp> warps;
  if (fibers.size() < all) fibers.resize(all);
  if (warps.size() < (size_t)warpsEach * clusterSize) warps.resize((size_t)warpsEach * clusterSize);
  std::vector<std::unique_ptr<SharedMemory>> shared;
  for (unsigned c = 0; c < clusterSize; c++) shared.push_back(std::make_unique<SharedMemory>(sharedBytes));

  kernelBody = &body;
  gridDim = grid;
  blockDim = block;
  breach.clear();
  const uint64_t clusters = (uint64_t)grid.x * grid.y * grid.z / clusterSize;
  for (uint64_t step = 0; step < clusters && breach.empty(); step++) {
    uint64_t first = (back ? clusters - 1 - step : step) * clusterSize;
    Cluster cluster;
    cluster.blocks.resize(clusterSize);
    for (unsigned c = 0; c < clusterSize; c++) {
      uint64_t at = first + c;
      Block& b = cluster.blocks[c];
      b.index = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
      b.threads = threads;
      b.shared = shared[c]->data();
      b.sharedBytes = sharedBytes;
      b.cluster = &cluster;
      b.rank = (int)c;
      shared[c]->fill();
      for (int i = 0; i < warpsEach; i++) {
        Warp& w = warps[c * warpsEach + i];
        w.lanes = std::min(32, threads - i * 32);
        w.arrived = 0;
        w.generation = 0;
      }
      for (int i = 0; i < threads; i++) {
        Fiber& f = fibers[c * threads + i];
        f.block = &b;
        f.warp = &warps[c * warpsEach + i / 32];
        f.lane = i % 32;
        f.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        start(f, stackOf(c * threads + i));
      }
    }
    size_t live = all;
    while (live && breach.empty()) {
      bool progress = false;
      for (size_t k = 0; k < all && breach.empty(); k++) {
        Fiber& f = fibers[back ? all - 1 - k : k];
        if (f.done || (f.ready && !f.ready(f.context))) continue;
        progress = true;
        current = &f;
        emulatorSwitch(&schedulerStack, f.stackPointer);
        if (f.done) live--;
      }
      if (!progress && breach.empty()) {
        for (size_t k = 0; k < all; k++)
          if (!fibers[k].done) {
            const Fiber& f = fibers[k];
            breach = "thread " + std::to_string(f.index.x) + " of block " + std::to_string(f.block->index.x) +
                     " waits for " + f.waitsFor + ", which " + std::to_string(all - live) +
                     " threads that have ended, or wait elsewhere, never reach";
            break;
          }
      }
    }
    if (breach.empty())
      for (auto& s : shared)
        if (!s->intact()) breach = "shared memory was written beside its " + std::to_string(sharedBytes) + " bytes";
  }
  current = nullptr;
  return breach.empty() ? "" : std::string(kernel) + ": " + breach;
}

}  // namespace emulator
