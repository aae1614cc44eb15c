// Moments of the CPU's stream: what a benchmark measures between.
#include <chrono>
#include <memory>

#include "cpu/stream.h"
#include "kernels.h"

struct Mark {
  std::chrono::steady_clock::time_point when;
};

namespace cpu {

Mark* mark() {
  auto* m = new Mark;
  stream().enqueue([m] { m->when = std::chrono::steady_clock::now(); });
  return m;
}

double elapsed(Mark* from, Mark* to) {
  std::unique_ptr<Mark> a(from), b(to);
  stream().synchronize();
  return std::chrono::duration<double>(b->when - a->when).count();
}

}  // namespace cpu
