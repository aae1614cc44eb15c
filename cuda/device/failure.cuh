#pragma once
// How a kernel reports a value that only it can see, such as an id out of range; the caller's next wait throws it.
//   host:    launch("embedding", embeddingKernel<T>, grid, ids, .., failure(sentence::vocabulary, "embedding"));
//   kernel:  __global__ void embeddingKernel(View ids, .., Failure failure) {
//              if (id < 0 || id >= limit) report(failure, position, id, limit);  // and go on, in bounds
// Of all that is reported between two waits the first launch's smallest position is kept. Any thread may call it, in
// any branch; it costs nothing while all is well. Each launch takes a failure(..) of its own; graphs may replay it.
#include <cuda_runtime.h>

#include <cstdint>

#include "core/sentences.h"

namespace cuda {

// On the device, one a stream; zeros: nothing happened.
struct FailureRecord {
  unsigned lock, launch, sentence;  // sentence: 1 + its number
  int64_t at, value, limit;
};

struct Failure {
  FailureRecord* record;
  unsigned launch, sentence;
};

// Of the calling thread's stream. Both strings are kept by address: literals, or sentence::...
Failure failure(const char* sentence, const char* op);

__device__ inline void report(const Failure& failure, int64_t at, int64_t value, int64_t limit) {
  volatile FailureRecord* kept = failure.record;
  auto better = [&] { return !kept->sentence || (kept->launch == failure.launch && at < kept->at); };
  // The sentence is written last, so a record that is being filled in does not look complete here.
  for (bool waiting = better(); waiting;) {
    if (atomicCAS(&failure.record->lock, 0u, 1u)) continue;
    __threadfence();
    if (better()) {
      kept->launch = failure.launch;
      kept->at = at;
      kept->value = value;
      kept->limit = limit;
      __threadfence();
      kept->sentence = failure.sentence;
    }
    __threadfence();
    atomicExch(&failure.record->lock, 0u);
    waiting = false;
  }
}

}  // namespace cuda
