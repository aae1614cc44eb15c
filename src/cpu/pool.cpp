#include "cpu/pool.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace cpu {
namespace {

thread_local int myIndex = 0;
thread_local bool inside = false;

struct Job {
  void (*body)(void*, int64_t) = nullptr;
  void* context = nullptr;
  int64_t chunks = 0;
  std::atomic<int64_t> next{0};
};

// Never destroyed: threads may still be parked in it when the process exits.
struct Pool {
  std::mutex owner;  // held by the stream whose job is running
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<int> active{0};  // helpers inside the current job
  std::atomic<bool> open{false};
  Job job;
  int wanted = 0, started = 1;
  std::atomic<int> limit{1};

  static void work(Job& job) {
    inside = true;
    for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < job.chunks;) job.body(job.context, i);
    inside = false;
  }

  void helper(int index) {
    myIndex = index;
    uint64_t seen = 0;
    for (;;) {
      // A short spin covers the gap between two kernels of one step; then sleep.
      for (int spin = 0; spin < 4000 && generation.load(std::memory_order_acquire) == seen; spin++)
        __builtin_ia32_pause();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
      }
      seen = generation.load(std::memory_order_acquire);
      if (index >= limit.load(std::memory_order_relaxed)) continue;
      active.fetch_add(1, std::memory_order_seq_cst);
      if (open.load(std::memory_order_seq_cst)) work(job);
      active.fetch_sub(1, std::memory_order_release);
    }
  }

  void run(int64_t chunks, void (*body)(void*, int64_t), void* context) {
    job.body = body;
    job.context = context;
    job.chunks = chunks;
    job.next.store(0, std::memory_order_relaxed);
    open.store(true, std::memory_order_seq_cst);
    {
      std::lock_guard lock(mutex);
      for (; started < limit.load(std::memory_order_relaxed); started++)
        std::thread([this, index = started] { helper(index); }).detach();
      generation.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    work(job);
    open.store(false, std::memory_order_seq_cst);
    for (int spin = 0; active.load(std::memory_order_seq_cst); spin++) {
      if (spin < 20000)
        __builtin_ia32_pause();
      else
        std::this_thread::yield();
    }
  }
};

int defaultThreads() {
  if (const char* text = std::getenv("POLYGRAD_THREADS"))
    if (int n = std::atoi(text); n > 0) return n;
  int n = (int)std::thread::hardware_concurrency();
  return n > 0 ? n : 1;
}

Pool& pool() {
  static Pool* one = [] {
    Pool* p = new Pool;
    p->limit = defaultThreads();
    return p;
  }();
  return *one;
}

}  // namespace

int threads() { return pool().limit.load(std::memory_order_relaxed); }
int thisThread() { return myIndex; }

void setThreads(int count) {
  Pool& p = pool();
  std::lock_guard lock(p.owner);
  p.limit = count < 1 ? 1 : count;
}

void run(int64_t chunks, void (*body)(void*, int64_t), void* context) {
  Pool& p = pool();
  std::unique_lock owner(p.owner, std::defer_lock);
  if (inside || chunks == 1 || p.limit.load(std::memory_order_relaxed) == 1 || !owner.try_lock()) {
    for (int64_t i = 0; i < chunks; i++) body(context, i);
    return;
  }
  p.run(chunks, body, context);
}

void* scratch(int slot, size_t bytes) {
  struct Slot {
    void* data = nullptr;
    size_t size = 0;
    ~Slot() { std::free(data); }
  };
  thread_local Slot slots[4];
  Slot& s = slots[slot];
  if (s.size < bytes) {
    std::free(s.data);
    s.size = (bytes + 4095) / 4096 * 4096;
    s.data = std::aligned_alloc(64, s.size);
  }
  return s.data;
}

}  // namespace cpu
