#pragma once
// The CPU's stream: a queue that one thread works off in order, so that an op returns before its kernel has run.
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace cpu {

class Stream {
 public:
  Stream();
  ~Stream();  // ends the task that runs, drops the rest

  // Blocks while the queue is full: memory is bounded however far the caller runs ahead.
  template <class Fn>
  void enqueue(Fn&& fn) {
    push(new Job<std::decay_t<Fn>>(std::forward<Fn>(fn)));
  }
  void synchronize();  // waits until all that was queued before has run

  void fail(const std::string& message);  // on the stream's thread: remember the first failure
  std::string takeFailure();              // on the stream's thread: "" if all went well; forgets it

 private:
  struct Task {
    virtual void run() = 0;
    virtual ~Task() = default;
  };
  template <class Fn>
  struct Job final : Task {
    explicit Job(Fn fn) : fn(std::move(fn)) {}
    void run() override { fn(); }
    Fn fn;
  };

  static constexpr size_t capacity = 8192;
  std::unique_ptr<Task> queue[capacity];
  std::atomic<uint64_t> head{0}, tail{0};  // pushed so far; finished so far
  std::atomic<bool> sleeping{false}, full{false}, stopping{false};
  std::mutex mutex;
  std::condition_variable wake, space;
  std::string failure;
  std::thread thread;

  void push(Task* task);
  void loop();
};

Stream& stream();         // of the calling thread; made at first use
void closeStream();       // of the calling thread, when its JavaScript environment ends
void closeMemory();       // the blocks cached for it, once it is closed
Stream* runningStream();  // the one whose task this thread runs, or null

// Reports what only a kernel can see (an index out of range). Call it on the kernel's own thread, outside parallelFor.
// The message is thrown at the caller's next wait; the stream goes on.
void fail(const std::string& message);

}  // namespace cpu
