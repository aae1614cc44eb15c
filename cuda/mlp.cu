// The rows of feed-forward layers around a polynomial activation. Where there is a kernel for it (gemm_poly_*.cu), the
// products do the activation's work; elsewhere each row is a product and a pass.
#include <optional>

#include "device/product.cuh"
#include "gemm.h"
#include "kernels.h"
#include "mlp_norm.h"
#include "stream.h"

namespace cuda {
namespace {

// The offsets, if each group has coefficients of its own.
View setsOf(const View& weight, const View& offsets) { return weight.rank == 2 ? offsets : View(); }

// Memory for a tensor like h.
struct Like {
  Scratch bytes;
  View view;
  explicit Like(const View& h) : bytes(h.size() * dtypeSize(h.dtype)), view(h) { view.data = bytes.as<void>(); }
};

enum class Kernel { none, sm80, sm90 };

// A product, and the kernel that does the step in it.
struct Stepped {
  Product p;
  Kernel kernel = Kernel::none;

  Stepped(const View& x, const View& w, const View& offsets, const View& y, PolyStep step, int order)
      : p(productOf(x, w, offsets, y, "mlp")) {
    p.poly.step = step, p.poly.order = order;
    if (!polyCompiled(p.type, order) || p.n % 8 || p.k % 8) return;
    kernel = polyOnSm90(p) && stepPays(p, true)    ? Kernel::sm90
             : polyOnSm80(p) && stepPays(p, false) ? Kernel::sm80
                                                   : Kernel::none;
  }
  void coefficients(const View& weight, const View& bias) {
    p.poly.weight = weight.as<float>(), p.poly.bias = bias.as<float>();
    p.poly.sets = weight.rank == 2 ? (int)weight.shape[0] : 1;
  }
  explicit operator bool() const { return kernel != Kernel::none; }
  int rowParts() const { return (p.n - 1) / (kernel == Kernel::sm90 ? polyPartColsSm90 : polyPartColsSm80) + 1; }
  int bandParts() const { return kernel == Kernel::sm90 ? polyBandPartsSm90(p.n) : polyBandPartsSm80(p.n); }
  size_t rowSums() const { return (size_t)p.m * rowParts() * p.poly.order * sizeof(float); }
  size_t bandSums() const {
    return (size_t)Tiles(p, polyBand, p.n).down * bandParts() * (p.poly.order + 1) * sizeof(float);
  }
  void multiply() const { kernel == Kernel::sm90 ? gemmPolySm90(p) : gemmPolySm80(p); }
};

}  // namespace

void polyReluUp(View x, View up, View offsets, View weight, View bias, View h, View y) {
  Stepped product(x, up, offsets, y, PolyStep::relu, (int)weight.cols());
  if (product) {
    product.coefficients(weight, bias);
    product.p.pre = h.data;
    return product.multiply();
  }
  // Without h its values lie where y will: the pass reads each element before it writes it.
  if (!h.given()) h = y;
  multiply(productOf(x, up, offsets, h, "polyReluMlp"));
  polyRelu(h, weight, bias, setsOf(weight, offsets), y);
}

void polyReluDownGrad(View dout, View down, View offsets, View weight, View h, View dh, View dweight, View dbias) {
  Stepped product(dout, down, offsets, dh, PolyStep::reluGrad, (int)weight.cols());
  if (product) {
    Scratch sums(product.bandSums());
    product.coefficients(weight, View());
    product.p.poly.h = h.data;
    product.p.poly.sums = sums.as<float>();
    product.multiply();
    return joinBands(sums.as<float>(), product.bandParts(), product.p, dweight, dbias);
  }
  Like dy(h);
  multiply(productOf(dout, down, offsets, dy.view, "polyReluMlp"));
  polyReluGrad(h, weight, setsOf(weight, offsets), dy.view, dh, dweight, dbias);
}

void polyNormUp(View x, View up, View offsets, double eps, View h, View norms) {
  const int order = (int)norms.cols() - 1;
  Stepped product(x, up, offsets, h, PolyStep::squares, order);
  if (product) {
    Scratch sums(product.rowSums());
    product.p.poly.sums = sums.as<float>();
    product.multiply();
    return polyNorms(h, sums.as<float>(), product.rowParts(), eps, norms);
  }
  multiply(productOf(x, up, offsets, h, "polyNormMlp"));
  polyCompiled(h.dtype, order) ? polyNorms(h, nullptr, 0, eps, norms) : fill(norms, 0);
}

void polyNormDown(View h, View norms, View weight, View bias, View down, View offsets, double eps, View y, View out) {
  Stepped product(h, down, offsets, out, PolyStep::normInside, (int)weight.cols());
  if (product) {
    product.coefficients(weight, bias);
    product.p.poly.norms = norms.as<float>();
    product.p.poly.kept = y.data;
    return product.multiply();
  }
  std::optional<Like> own;
  if (!y.given()) y = own.emplace(h).view;
  polyNorm(h, weight, bias, setsOf(weight, offsets), eps, y);
  multiply(productOf(y, down, offsets, out, "polyNormMlp"));
}

}  // namespace cuda
