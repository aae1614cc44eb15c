// While the backend is being written: a row without a kernel throws.
#include "core/check.h"
#include "kernels.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"
namespace cuda {
#define K(name, params) \
  __attribute__((weak)) void name params { throw Error("cuda: " #name " is not written yet", "ERR_DEVICE"); }
KERNELS(K)
#undef K
}  // namespace cuda
