// For tests: a matrix product of cuda/ with all that a row of the contract does not ask for yet.
#include "gemm.h"
#include "ops/op.h"

namespace {

cuda::Operand operand(const Tensor& x) {
  const int r = x.shape.rank;
  const MatrixLayout l = matrixLayout(x.shape[r - 2], x.shape[r - 1], x.stride[r - 2], x.stride[r - 1]);
  check(l.readable, "testProduct: an operand cannot be read where it lies");
  return {View(x).data, l.step, l.transposed};
}
const void* dataOf(const std::optional<Tensor>& x) { return x ? View(*x).data : nullptr; }
int64_t strideOf(const Tensor& x, int axis) { return x.shape.rank > 2 && x.shape[axis] > 1 ? x.stride[axis] : 0; }

}  // namespace

// The number of an elementwise function.
OP(int64_t, testUnary, (const std::string& name)) {
  for (auto [known, op] : {std::pair{"relu", UnaryOp::relu},
                           {"relu2", UnaryOp::relu2},
                           {"silu", UnaryOp::silu},
                           {"gelu", UnaryOp::gelu},
                           {"geluTanh", UnaryOp::geluTanh}})
    if (name == known) return (int64_t)op;
  throw Error("testUnary: there is no " + name, "ERR_INVALID");
}

// In place: y (m, n) or (batch, m, n) of a (.., m, k) and b (.., k, n); a and b may have as many batch axes as a has,
// those that y lacks are summed. grouped: 1 groups of rows, 2 groups of the depth, whose y is (groups, m, n). parts >
// 1: y is (parts, m, n). activation: -1 none. cols: of a tile. False: the kernel for sm_90 does not make this product.
OP(bool, testProduct,
   (const Tensor& a, const Tensor& b, const Tensor& y, double alpha, double beta, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& pre, const std::optional<Tensor>& residual, int64_t activation, int64_t parts,
    int64_t grouped, const std::optional<Tensor>& offsets, int64_t cols)) {
  cuda::Product p;
  p.type = a.dtype, p.out = y.dtype;
  const int r = a.shape.rank;
  p.m = (int)y.shape[y.shape.rank - 2], p.n = (int)y.shape[y.shape.rank - 1], p.k = (int)a.shape[r - 1];
  p.a = operand(a), p.b = operand(b);
  p.y = View(y).data, p.yStep = y.stride[y.shape.rank - 2];
  p.alpha = alpha, p.beta = beta;
  p.bias = dataOf(bias), p.pre = const_cast<void*>(dataOf(pre)), p.residual = dataOf(residual);
  p.activates = activation >= 0;
  if (p.activates) p.activation = (UnaryOp)activation;
  p.parts = (int)parts;
  if (parts > 1) p.partsStride = y.stride[0];
  if (grouped) {
    p.grouped = grouped == 1 ? cuda::Grouped::rows : cuda::Grouped::depth;
    p.offsets = View(*offsets).as<int32_t>();
    p.groups = (int)offsets->shape[0] - 1;
    p.groupStride = grouped == 1 ? b.stride[0] : y.stride[0];
    p.failure = cuda::failure(sentence::offsetsOfRows, "groupedMatmul");
  } else {
    for (int i = r - 3; i >= 0; i--) {
      const bool kept = y.shape.rank > 2 && parts == 1 && i == 0;
      p.axes[kept ? 0 : p.kept + p.summed] = {(int)a.shape[i], strideOf(a, i), strideOf(b, i), kept ? y.stride[0] : 0};
      (kept ? p.kept : p.summed)++;
      (kept ? p.batch : p.sums) *= a.shape[i];
    }
  }
  return cuda::gemmSm90(p, (int)cols);
}
