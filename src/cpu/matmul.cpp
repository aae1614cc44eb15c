// isa: all
// Matrix products. Large ones in float32 by packed.h; others by OpenBLAS on one thread each, the pool over panels of
// the result. The shape alone decides which, and where panels end.
#include <vector>

#include "cpu/blocks.h"
#include "cpu/packed.h"
#include "cpu/product.h"
#include "kernels.h"

namespace cpu::ISA {
namespace {

struct Axis {
  int64_t length, a, b, y;  // strides
};

// The product with as few batch axes as its strides allow: an axis that only a and y have lengthens m, one that is
// summed lengthens k.
struct Product {
  int64_t m, n, k;
  int64_t aRow, aCol, bRow, bCol, yRow;
  int kept = 0, summed = 0;
  Axis keptAxis[maxRank], summedAxis[maxRank];

  Product(const View& a, const View& b, const View& y) {
    int r = y.rank;
    m = y.shape[r - 2], n = y.shape[r - 1], k = a.shape[r - 1];
    aRow = a.stride[r - 2], aCol = a.stride[r - 1], bRow = b.stride[r - 2], bCol = b.stride[r - 1];
    yRow = m > 1 ? y.stride[r - 2] : n;
    for (int i = r - 3; i >= 0; i--) {  // the innermost first
      if (y.shape[i] == 1) continue;
      Axis axis{y.shape[i], a.stride[i], b.stride[i], y.stride[i]};
      if (axis.y ? intoRows(axis) : intoDepth(axis)) continue;
      if (axis.y)
        keptAxis[kept++] = axis;
      else
        summedAxis[summed++] = axis;
    }
  }

  bool intoRows(const Axis& axis) {
    if (axis.b != 0 || axis.y != m * yRow) return false;
    int64_t row = m == 1 ? axis.a : aRow;
    if (axis.a != m * row || !matrixLayout(m * axis.length, k, row, aCol).readable) return false;
    aRow = row;
    m *= axis.length;
    return true;
  }
  bool intoDepth(const Axis& axis) {
    int64_t col = k == 1 ? axis.a : aCol, row = k == 1 ? axis.b : bRow;
    if (axis.a != k * col || axis.b != k * row) return false;
    if (!matrixLayout(m, k * axis.length, aRow, col).readable) return false;
    if (!matrixLayout(k * axis.length, n, row, bCol).readable) return false;
    aCol = col, bRow = row;
    k *= axis.length;
    return true;
  }

  int64_t keptCount() const { return count(keptAxis, kept); }
  int64_t summedCount() const { return count(summedAxis, summed); }
  static int64_t count(const Axis* axes, int n) {
    int64_t c = 1;
    for (int i = 0; i < n; i++) c *= axes[i].length;
    return c;
  }
  // Adds the position of the i-th product to the offsets of a, b and y.
  static void locate(const Axis* axes, int n, int64_t i, int64_t& a, int64_t& b, int64_t& y) {
    for (int x = 0; x < n; x++) {
      int64_t at = i % axes[x].length;
      i /= axes[x].length;
      a += at * axes[x].a, b += at * axes[x].b, y += at * axes[x].y;
    }
  }
};

// Panels of the result. Each call packs the whole other operand again, so panels are few and tall: measured on Zen 4,
// 512 rows lose 1 to 5 % against one call, 256 rows and panels of columns two to three times that.
struct Panels {
  int64_t rows, cols;
  Panels(int64_t m, int64_t n, int64_t k, int64_t products) {
    const double leastWork = 8e6;  // multiply-adds: about 0.15 ms
    int64_t pieces = (int64_t)std::clamp((double)m * (double)n * (double)k / leastWork, 1.0, 8.0);
    pieces = (pieces + products - 1) / products;
    const bool byRows = m >= 96 * pieces || m >= n;
    pieces = std::min(pieces, std::max<int64_t>(4, (byRows ? m : n) / 512));
    rows = byRows ? split(m, pieces) : m;
    cols = byRows ? n : split(n, pieces);
  }
  static int64_t split(int64_t length, int64_t pieces) {
    int64_t each = (length + pieces - 1) / pieces;
    return std::max<int64_t>(16, (each + 15) / 16 * 16);
  }
};

template <class T, class Y>
void multiply(const Product& p, const T* a, const T* b, Y* y, double alpha, double beta) {
  const Matrix<T> left{a, matrixLayout(p.m, p.k, p.aRow, p.aCol)}, right{b, matrixLayout(p.k, p.n, p.bRow, p.bCol)};
  const int64_t products = p.keptCount(), sums = p.summedCount();
  if (products * sums == 1 && suitsDots(p.m, left, right)) {
    parallelFor(p.n, rowGrain(p.k), [&](int64_t begin, int64_t end) {
      multiplyDots(left, right, p.m, begin, end, p.k, alpha, beta, y, p.yRow);
    });
    return;
  }
  if constexpr (std::is_same_v<T, float>)
    if (products * sums == 1 && suitsPacked(p.m, p.n, p.k))
      return multiplyPacked(left, right, p.m, p.n, p.k, (float)alpha, (float)beta, y, p.yRow);
  Panels panels(p.m, p.n, p.k, products);
  if (!std::is_same_v<T, Compute<T>>) {  // what is widened should stay in the cache
    panels.rows = std::min<int64_t>(panels.rows, 512);
    panels.cols = std::min<int64_t>(panels.cols, 512);
  }
  const int64_t down = (p.m + panels.rows - 1) / panels.rows, across = (p.n + panels.cols - 1) / panels.cols;
  parallelChunks(products * down * across, [&](int64_t chunk) {
    int64_t atA = 0, atB = 0, atY = 0;
    Product::locate(p.keptAxis, p.kept, chunk / (down * across), atA, atB, atY);
    const int64_t i = chunk / across % down * panels.rows, j = chunk % across * panels.cols;
    Sum<T, Y> sum(std::min(panels.rows, p.m - i), std::min(panels.cols, p.n - j), p.k, alpha, beta,
                  y + atY + i * p.yRow + j, p.yRow);
    for (int64_t s = 0; s < sums; s++) {
      int64_t sumA = atA, sumB = atB, none = 0;
      Product::locate(p.summedAxis, p.summed, s, sumA, sumB, none);
      sum.add(Matrix<T>{a + sumA, left.layout}.fromRow(i), Matrix<T>{b + sumB, right.layout}.fromCol(j));
    }
    sum.finish();
  });
}

// What follows the sums, which are those of the rows of y from `first` on.
template <class C>
void finishRows(const View& sums, const Epilogue& then, const View& y, int64_t first) {
  const int64_t n = y.shape[1], pieces = (n + blockLength - 1) / blockLength;
  parallelFor(sums.shape[0] * pieces, rowGrain(std::min<int64_t>(n, blockLength)), [&](int64_t begin, int64_t end) {
    C block[blockLength], other[blockLength];
    for (int64_t item = begin; item < end; item++) {
      const int64_t row = item / pieces, col = item % pieces * blockLength, count = std::min(blockLength, n - col);
      const int64_t at = (first + row) * n + col;
      const C* sum = sums.as<C>() + row * n + col;
      const C* bias = then.bias.given() ? then.bias.as<C>() + col : nullptr;
      for (int64_t i = 0; i < count; i++) block[i] = sum[i] + (bias ? bias[i] : C(0));
      if (then.pre.given()) scatter(then.pre, at, 1, count, block);
      auto activate = [&](auto F) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) block[i] = F.f(block[i]);
      };
      if (then.activates) switch (then.activation) {
          case UnaryOp::relu:
            activate(Relu{});
            break;
          case UnaryOp::relu2:
            activate(Relu2{});
            break;
          case UnaryOp::gelu:
            activate(Gelu{});
            break;
          case UnaryOp::geluTanh:
            activate(GeluTanh{});
            break;
          default:
            activate(Silu{});
        }
      if (then.residual.given()) {
        const C* added = load(then.residual, at, 1, count, other);
        for (int64_t i = 0; i < count; i++) block[i] += added[i];
      }
      scatter(y, at, 1, count, block);
    }
  });
}

}  // namespace

void matmul(View a, View b, View y, double alpha, double beta) {
  const Product p(a, b, y);
  withFloat(a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (a.dtype == y.dtype)
      multiply(p, a.as<T>(), b.as<T>(), y.as<T>(), alpha, beta);
    else
      multiply(p, a.as<T>(), b.as<T>(), y.as<Compute<T>>(), alpha, beta);
  });
}

void linear(View a, View b, Epilogue then, View y) {
  const bool wide = dtypeSize(y.dtype) > 2;  // the sums may lie where y will
  const int64_t m = y.shape[0], n = y.shape[1], panel = wide ? m : std::min<int64_t>(m, 512);
  std::vector<float> space(wide ? 0 : panel * n);
  for (int64_t i = 0; i < m; i += panel) {
    View rows = a, sums = y;
    rows.data = (char*)a.data + i * a.stride[0] * dtypeSize(a.dtype);
    rows.shape[0] = sums.shape[0] = std::min(panel, m - i);
    if (!wide) sums.data = space.data(), sums.dtype = Dtype::float32;
    matmul(rows, b, sums, 1, 0);
    if (y.dtype == Dtype::float64)
      finishRows<double>(sums, then, y, i);
    else
      finishRows<float>(sums, then, y, i);
  }
}

}  // namespace cpu::ISA
