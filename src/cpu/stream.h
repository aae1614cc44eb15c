#pragma once
// The CPU's stream: a queue that one thread works off in order, so that an op returns before its kernel has run.
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace cpu {

class Stream {
 public:
  Stream();
  ~Stream();  // ends the task that runs, drops the rest

  // Blocks while the queue is full: memory is bounded however far the caller runs ahead. The task lies in the queue
  // itself if it fits: the allocator would pass its memory back and forth between two threads.
  template <class Fn>
  void enqueue(Fn&& fn) {
    using F = std::decay_t<Fn>;
    if constexpr (sizeof(F) <= Slot::room && alignof(F) <= alignof(std::max_align_t)) {
      Slot& slot = claim();
      new (slot.task) F(std::forward<Fn>(fn));
      slot.end = [](void* task, bool run) {
        F& f = *(F*)task;
        struct Destroy {
          F& f;
          ~Destroy() { f.~F(); }
        } destroy{f};
        if (run) f();
      };
      publish();
    } else {
      enqueue([task = std::make_unique<F>(std::forward<Fn>(fn))] { (*task)(); });
    }
  }
  void synchronize();  // waits until all that was queued before has run

  void fail(const std::string& message);  // on the stream's thread: remember the first failure
  std::string takeFailure();              // on the stream's thread: "" if all went well; forgets it

 private:
  struct Slot {
    static constexpr size_t room = 1008;
    void (*end)(void* task, bool run);  // runs it or not, and destroys it
    alignas(std::max_align_t) unsigned char task[room];
  };

  static constexpr size_t capacity = 8192;
  std::unique_ptr<Slot[]> queue{new Slot[capacity]};  // not touched until used
  std::atomic<uint64_t> head{0}, tail{0};             // pushed so far; finished so far
  std::atomic<bool> sleeping{false}, full{false}, stopping{false};
  std::mutex mutex;
  std::condition_variable wake, space;
  std::string failure;
  std::thread thread;

  Slot& claim();
  void publish();
  void loop();
};

Stream& stream();         // of the calling thread; made at first use
Stream* runningStream();  // the one whose task this thread runs, or null

// Reports what only a kernel can see (an index out of range). Call it on the kernel's own thread, outside parallelFor.
// The message is thrown at the caller's next wait; the stream goes on.
void fail(const std::string& message);

}  // namespace cpu
