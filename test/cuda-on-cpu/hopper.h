#pragma once
// What compute capability 9.0 adds, for the emulator: barriers in shared memory that count bytes, copies of tiles
// between tensors and shared memory, and the matrix products of a warpgroup. All of it is asynchronous, and nothing has
// happened before it was waited for; in reversed order the copies happen at once instead, so that both a wait that is
// missing and a stage that is given back too early show.
#include "emulator.h"

namespace emulator {

// Of the block's shared memory; what a descriptor and the address of a barrier hold.
unsigned sharedOffset(const void* p);

void initMbarrier(void* barrier, unsigned arrivals);
// One arrival that also announces bytes.
void arriveMbarrier(void* barrier, unsigned bytes);
void waitMbarrier(void* barrier, unsigned parity);

// Up to three axes, the first of adjacent elements; 128-byte swizzle.
struct TensorMap {
  unsigned char* data = nullptr;
  int elementBytes = 0;
  uint64_t length[3] = {}, stride[3] = {};  // strides in bytes
  unsigned box[3] = {};
};
// False where the driver would refuse.
bool encodeTensorMap(TensorMap& map, void* data, int elementBytes, const uint64_t length[3], const uint64_t stride[2],
                     const unsigned box[3]);

void loadTile(void* to, const TensorMap& map, const int at[3], void* barrier);
// add: float elements are added to those that are there.
void storeTile(const TensorMap& map, const int at[3], const void* from, bool add);
void commitBulk();
void waitBulk(int mayRemain);
void fenceProxy();

struct Wgmma {
  float* d;
  uint64_t a, b;  // descriptors
  bool accumulate, turnedA, turnedB;
  int n;
  float (*widen)(uint16_t bits);
  const uint32_t* held = nullptr;  // a in registers
  uint32_t issued[4] = {};         // what they were
  bool operator==(const Wgmma& o) const {
    return !held == !o.held && a == o.a && b == o.b && accumulate == o.accumulate && turnedA == o.turnedA &&
           turnedB == o.turnedB && n == o.n && widen == o.widen;
  }
};
void fenceWgmma();
void issueWgmma(const Wgmma& op);
void commitWgmma();
void waitWgmma(int mayRemain);

}  // namespace emulator
