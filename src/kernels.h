#pragma once
// The contract between ops and backends: one row a kernel. Every backend defines each row in its own namespace; a row
// left out is a link error. The CPU backend is built once per instruction set, so it has a namespace for each.
//
// What every kernel may rely on (src/ops sees to it):
// - Elementwise and reduction rows take any strides; inputs already have the shape of y (stride 0 where broadcast).
// - All other rows take contiguous views, unless the row says otherwise.
// - Small parameters (norm weights, coefficients, biases), statistics and their gradients are in the compute type of x:
//   float32 for float32, bfloat16 and float16; float64 for float64. Index tensors are int32, unless the row says
//   otherwise.
// - Outputs never overlap inputs, unless the row says "in place".
// - An optional view that was left out has given() == false.
// Results must not depend on the number of threads: split work into fixed chunks, join partial sums in a fixed order.
#include <string>
#include <vector>

#include "core/view.h"
#include "math/elementwise.h"
#include "math/philox.h"
#include "math/reduce.h"

// y = f(x)
#define ELEMENTWISE_KERNELS(K)                                              \
  K(copy, (View x, View y)) /* any dtypes, any strides on both sides */     \
  K(fill, (View y, double value))                                           \
  K(arange, (View y, double start, double step))                            \
  K(accumulate, (View x, View y)) /* y += x in place */                     \
  K(unary, (UnaryOp op, View x, View y))                                    \
  K(unaryGrad, (UnaryOp op, View x, View dy, View dx))                      \
  K(binary, (BinaryOp op, View a, View b, View y))                          \
  K(compare, (CompareOp op, View a, View b, View y))                        \
  /* the scalar is the second operand, or the first */                      \
  K(binaryScalar, (BinaryOp op, View x, double value, bool first, View y))  \
  K(compareScalar, (CompareOp op, View x, double value, View y))            \
  /* the gradient of a, or of b */                                          \
  K(binaryGrad, (BinaryOp op, bool first, View a, View b, View dy, View d)) \
  K(where, (View condition, View a, View b, View y)) /* condition: bool */  \
  K(clamp, (View x, double low, double high, View y))                       \
  K(clampGrad, (View x, View dy, double low, double high, View dx))

// y has the rank of x, with length 1 on the reduced axes; y of a sum of integers is int64.
#define REDUCE_KERNELS(K)                  \
  K(reduce, (ReduceOp op, View x, View y)) \
  K(argmax, (View x, View y)) /* of each row, contiguous; y: int32 */

// A row at a time. residual, weight and bias may be left out, as may any gradient that is not wanted.
// sum = x + residual, y = sum * rstd * weight, or (sum - mean) * rstd * weight + bias; without a residual x itself is
// normalised. In the gradients x is what was normalised, and dsum, what else arrives there, is added to dx.
#define NORM_KERNELS(K)                                                                                             \
  K(rmsNorm, (View x, View residual, View weight, double eps, View sum, View y, View rstd))                         \
  K(rmsNormGrad, (View x, View weight, View rstd, View dy, View dsum, View dx, View dweight))                       \
  K(layerNorm, (View x, View residual, View weight, View bias, double eps, View sum, View y, View mean, View rstd)) \
  K(layerNormGrad, (View x, View weight, View mean, View rstd, View dy, View dsum, View dx, View dweight, View dbias))

// q, y (B, H, T, D); k, v (B, K, S, D), K divides H: one dtype (on the CPU float32 or float64), the elements of a row
// adjacent, else any strides. lse (B, H, T), in the compute type. Causal: query t sees the keys up to S - T + t. dk and
// dv are sums over the heads that share them.
#define ATTENTION_KERNELS(K)                                                          \
  K(attention, (View q, View k, View v, double scale, bool causal, View y, View lse)) \
  K(attentionGrad,                                                                    \
    (View q, View k, View v, View y, View lse, View dy, double scale, bool causal, View dq, View dk, View dv))

// Over the last axis; logsumexp has one y for each row.
#define SOFTMAX_KERNELS(K)                      \
  K(softmax, (View x, View y))                  \
  K(softmaxGrad, (View y, View dy, View dx))    \
  K(logSoftmax, (View x, View y))               \
  K(logSoftmaxGrad, (View y, View dy, View dx)) \
  K(logsumexp, (View x, View y))                \
  K(logsumexpGrad, (View x, View y, View dy, View dx))

// The mean over the rows whose target is not `ignore`, 0 if there is none; a target out of range makes it NaN.
// targets: any integers. stats (rows, 2): the largest logit, and 1 / sum exp(logit - largest). dlogits may be the
// logits: in place.
// linearCrossEntropy: of the logits x @ weight^T, some rows at a time in `logits` (rows at a time, classes), which
// their gradients overwrite; dx and dweight, where given, are the gradients of the loss. float32 or float64; on cuda x
// and weight may also be bfloat16, all else then float32, and the rows of logits may lie apart.
#define LOSS_KERNELS(K)                                                                               \
  K(crossEntropy, (View logits, View targets, int64_t ignore, View loss, View stats))                 \
  K(crossEntropyGrad, (View logits, View targets, int64_t ignore, View stats, View dy, View dlogits)) \
  K(linearCrossEntropy,                                                                               \
    (View x, View weight, View targets, int64_t ignore, View logits, View loss, View dx, View dweight))

// x and y (.., T, D): the elements of a row are adjacent, else any strides. table (positions, D): cosines, then sines.
#define ROPE_KERNELS(K)                                               \
  K(rope, (View x, View table, int64_t offset, bool inverse, View y)) \
  K(ropeTable, (double theta, View table))

// ids: any integers; one out of range gives a row of NaN. dweight is in the compute type; add: to what is there.
#define EMBEDDING_KERNELS(K)                    \
  K(embedding, (View ids, View weight, View y)) \
  K(embeddingGrad, (View ids, View dy, View dweight, bool add))

// Flat buffers. sum (1), sums, state and hyper are float64. state: updates made, clip coefficient, whether all is
// finite, global norm; hyper: lr, beta1, beta2, eps, weight decay. clipCoefficient makes the state from the sums of the
// parts (maxNorm 0: no clipping). If the norm or the loss is not finite, countUpdate does not count and adamw touches
// nothing. adamw: in place, float32 or float64; half, if given, receives p in 16 bits.
#define OPTIM_KERNELS(K)                                                 \
  K(sumSquares, (View x, View sum))                                      \
  K(clipCoefficient, (View sums, View loss, double maxNorm, View state)) \
  K(countUpdate, (View state))                                           \
  K(adamw, (View p, View g, View m, View v, View half, View hyper, View state))

// poly: weight (order), highest power first, and bias (1); with offsets (E + 1) the rows offsets[e] to offsets[e + 1]
// use row e of weight (E, order) and bias (E). swiglu: y = silu(gate) up, contiguous.
#define POLY_KERNELS(K)                                                                                          \
  K(swiglu, (View gate, View up, View y))                                                                        \
  K(swigluGrad, (View gate, View up, View dy, View dgate, View dup))                                             \
  K(polyRelu, (View x, View weight, View bias, View offsets, View y))                                            \
  K(polyReluGrad, (View x, View weight, View offsets, View dy, View dx, View dweight, View dbias))               \
  K(polyNorm, (View x, View weight, View bias, View offsets, double eps, View y))                                \
  K(polyNormGrad, (View x, View weight, View offsets, double eps, View dy, View dx, View dweight, View dbias))   \
  K(polyNormGlu, (View gate, View up, View weight, View bias, View offsets, double eps, View y))                 \
  K(polyNormGluGrad, (View gate, View up, View weight, View bias, View offsets, double eps, View dy, View dgate, \
                      View dup, View dweight, View dbias))

// Random numbers of one call. state: int64 [2], {seed, calls before}. Contiguous views.
// a, b: uniform in [a, b); normal of mean a and deviation b; truncated: deviation a, cut at b deviations; integers from
// a to below b. dropout is its own gradient.
#define RANDOM_KERNELS(K)                                                            \
  K(random, (RandomKind kind, View state, int64_t call, double a, double b, View y)) \
  K(dropout, (View x, View state, int64_t call, double p, View y))

// Indices are contiguous, of any integer type; one out of range is a failure. gather, scatterAdd, cumsum: along the
// last axis of any strides; gather's x and scatterAdd's dx (in the compute type, added to) have the shape of index
// except on it, and `inner` elements of the caller's index lie behind the axis. indexSelect, indexAdd: x and dx (A, N,
// B), y and dy (A, ids, B). oneHot: y (.., classes). sort: the first of each row in order, indices int32; contiguous.
#define GATHER_KERNELS(K)                                \
  K(gather, (View x, View index, int64_t inner, View y)) \
  K(scatterAdd, (View index, View dy, View dx))          \
  K(indexSelect, (View x, View ids, View y))             \
  K(indexAdd, (View ids, View dy, View dx))              \
  K(oneHot, (View ids, View y))                          \
  K(cumsum, (View x, bool reverse, View y))              \
  K(sort, (View x, bool descending, View values, View indices))

// What linear does to a product before it stores it; each part may be left out. bias (n): in the compute type; pre
// (what comes before the activation, to be stored) and residual (added last): as y.
struct Epilogue {
  View bias, residual, pre;
  bool activates = false;
  UnaryOp activation = UnaryOp::relu;  // or relu2, gelu, geluTanh, silu
};

// matmul: y (..., m, n) = alpha a (..., m, k) @ b (..., k, n) + beta y, all of one rank, none empty; of one dtype, but
// y may be float32 where a and b have 16 bits: sums are rounded once. The last two axes of a and b satisfy matrixLayout
// (core/matrix.h), those of y are rows in order. Batch axes have the same lengths in all three: stride 0 in a or b
// repeats that operand, stride 0 in y sums over the axis. linear: y (m, n) = activation(a (m, k) @ b (k, n) + bias) +
// residual, y contiguous; a and b as in matmul.
#define MATMUL_KERNELS(K)                                        \
  K(matmul, (View a, View b, View y, double alpha, double beta)) \
  K(linear, (View a, View b, Epilogue then, View y))

// n tokens with k experts each, E experts. logits, weights and statistics are float32 or float64; order (n * k) and
// offsets (E + 1) as ops/moe.cpp says. Rows of the grouped products lie expert by expert: w (E, in, out) as matmul's b,
// dw (E, out, in), which may be float32 where x has 16 bits; add: to what is there. combine's weights, and gradients
// that did not arrive, may be left out. gatherRows: any dtype.
#define MOE_KERNELS(K)                                                                                             \
  K(route, (View logits, View weights, View experts, View lse, View shares, View aux, View z, bool normalise))     \
  K(routeGrad, (View logits, View experts, View lse, View shares, View dweights, View daux, View dz, View dlogits, \
                bool normalise))                                                                                   \
  K(groupByExpert, (View experts, View order, View offsets))                                                       \
  K(gatherRows, (View x, View order, View y))                                                                      \
  K(combine, (View x, View order, View weights, View y))                                                           \
  K(combineGrad, (View x, View order, View weights, View dy, View dx, View dweights))                              \
  K(groupedMatmul, (View x, View w, View offsets, View y))                                                         \
  K(groupedMatmulGradWeight, (View x, View dy, View offsets, View dw, bool add))

// A feed-forward layer around a polynomial activation: h = x @ up, y = act(h), out = y @ down, where the products may
// do the activation's work on their way. x (rows, in); up (in, H) and down (H, out) as matmul's b, or one for each of E
// groups of rows, with offsets (E + 1), as groupedMatmul's w; polyReluDownGrad takes down turned: (out, H). weight,
// bias as poly's: of one set, or of a set a group. h, y, dh (rows, H). norms (rows, order + 1), in the compute type:
// what polyNormUp leaves for polyNormDown of the same backend, if it wants it. polyReluUp's h and polyNormDown's y may
// be left out.
#define MLP_KERNELS(K)                                                                                              \
  K(polyReluUp, (View x, View up, View offsets, View weight, View bias, View h, View y))                            \
  K(polyReluDownGrad, (View dout, View down, View offsets, View weight, View h, View dh, View dweight, View dbias)) \
  K(polyNormUp, (View x, View up, View offsets, double eps, View h, View norms))                                    \
  K(polyNormDown, (View h, View norms, View weight, View bias, View down, View offsets, double eps, View y, View out))

// clang-format off
#define KERNELS(K) \
  ELEMENTWISE_KERNELS(K) \
  REDUCE_KERNELS(K) \
  MATMUL_KERNELS(K) \
  MOE_KERNELS(K) \
  NORM_KERNELS(K) \
  SOFTMAX_KERNELS(K) \
  LOSS_KERNELS(K) \
  ROPE_KERNELS(K) \
  ATTENTION_KERNELS(K) \
  EMBEDDING_KERNELS(K) \
  OPTIM_KERNELS(K) \
  RANDOM_KERNELS(K) \
  GATHER_KERNELS(K) \
  POLY_KERNELS(K) \
  MLP_KERNELS(K)
// clang-format on

// Memory and completion, called at once on the caller's thread. Memory is ordered by the stream: a released block may
// serve the next allocation although queued kernels still use it, because whatever uses it next is queued behind them.
// What is queued between beginCapture and endCapture is not done but kept as a graph, which replay queues as a whole;
// what it allocates lies in memory of its own, which is given back when the graph and every tensor in it are gone.
#define BACKEND(K)                                                                                                   \
  K(void*, allocate, (size_t bytes)) /* throws OutOfMemory */                                                        \
  K(void, release, (void* data, size_t bytes))                                                                       \
  K(void, trim, ())                                     /* gives cached blocks back to the system */                 \
  K(void, upload, (const void* host, View to))          /* contiguous; the host memory may change after the call */  \
  K(void, download, (View from, void* host, Done done)) /* contiguous; done is called when host is filled */         \
  K(void, beginCapture, ())                                                                                          \
  K(Graph*, endCapture, (bool keep)) /* null if it is not to be kept */                                              \
  K(void, replay, (Graph * graph))                                                                                   \
  K(void, destroyGraph, (Graph * graph))                                                                             \
  K(bool, capturing, ())                                                                                             \
  K(Mark*, mark, ())                           /* a moment of the stream: when all that was queued before is done */ \
  K(double, elapsed, (Mark * from, Mark * to)) /* seconds between them; waits for both and frees them */             \
  K(void, closeStream, ()) /* of the calling thread, whose JavaScript environment ends: drains it */                 \
  K(void, closeMemory, ()) /* then, when its tensors are gone, what is left of it */

// Called once, on a thread of the stream, with the failure of an earlier kernel and its code, or "".
struct Done {
  void (*call)(void* context, const char* failure, const char* code);
  void* context;
};
constexpr const char* deviceDataCode = "ERR_DEVICE_DATA";  // a value that only the kernel saw
struct Graph;
struct Mark;

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

// Those that this build has.
const std::vector<const Backend*>& backends();

// What CUDA finds: GPUs that can be used, or the reason why none can.
struct Gpu {
  std::string name;
  size_t memory;   // bytes
  int capability;  // 80, 89, 90 ...
};
struct CudaReport {
  std::vector<Gpu> gpus;
  std::string reason;
  int driver = 0;  // the newest CUDA that the driver knows, as 13000; 0: no driver
};
CudaReport cudaReport();
// Bytes that tensors may still take of the GPU's memory, what other processes hold and POLYGRAD_MEMORY_LIMIT
// considered.
size_t cudaAvailableMemory();

// Which instruction set the CPU's table was chosen for: "avx512" or "avx2".
const char* cpuInstructionSet();
