#pragma once
// Copies between two views of one dtype, as bits: whole runs where both lie in order, tiles where one is transposed.
#include "core/view.h"
#include "cpu/pool.h"
#include "cpu/strided.h"

namespace cpu::ISA {

// x has the step 1 along an axis that is not y's last one. A tile is read by x's lines and written by y's, so that each
// line of memory is touched once, however far apart they are.
template <class B>
void copyTiles(const Walk<2>& walk, int across, const B* x, B* y) {
  constexpr int64_t tile = 32;
  const int last = walk.rank - 1;
  const int64_t rows = walk.shape[across], cols = walk.shape[last];
  const int64_t rowTiles = (rows + tile - 1) / tile, colTiles = (cols + tile - 1) / tile;
  const int64_t tiles = walk.count / (rows * cols) * rowTiles * colTiles;
  parallelFor(tiles, 16, [&](int64_t begin, int64_t end) {
    B buffer[tile][tile];
    for (int64_t item = begin; item < end; item++) {
      int64_t i = item / colTiles % rowTiles * tile, j = item % colTiles * tile, rest = item / colTiles / rowTiles;
      int64_t fromX = i * walk.stride[1][across] + j * walk.stride[1][last];
      int64_t toY = i * walk.stride[0][across] + j * walk.stride[0][last];
      for (int axis = last - 1; axis >= 0; axis--) {
        if (axis == across) continue;
        fromX += rest % walk.shape[axis] * walk.stride[1][axis];
        toY += rest % walk.shape[axis] * walk.stride[0][axis];
        rest /= walk.shape[axis];
      }
      const int64_t n = rows - i < tile ? rows - i : tile, m = cols - j < tile ? cols - j : tile;
      for (int64_t c = 0; c < m; c++)
        for (int64_t r = 0; r < n; r++) buffer[r][c] = x[fromX + c * walk.stride[1][last] + r];
      for (int64_t r = 0; r < n; r++) __builtin_memcpy(y + toY + r * walk.stride[0][across], buffer[r], m * sizeof(B));
    }
  });
}

template <class B>
void copyBits(const View& from, const View& to) {
  Walk walk({&to, &from});
  const B* x = from.as<B>();
  B* y = to.as<B>();
  const int64_t stepX = walk.step(1), stepY = walk.step(0);
  if (stepX != 1 && stepY == 1)
    for (int axis = 0; axis + 1 < walk.rank; axis++)
      if (walk.stride[1][axis] == 1) return copyTiles(walk, axis, x, y);
  walk.run([&](const int64_t* at, int64_t length) {
    if (stepX == 1 && stepY == 1) {
      __builtin_memcpy(y + at[0], x + at[1], length * sizeof(B));
    } else {
      for (int64_t i = 0; i < length; i++) y[at[0] + i * stepY] = x[at[1] + i * stepX];
    }
  });
}

}  // namespace cpu::ISA
