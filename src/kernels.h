#pragma once
// The contract between ops and backends: one row a kernel. Every backend defines each row in its own namespace; a row
// left out is a link error. The CPU backend is built once per instruction set, so it has a namespace for each.
//
// What every kernel may rely on (src/ops sees to it):
// - Elementwise and reduction rows take any strides; inputs already have the shape of y (stride 0 where broadcast).
// - All other rows take contiguous views, unless the row says otherwise.
// - Small parameters (norm weights, coefficients, biases), statistics and their gradients are in the compute type of x:
//   float32 for float32, bfloat16 and float16; float64 for float64. Index tensors are int32.
// - Outputs never overlap inputs, unless the row says "in place".
// - An optional view that was left out has given() == false.
// Results must not depend on the number of threads: split work into fixed chunks, join partial sums in a fixed order.
#include "core/view.h"
#include "math/elementwise.h"
#include "math/reduce.h"

#define KERNELS(K)                                                                                          \
  /* elementwise: y = f(x) */                                                                               \
  K(copy, (View x, View y)) /* any dtypes, any strides on both sides */                                     \
  K(fill, (View y, double value))                                                                           \
  K(arange, (View y, double start, double step))                                                            \
  K(accumulate, (View x, View y)) /* y += x in place */                                                     \
  K(unary, (UnaryOp op, View x, View y))                                                                    \
  K(unaryGrad, (UnaryOp op, View x, View dy, View dx))                                                      \
  K(binary, (BinaryOp op, View a, View b, View y))                                                          \
  K(compare, (CompareOp op, View a, View b, View y))                                                        \
  /* the scalar is the second operand, or the first */                                                      \
  K(binaryScalar, (BinaryOp op, View x, double value, bool first, View y))                                  \
  K(compareScalar, (CompareOp op, View x, double value, View y))                                            \
  /* the gradient of a, or of b */                                                                          \
  K(binaryGrad, (BinaryOp op, bool first, View a, View b, View dy, View d))                                 \
  K(where, (View condition, View a, View b, View y)) /* condition: bool */                                  \
  K(clamp, (View x, double low, double high, View y))                                                       \
  K(clampGrad, (View x, View dy, double low, double high, View dx))                                         \
  /* reductions. y has the rank of x, with length 1 on the reduced axes; y of a sum of integers is int64 */ \
  K(reduce, (ReduceOp op, View x, View y))                                                                  \
  K(argmax, (View x, View y)) /* of each row, contiguous; y: int32 */

// Memory and completion, called at once on the caller's thread. Memory is ordered by the stream: a released block may
// serve the next allocation although queued kernels still use it, because whatever uses it next is queued behind them.
#define BACKEND(K)                                                                                                  \
  K(void*, allocate, (size_t bytes)) /* throws OutOfMemory */                                                       \
  K(void, release, (void* data, size_t bytes))                                                                      \
  K(void, trim, ())                                     /* gives cached blocks back to the system */                \
  K(void, upload, (const void* host, View to))          /* contiguous; the host memory may change after the call */ \
  K(void, download, (View from, void* host, Done done)) /* contiguous; done is called when host is filled */

// Called once, on a thread of the stream, with the failure of an earlier kernel, or "".
struct Done {
  void (*call)(void* context, const char* failure);
  void* context;
};

#define K(name, params) void name params;
#pragma GCC visibility push(hidden)  // a missing definition then fails the link, not the first require()
namespace cpu::avx2 {
KERNELS(K)
}
namespace cpu::avx512 {
KERNELS(K)
}
namespace cuda {
KERNELS(K)
}
#undef K
#define K(result, name, params) result name params;
namespace cpu {
BACKEND(K)
}
namespace cuda {
BACKEND(K)
}
#pragma GCC visibility pop
#undef K

#define K(name, params) void(*name) params;
struct Kernels {
  KERNELS(K)
};
#undef K
#define K(result, name, params) result(*name) params;
struct Backend {
  BACKEND(K)
};
#undef K

// The tables of a device. Calling a kernel's row returns at once: the work is queued on the stream of the calling
// thread. Both throw if the device is not there.
const Kernels& kernels(Device device);
const Backend& backend(Device device);

// Which instruction set the CPU's table was chosen for: "avx512" or "avx2".
const char* cpuInstructionSet();
