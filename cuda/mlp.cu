// The rows of feed-forward layers around a polynomial activation. Where there is a kernel for it (gemm_poly_*.cu), the
// products do the activation's work; elsewhere each row is a product and a pass.
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
    if (!polyCompiled(p.type, order) || p.n % 8 || p.k % 8 || cutsDepth(p)) return;
    kernel = polyOnSm90(p) ? Kernel::sm90 : polyOnSm80(p) ? Kernel::sm80 : Kernel::none;
  }
  void coefficients(const View& weight, const View& bias) {
    p.poly.weight = weight.as<float>(), p.poly.bias = bias.as<float>();
    p.poly.sets = weight.rank == 2 ? (int)weight.shape[0] : 1;
  }
  explicit operator bool() const { return kernel != Kernel::none; }
  int parts() const { return (p.n - 1) / (kernel == Kernel::sm90 ? polyPartColsSm90 : polyPartColsSm80) + 1; }
  size_t rowSums(int each) const { return (size_t)p.m * parts() * each * sizeof(float); }
  size_t tileSums() const {
    const Tiles tiles(p, polyTile, polyTile);
    return (size_t)tiles.down * tiles.across * (p.poly.order + 1) * sizeof(float);
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
    Scratch sums(product.tileSums());
    product.coefficients(weight, View());
    product.p.poly.h = h.data;
    product.p.poly.sums = sums.as<float>();
    product.multiply();
    return joinTiles(sums.as<float>(), product.p, dweight, dbias);
  }
  Like dy(h);
  multiply(productOf(dout, down, offsets, dy.view, "polyReluMlp"));
  polyReluGrad(h, weight, setsOf(weight, offsets), dy.view, dh, dweight, dbias);
}

void polyNormUp(View x, View up, View offsets, double eps, View h, View norms) {
  const int order = (int)norms.cols() - 1;
  Stepped product(x, up, offsets, h, PolyStep::squares, order);
  if (product) {
    Scratch sums(product.rowSums(order));
    product.p.poly.sums = sums.as<float>();
    product.multiply();
    return polyNorms(h, sums.as<float>(), product.parts(), eps, norms);
  }
  multiply(productOf(x, up, offsets, h, "polyNormMlp"));
  polyCompiled(h.dtype, order) ? polyNorms(h, nullptr, 0, eps, norms) : fill(norms, 0);
}

void polyNormDown(View h, View norms, View weight, View bias, View down, View offsets, double eps, View out) {
  Stepped product(h, down, offsets, out, PolyStep::normInside, (int)weight.cols());
  if (product) {
    product.coefficients(weight, bias);
    product.p.poly.norms = norms.as<float>();
    return product.multiply();
  }
  Like y(h);
  polyNorm(h, weight, bias, setsOf(weight, offsets), eps, y.view);
  multiply(productOf(y.view, down, offsets, out, "polyNormMlp"));
}

void polyNormDownGrad(View dout, View down, View offsets, View weight, View bias, double eps, View h, View norms,
                      View dh, View y, View dweight, View dbias) {
  const int order = (int)weight.cols();
  Stepped product(dout, down, offsets, dh, PolyStep::products, order);
  if (product) {
    Scratch sums(product.rowSums(order + 1));
    product.p.poly.h = h.data;
    product.p.poly.norms = norms.as<float>();
    product.p.poly.sums = sums.as<float>();
    product.multiply();
    return polyNormPass(h, norms, sums.as<float>(), product.parts(), weight, bias, setsOf(weight, offsets), dh, y,
                        dweight, dbias);
  }
  multiply(productOf(dout, down, offsets, y, "polyNormMlp"));  // dy, until y takes its place
  polyNormGrad(h, weight, setsOf(weight, offsets), eps, y, dh, dweight, dbias);
  polyNorm(h, weight, bias, setsOf(weight, offsets), eps, y);
}

}  // namespace cuda
