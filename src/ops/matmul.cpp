// Matrix products with PyTorch's meanings, and their gradients, without copies of transposed or repeated operands.
#include "core/matrix.h"
#include "ops/op.h"
#include "ops/promote.h"

namespace {

// x, or a copy if the product cannot read its matrices where they lie.
Tensor readable(const Tensor& x) {
  int r = x.shape.rank;
  bool fine = matrixLayout(x.shape[r - 2], x.shape[r - 1], x.stride[r - 2], x.stride[r - 1]).readable;
  return fine ? x : contiguous(x);
}

Tensor transposed(const Tensor& x) {
  Tensor t = x;
  int r = x.shape.rank;
  std::swap(t.shape[r - 2], t.shape[r - 1]);
  std::swap(t.stride[r - 2], t.stride[r - 1]);
  return t;
}

Tensor withAxis(const Tensor& x, int at) {
  Tensor t = x;
  t.shape = t.stride = Shape{};
  for (int i = 0; i <= x.shape.rank; i++) {
    if (i == at) t.shape.push(1), t.stride.push(1);
    if (i < x.shape.rank) t.shape.push(x.shape[i]), t.stride.push(x.stride[i]);
  }
  return t;
}

// A vector a is a row, a vector b a column.
Tensor asRows(const Tensor& a) { return a.shape.rank == 1 ? withAxis(a, 0) : a; }
Tensor asColumns(const Tensor& b) { return b.shape.rank == 1 ? withAxis(b, 1) : b; }

// The batch axes of x made those of `batch`; its last two axes stay.
Tensor inBatch(const Tensor& x, const Shape& batch, const char* op) {
  Shape full = batch;
  full.push(x.shape[x.shape.rank - 2]);
  full.push(x.shape[x.shape.rank - 1]);
  return broadcastTo(x, full, op);
}

Shape batchOf(const Tensor& x) {
  Shape s;
  for (int i = 0; i + 2 < x.shape.rank; i++) s.push(x.shape[i]);
  return s;
}

// y = alpha a @ b + beta y, where `batch` has the axes of all three.
void product(const Tensor& a, const Tensor& b, const Tensor& y, const Shape& batch, double beta, const char* op) {
  int64_t depth = a.shape[a.shape.rank - 1];
  for (int64_t d : {y.shape[y.shape.rank - 2], y.shape[y.shape.rank - 1], depth})
    check(d < (int64_t(1) << 31), op, ": an axis of ", d, " elements is too long for a matrix product");
  if (y.size() == 0) return;
  if (depth == 0 || batch.count() == 0) {
    if (beta == 0) kernels(y.device()).fill(y, 0);
    return;
  }
  kernels(y.device())
      .matmul(inBatch(readable(a), batch, op), inBatch(readable(b), batch, op), inBatch(y, batch, op), 1, beta);
}

void expectFloat(const Tensor& x, const char* op, const char* name) {
  check(isFloat(x.dtype), op, ": ", name, " is ", x.dtype, ", but should be a floating-point tensor");
}

struct Operands {
  Tensor a, b;  // of one dtype, at least two axes each
  bool rowVector, columnVector;
  Shape batch, result;
  Operands(const Tensor& left, const Tensor& right, const char* op) {
    sameDevice(left, right, op);
    expectFloat(left, op, "a");
    expectFloat(right, op, "b");
    check(left.shape.rank > 0 && right.shape.rank > 0, op, ": a is ", left.shape, " and b is ", right.shape,
          ", but both should have at least one axis");
    rowVector = left.shape.rank == 1, columnVector = right.shape.rank == 1;
    Dtype t = promote(left.dtype, right.dtype);
    a = asRows(left.dtype == t ? left : cast(left, t));
    b = asColumns(right.dtype == t ? right : cast(right, t));
    int64_t k = a.shape[a.shape.rank - 1], kb = b.shape[b.shape.rank - 2];
    check(k == kb, op, ": a is ", left.shape, " and b is ", right.shape, ", but the ", k,
          " columns of a should be the ", kb, " rows of b");
    batch = broadcastShapes(batchOf(a), batchOf(b), op);
    result = batch;
    if (!rowVector) result.push(a.shape[a.shape.rank - 2]);
    if (!columnVector) result.push(b.shape[b.shape.rank - 1]);
  }
  Tensor gradient(const Tensor& dy, const char* op) const {  // seen as a matrix again
    check(dy.shape == result, op, ": the gradient is ", dy.shape, " but the product is ", result);
    Tensor d = dy.dtype == a.dtype ? dy : cast(dy, a.dtype);
    if (columnVector) d = withAxis(d, d.shape.rank);
    return rowVector ? withAxis(d, d.shape.rank - 1) : d;
  }
};

using Two = std::tuple<Tensor, Tensor>;

}  // namespace

OP(Tensor, matmul, (const Tensor& a, const Tensor& b)) {
  Operands o(a, b, "matmul");
  Tensor y = empty(o.result, o.a.dtype, a.device());
  Tensor matrix = y;
  matrix.shape = o.batch;
  matrix.shape.push(o.a.shape[o.a.shape.rank - 2]);
  matrix.shape.push(o.b.shape[o.b.shape.rank - 1]);
  matrix.stride = matrix.shape.strides();
  product(o.a, o.b, matrix, o.batch, 0, "matmul");
  return y;
}

// da = dy @ b^T, summed over the batch axes that a lacks.
OP(Tensor, matmulGradA, (const Tensor& a, const Tensor& b, const Tensor& dy)) {
  Operands o(a, b, "matmul");
  Tensor da = empty(a.shape, a.dtype, a.device()), d = o.gradient(dy, "matmul");
  Tensor to = o.a.dtype == a.dtype ? da : empty(a.shape, o.a.dtype, a.device());
  product(d, transposed(o.b), asRows(to), o.batch, 0, "matmul");
  if (to.buffer != da.buffer) kernels(a.device()).copy(to, da);
  return da;
}

// db = a^T @ dy, summed over the batch axes that b lacks.
OP(Tensor, matmulGradB, (const Tensor& a, const Tensor& b, const Tensor& dy)) {
  Operands o(a, b, "matmul");
  Tensor db = empty(b.shape, b.dtype, b.device()), d = o.gradient(dy, "matmul");
  Tensor to = o.b.dtype == b.dtype ? db : empty(b.shape, o.b.dtype, b.device());
  product(transposed(o.a), d, asColumns(to), o.batch, 0, "matmul");
  if (to.buffer != db.buffer) kernels(b.device()).copy(to, db);
  return db;
}

static Shape linearShape(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& residual) {
  sameDevice(x, weight, "linear");
  expectFloat(x, "linear", "x");
  check(weight.shape.rank == 2 && x.shape.rank > 0 && weight.shape[1] == x.shape.last(), "linear: weight is ",
        weight.shape, " but should be [out, ", x.shape.last(), "] for x of ", x.shape);
  check(weight.dtype == x.dtype, "linear: weight is ", weight.dtype, " but x is ", x.dtype);
  Shape shape = x.shape;
  shape[shape.rank - 1] = weight.shape[0];
  if (bias) {
    sameDevice(x, *bias, "linear");
    expectFloat(*bias, "linear", "bias");
    check(bias->shape == Shape{weight.shape[0]}, "linear: bias is ", bias->shape, " but should be [", weight.shape[0],
          "]");
  }
  if (residual) {
    sameDevice(x, *residual, "linear");
    check(residual->shape == shape && residual->dtype == x.dtype, "linear: residual is ", residual->shape, " of ",
          residual->dtype, " but should be ", shape, " of ", x.dtype);
  }
  return shape;
}

static UnaryOp activationOf(const std::string& name) {
  const std::pair<const char*, UnaryOp> all[] = {{"relu", UnaryOp::relu},
                                                 {"relu2", UnaryOp::relu2},
                                                 {"gelu", UnaryOp::gelu},
                                                 {"geluTanh", UnaryOp::geluTanh},
                                                 {"silu", UnaryOp::silu}};
  for (auto& [known, op] : all)
    if (name == known) return op;
  throw Error("linear: activation is " + name + ", but should be relu, relu2, gelu, geluTanh or silu", "ERR_INVALID");
}

// The product and what follows it, in one kernel. x @ weight^T of no depth is 0, as elsewhere.
static void linearInto(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       const std::optional<Tensor>& residual, Epilogue then, const Tensor& y) {
  if (y.size() == 0) return;
  Tensor rows = rowsOf(x), columns = transposed(weight);
  if (x.shape.last() == 0) {  // one column of zeros does not change the sum
    rows = empty(Shape{y.rows(), 1}, x.dtype, x.device());
    columns = empty(Shape{1, y.cols()}, x.dtype, x.device());
    kernels(x.device()).fill(rows, 0);
    kernels(x.device()).fill(columns, 0);
  }
  for (int64_t d : {y.rows(), y.cols(), rows.cols()})
    check(d < (int64_t(1) << 31), "linear: an axis of ", d, " elements is too long for a matrix product");
  Tensor vector, added;  // alive until the kernel has been queued
  if (bias) then.bias = vector = cast(*bias, computeDtype(x.dtype));
  if (residual) then.residual = added = rowsOf(contiguous(*residual));
  kernels(x.device()).linear(readable(rows), readable(columns), then, rowsOf(y));
}

// y (..., out) = x (..., in) @ weight (out, in)^T + bias (out) + residual (..., out).
OP(Tensor, linear,
   (const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const std::optional<Tensor>& residual)) {
  Tensor y = empty(linearShape(x, weight, bias, residual), x.dtype, x.device());
  if (bias || residual)
    linearInto(x, weight, bias, residual, {}, y);
  else
    product(rowsOf(x), transposed(weight), rowsOf(y), Shape{}, 0, "linear");
  return y;
}

// y = activation(x @ weight^T + bias) + residual, and what the activation was of, for its gradient; without `keep` that
// is not stored, and y stands in its place.
OP(Two, linearActivation,
   (const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const std::optional<Tensor>& residual,
    const std::string& activation, bool keep)) {
  Epilogue then;
  then.activates = true;
  then.activation = activationOf(activation);
  Tensor y = empty(linearShape(x, weight, bias, residual), x.dtype, x.device());
  Tensor pre = keep ? emptyLike(y) : y;
  if (keep && y.size()) then.pre = rowsOf(pre);
  linearInto(x, weight, bias, residual, then, y);
  return {y, pre};
}

// dx = dy @ weight.
OP(Tensor, linearGradX, (const Tensor& dy, const Tensor& weight)) {
  Shape shape = dy.shape;
  shape[shape.rank - 1] = weight.shape[1];
  Tensor dx = empty(shape, weight.dtype, weight.device());
  product(rowsOf(dy.dtype == weight.dtype ? dy : cast(dy, weight.dtype)), weight, rowsOf(dx), Shape{}, 0, "linear");
  return dx;
}

// dweight = dy^T @ x; `sum`, if given, is a gradient that it is added to, in place, and returned: of the dtype of x, or
// of the one that x is computed in.
OP(Tensor, linearGradWeight, (const Tensor& x, const Tensor& dy, const std::optional<Tensor>& sum)) {
  Shape shape{dy.cols(), x.cols()};
  if (sum)
    check(sum->shape == shape && (sum->dtype == x.dtype || sum->dtype == computeDtype(x.dtype)) && sum->contiguous(),
          "linear: the gradient of the weight is ", sum->shape, " of ", sum->dtype, " but should be ", shape, " of ",
          x.dtype, " or ", computeDtype(x.dtype));
  Tensor dw = sum ? *sum : empty(shape, x.dtype, x.device());
  product(transposed(rowsOf(dy.dtype == x.dtype ? dy : cast(dy, x.dtype))), rowsOf(x), dw, Shape{}, sum ? 1 : 0,
          "linear");
  return dw;
}
