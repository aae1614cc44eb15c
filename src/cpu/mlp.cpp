// isa: all
// Feed-forward layers around a polynomial activation: a pass over h costs little beside products on a CPU, so each row
// is a product and a pass.
#include <vector>

#include "kernels.h"

namespace cpu::ISA {
namespace {

void product(const View& x, const View& w, const View& offsets, const View& y) {
  offsets.given() ? groupedMatmul(x, w, offsets, y) : matmul(x, w, y, 1, 0);
}
// The offsets, if each group has coefficients of its own.
View setsOf(const View& weight, const View& offsets) { return weight.rank == 2 ? offsets : View(); }

// Memory for a tensor like h.
struct Like {
  std::vector<char> bytes;
  View view;
  explicit Like(const View& h) : bytes(h.size() * dtypeSize(h.dtype)), view(h) { view.data = bytes.data(); }
};

}  // namespace

void polyReluUp(View x, View up, View offsets, View weight, View bias, View h, View y) {
  Like own(h.given() ? View() : y);
  if (!h.given()) h = own.view;
  product(x, up, offsets, h);
  polyRelu(h, weight, bias, setsOf(weight, offsets), y);
}

void polyReluDownGrad(View dout, View down, View offsets, View weight, View h, View dh, View dweight, View dbias) {
  Like dy(h);
  product(dout, down, offsets, dy.view);
  polyReluGrad(h, weight, setsOf(weight, offsets), dy.view, dh, dweight, dbias);
}

// polyNormDown takes each row's sums again: it is in the cache by then.
void polyNormUp(View x, View up, View offsets, double, View h, View norms) {
  product(x, up, offsets, h);
  fill(norms, 0);
}

void polyNormDown(View h, View, View weight, View bias, View down, View offsets, double eps, View y, View out) {
  Like own(y.given() ? View() : h);
  if (!y.given()) y = own.view;
  polyNorm(h, weight, bias, setsOf(weight, offsets), eps, y);
  product(y, down, offsets, out);
}

}  // namespace cpu::ISA
