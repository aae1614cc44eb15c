#pragma once
// Puts rows of whole numbers in order, stably, and adds up what belongs to equal ones in the order of their places.
#include <cstdint>

#include "core/view.h"
#include "device/walk.cuh"
#include "stream.h"

namespace cuda {

// rows of n keys; Key: uint32_t or uint64_t.
template <class Key>
class Ranking {
 public:
  Ranking(int64_t rows, int64_t n);
  // Orders each row by the lowest `bits` bits of what was put into keys.
  void sort(const char* name, int bits);

  const int64_t rows, n;
  Key* keys;              // first the caller's, then in order
  int32_t* at = nullptr;  // where in its row each was

 private:
  Scratch memory, counts;
};

// The bits that numbers up to `largest` take.
inline int bitsOf(uint64_t largest) {
  int bits = 1;
  while (bits < 64 && largest >> bits) bits++;
  return bits;
}

// What dx[place of key] += dy[place] reads and writes. Column c: c / inner steps of outer*, c % inner elements on.
struct Sums {
  Loop lines;  // what a row of the ranking adds to the places: x of dy, y of dx
  int64_t columns, inner;
  int64_t outerDy, outerDx, stepDy, stepDx;
  uint32_t limit;  // keys from here on are left out
};

// dy: of any float type; dx: in its compute type. Ordered before; every sum is made in the order of the places.
void addByKey(const char* name, const Ranking<uint32_t>& order, const Sums& sums, View dy, View dx);

}  // namespace cuda
