// Moments of a stream: what a benchmark measures between.
#include <memory>

#include "kernels.h"
#include "stream.h"

struct Mark {
  cudaEvent_t event = nullptr;
  ~Mark() { cudaEventDestroy(event); }
};

namespace cuda {

Mark* mark() {
  auto m = std::make_unique<Mark>();
  checkCuda(cudaEventCreateWithFlags(&m->event, cudaEventDefault), "mark");
  checkCuda(cudaEventRecord(m->event, stream()), "mark");
  return m.release();
}

double elapsed(Mark* from, Mark* to) {
  std::unique_ptr<Mark> a(from), b(to);
  checkCuda(cudaEventSynchronize(a->event), "elapsed");
  checkCuda(cudaEventSynchronize(b->event), "elapsed");
  float milliseconds = 0;
  checkCuda(cudaEventElapsedTime(&milliseconds, a->event, b->event), "elapsed");
  return milliseconds / 1e3;
}

}  // namespace cuda
