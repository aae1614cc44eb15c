#include "cpu/stream.h"

#include <exception>

#include "kernels.h"

namespace cpu {
namespace {
thread_local Stream* mine = nullptr;
thread_local Stream* running = nullptr;
}  // namespace

Stream& stream() {
  if (!mine) mine = new Stream;
  return *mine;
}
void closeStream() {
  delete mine;
  mine = nullptr;
}
Stream* runningStream() { return running; }
void fail(const std::string& message) {
  if (running) running->fail(message);
}

Stream::Stream() : thread([this] { loop(); }) {}

Stream::~Stream() {
  {
    std::lock_guard lock(mutex);
    stopping = true;
  }
  wake.notify_all();
  thread.join();
  for (uint64_t at = tail; at != head; at++) queue[at % capacity].end(queue[at % capacity].task, false);
}

Stream::Slot& Stream::claim() {
  uint64_t at = head.load(std::memory_order_relaxed);
  if (at - tail.load(std::memory_order_acquire) >= capacity) {
    std::unique_lock lock(mutex);
    full = true;
    space.wait(lock, [&] { return at - tail.load(std::memory_order_acquire) <= capacity / 2; });
    full = false;
  }
  return queue[at % capacity];
}

void Stream::publish() {
  head.store(head.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  // Once a sleep: it may take a while until the thread runs again, and each call here would lock and wake.
  if (sleeping.load(std::memory_order_seq_cst) && sleeping.exchange(false)) {
    std::lock_guard lock(mutex);
    wake.notify_one();
  }
}

void Stream::loop() {
  running = this;
  for (uint64_t at = 0;; at++) {
    for (int spin = 0; spin < 4000 && head.load(std::memory_order_acquire) == at; spin++) __builtin_ia32_pause();
    if (head.load(std::memory_order_acquire) == at || stopping.load(std::memory_order_relaxed)) {
      std::unique_lock lock(mutex);
      auto due = [&] { return stopping || head.load(std::memory_order_seq_cst) != at; };
      while (!due()) {
        sleeping.store(true, std::memory_order_seq_cst);  // anew each time: a late wake may have taken it back
        if (!due()) wake.wait(lock);
      }
      sleeping.store(false, std::memory_order_seq_cst);
      if (stopping) return;
    }
    Slot& slot = queue[at % capacity];
    try {
      slot.end(slot.task, true);
    } catch (const std::exception& e) {
      fail(e.what());
    }
    tail.store(at + 1, std::memory_order_seq_cst);
    if (full.load(std::memory_order_seq_cst) && head.load(std::memory_order_acquire) - (at + 1) <= capacity / 2) {
      std::lock_guard lock(mutex);
      space.notify_all();
    }
  }
}

void Stream::synchronize() {
  std::mutex m;
  std::condition_variable done;
  bool ready = false;
  enqueue([&] {
    std::lock_guard lock(m);
    ready = true;
    done.notify_one();
  });
  std::unique_lock lock(m);
  done.wait(lock, [&] { return ready; });
}

void Stream::fail(const std::string& message) {
  if (failure.empty()) failure = message;
}

std::string Stream::takeFailure() { return std::exchange(failure, std::string()); }

}  // namespace cpu
