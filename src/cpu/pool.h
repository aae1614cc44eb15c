#pragma once
// One thread pool for the process. Work is split into chunks that do not depend on the number of threads.
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace cpu {

// Runs body(context, chunk) for every chunk in [0, chunks), on the pool's threads and the caller's. Returns when all
// are done. If another stream holds the pool, or the caller is itself inside run(), the caller does all chunks.
void run(int64_t chunks, void (*body)(void* context, int64_t chunk), void* context);

int threads();
void setThreads(int count);  // at least 1; takes effect at the next run()
int thisThread();            // 0 .. threads() - 1 inside a chunk: for scratch memory

// Scratch memory of this thread, at least `bytes`, 64-byte aligned, valid until the thread's next call with the same
// slot.
void* scratch(int slot, size_t bytes);

// fn(chunk) for every chunk.
template <class Fn>
inline __attribute__((always_inline)) void parallelChunks(int64_t chunks, Fn&& fn) {
  if (chunks == 1) return fn((int64_t)0);
  if (chunks <= 0) return;
  struct Local {
    static void body(void* context, int64_t chunk) { (*(std::remove_reference_t<Fn>*)context)(chunk); }
  };
  run(chunks, &Local::body, (void*)&fn);
}

// fn(begin, end) over [0, n) in chunks of `grain` (the last one shorter). Choose the grain from the work a row takes:
// about 32k floats of traffic, or 50 microseconds, a chunk.
template <class Fn>
inline __attribute__((always_inline)) void parallelFor(int64_t n, int64_t grain, Fn&& fn) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  auto chunk = [&](int64_t i) { fn(i * grain, (i + 1) * grain < n ? (i + 1) * grain : n); };
  parallelChunks((n + grain - 1) / grain, chunk);
}

// Rows a chunk when a row has `cols` elements.
inline __attribute__((always_inline)) int64_t rowGrain(int64_t cols, int64_t elements = 32768) {
  return cols >= elements ? 1 : elements / (cols < 1 ? 1 : cols);
}

}  // namespace cpu
