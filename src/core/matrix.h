#pragma once
// How the last two axes of a view lie in memory, as a matrix product needs them: rows in order, or columns in order.
#include "core/view.h"

struct MatrixLayout {
  bool readable = false;    // false: neither, and the product needs a copy
  bool transposed = false;  // columns in order
  int64_t step = 1;         // from one stored row (or column) to the next
};

// Strides of axes of one element mean nothing, so they are replaced by what a contiguous matrix would have.
HD MatrixLayout matrixLayout(int64_t rows, int64_t cols, int64_t rowStride, int64_t colStride) {
  if ((colStride == 1 || cols <= 1) && (rowStride >= cols || rows <= 1)) {
    int64_t least = cols > 1 ? cols : 1;
    return {true, false, rows > 1 && rowStride > least ? rowStride : least};
  }
  if ((rowStride == 1 || rows <= 1) && (colStride >= rows || cols <= 1)) {
    int64_t least = rows > 1 ? rows : 1;
    return {true, true, cols > 1 && colStride > least ? colStride : least};
  }
  return {};
}
