#pragma once
// Matrix products on the device: what one is, and which kernel makes it.
#include <cstdint>

#include "core/matrix.h"
#include "core/view.h"
#include "device/failure.cuh"
#include "math/elementwise.h"

namespace cuda {

// A matrix as it lies in memory; `transposed`: its columns in order (see MatrixLayout).
struct Operand {
  const void* data = nullptr;
  int64_t step = 1;  // elements from one stored row (or column) to the next
  bool transposed = false;
};

struct BatchAxis {
  int length;
  int64_t a, b, y;  // strides in elements
};

// Groups of rows of a, or of the depth, each with its own matrix b, or its own y. Where they begin only the device
// knows.
enum class Grouped { no, rows, depth };

// What a polynomial activation (math/poly.h) has a product of rows a (m, k) @ b do: h is what the activation is of.
enum class PolyStep {
  none,
  relu,       // h = a @ b goes to `pre` if that is given, y = polyRelu(h), of h as it is rounded
  reluGrad,   // dy = a @ b; y = the gradient of h, and each tile's share of the coefficients' gradients
  squares,    // y = a @ b, and of each row of it the sums of y^2k, of y as it is rounded
  normInside  // y = polyNorm(a) @ b: a is h, and each of its elements becomes one of polyNorm(h), rounded, on its way
};

// Coefficients are float, as the row of the contract has them: weight (sets, order), highest power first, bias (sets).
// With one set all rows share it; else group g of the product's rows has set g.
struct PolyPart {
  PolyStep step = PolyStep::none;
  int order = 0;
  const float *weight = nullptr, *bias = nullptr;
  int sets = 1;
  const void* h = nullptr;  // (m, n) as y, for reluGrad
  // normInside: (m, order + 1), the scale of each row of h, then its inverse norms (math/poly.h) from the first power
  // on; and where polyNorm(h) goes, like h, unless null: the blocks of the first columns of y write it.
  const float* norms = nullptr;
  void* kept = nullptr;
  // squares: (m, parts, order), from the first power on, of so many columns a part. reluGrad: (bands of 128 rows,
  // parts, order + 1) from the zeroth on, where every group's rows begin a band of their own (findBand in
  // device/product.cuh); the coefficients' gradients are all the parts of the bands.
  float* sums = nullptr;
};

// pre = alpha (sum of a @ b) + beta y + bias,  y = activation(pre) + residual
// a (m, k), b (k, n), y (m, n) in rows of `yStep`: that of each place of the kept axes is the sum over all places of
// the summed ones.
struct Product {
  Dtype type = Dtype::float32;  // of a and b
  Dtype out = Dtype::float32;   // of y: the same, or float32
  int m = 0, n = 0, k = 0;
  Operand a, b;
  void* y = nullptr;
  int64_t yStep = 0;
  double alpha = 1, beta = 0;

  int kept = 0, summed = 0;  // batch axes: first those of y, then those that are summed
  BatchAxis axes[maxRank - 2] = {};
  int64_t batch = 1, sums = 1;  // their lengths multiplied

  // rows: a's rows offsets[g] to offsets[g + 1] times b + g * groupStride. depth: a's columns and b's rows offsets[g]
  // to offsets[g + 1] give y + g * groupStride. No batch axes then.
  Grouped grouped = Grouped::no;
  const int32_t* offsets = nullptr;
  int groups = 1;
  int64_t groupStride = 0;
  Failure failure{};  // offsets that do not rise from 0 to the number of rows

  // Where any of these is given there are no batch axes and no groups, and y is contiguous.
  const void* bias = nullptr;      // (n), in the compute type
  void* pre = nullptr;             // (m, n), as y
  const void* residual = nullptr;  // (m, n), as y
  bool activates = false;
  UnaryOp activation = UnaryOp::relu;
  bool packs = false;  // y and these may be read and written 16 bytes at a time (multiply() sees to it)

  // With a step there are no batch axes, parts, bias, activation nor residual, alpha is 1 and beta 0, and y is
  // contiguous; groups of rows there may be.
  PolyPart poly;

  // The depth is cut in so many parts, each of which makes a y of its own in float; partsStride elements apart.
  int parts = 1;
  int64_t partsStride = 0;
};

// y = x @ w of rows, in order: w as matmul's b, or one for each group of rows if offsets are given.
Product productOf(const View& x, const View& w, const View& offsets, const View& y, const char* op);

// Makes the product with the kernel that suits it best.
void multiply(const Product& p);

// float32 (64 x 64 or 128 x 128 a block) and float64 (64 x 64).
enum class FloatTile { small, large };
void gemmFloat(const Product& p, FloatTile tile);

// bf16 and f16. A block makes 64 x 64, 128 x 128 or 128 x 256 of y; the larger ones want copies of 16 bytes.
enum class TensorTile { small, medium, large };
void gemmSm80(const Product& p, TensorTile tile);

// How many bytes of a (or of b) may be copied at a time: 16, 4 or 2 divide all addresses that matter.
int copyWidth(const Product& p, bool ofA);
// Narrower copies, and columns in order in both (no layer asks for that): then there is only the small tile.
bool smallTileOnly(const Product& p);

// Only on sm_90, of bf16 and f16, and where the copy engine can read a and b; false: nothing was done.
// cols: of a tile, 128 or 256; 0: whichever should end first.
bool gemmSm90(const Product& p, int cols = 0);

// Products with a polynomial step, of bf16 and f16. A row of y is summed up in parts of so many columns; a band of rows
// in so many parts.
constexpr int polyBand = 128, polyPartColsSm80 = 64, polyPartColsSm90 = 256;
HD int polyBandPartsSm80(int n) { return (n + 127) / 128; }
HD int polyBandPartsSm90(int n) { return (n + 255) / 256 * 2; }
// Whether there is a kernel for this one: layouts, alignment, order.
bool polyOnSm80(const Product& p);
bool polyOnSm90(const Product& p);
// Whether the kernel with the step in it should end before the plain product that suits best and a pass over it.
bool stepPays(const Product& p, bool onSm90);
void gemmPolySm80(const Product& p);
void gemmPolySm90(const Product& p);

}  // namespace cuda
