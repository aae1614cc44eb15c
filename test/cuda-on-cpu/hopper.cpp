// The meaning of the wrappers in cuda/device/{barrier,tma,wgmma}.cuh.
#include "hopper.h"

#include <cstdlib>
#include <map>

#pragma GCC optimize("O3")

namespace emulator {
namespace {

constexpr int warpgroupLanes = 128;

struct Mbarrier {
  unsigned arrivals = 0, pending = 0, phase = 0;
  long long bytes = 0;  // announced and not yet there
  std::vector<std::function<void()>> loads;

  void finish() {
    if (pending || bytes) return;
    pending = arrivals;
    phase ^= 1;
  }
  void land() {
    auto due = std::move(loads);
    loads.clear();
    for (auto& load : due) load();
  }
};

struct Held {  // an accumulator that products in flight own
  std::vector<float> value;
  int inFlight = 0;
};
struct Lane {
  bool fenced = false, groupFenced = false;  // since accumulators were last free; since the last group
  std::vector<Wgmma> open;
  std::vector<std::vector<Wgmma>> groups;
  std::map<float*, Held> held;
};
struct Warpgroup {
  Lane lanes[warpgroupLanes];
  int arrived = 0, mayRemain = 0;
  uint64_t generation = 0;
};

bool eager() {
  const char* order = std::getenv("CUDA_ON_CPU_ORDER");
  return order && !std::strcmp(order, "reversed");
}

}  // namespace

struct Hopper {
  std::map<unsigned, Mbarrier> barriers;
  std::map<int, Warpgroup> warpgroups;
};

namespace {

Hopper& hopper() {
  Block& block = *current->block;
  if (!block.hopper) block.hopper = std::make_shared<Hopper>();
  return *block.hopper;
}
Mbarrier& mbarrier(void* at) {
  auto& all = hopper().barriers;
  auto found = all.find(sharedOffset(at));
  if (found == all.end()) fail("a barrier in shared memory is used that was not initialised");
  return found->second;
}
Warpgroup& warpgroup() { return hopper().warpgroups[(int)current->index.x / warpgroupLanes]; }
int warpgroupLane() { return (int)current->index.x % warpgroupLanes; }

// 16-byte units of 128 bytes change places by the row of 128 bytes they are in.
unsigned swizzled(unsigned offset) { return offset ^ (offset >> 3 & 0x70); }

void checkTensor(const TensorMap& map) {
  uint64_t last = (uint64_t)map.elementBytes;
  for (int i = 0; i < 3; i++) last += (map.length[i] - 1) * map.stride[i];
  if (!map.elementBytes || !onDevice(map.data, last)) fail("a tensor map reaches beside the memory of the device");
}

// fn(offset in shared memory, address or null where the tensor ends)
template <class Fn>
void eachElement(const TensorMap& map, const int at[3], unsigned shared, Fn fn) {
  unsigned row = 0;
  for (unsigned z = 0; z < map.box[2]; z++)
    for (unsigned y = 0; y < map.box[1]; y++, row++)
      for (unsigned x = 0; x < map.box[0]; x++) {
        const int64_t where[3] = {at[0] + (int64_t)x, at[1] + (int64_t)y, at[2] + (int64_t)z};
        unsigned char* element = map.data;
        for (int i = 0; i < 3; i++)
          if (where[i] < 0 || where[i] >= (int64_t)map.length[i])
            element = nullptr;
          else if (element)
            element += where[i] * (int64_t)map.stride[i];
        fn(swizzled(shared + row * map.box[0] * map.elementBytes + x * map.elementBytes), element);
      }
}
unsigned tileBytes(const TensorMap& map) { return map.box[0] * map.box[1] * map.box[2] * map.elementBytes; }
unsigned tileOffset(const TensorMap& map, const void* p) {
  unsigned offset = sharedOffset(p);
  if (offset % 128) fail("a tile in shared memory is not aligned to 128 bytes");
  if (offset + tileBytes(map) > current->block->sharedBytes) fail("a tile reaches beside the shared memory");
  return offset;
}

// Where an operand's element lies: of row i (of m or n) and depth k below 16.
struct Operand {
  unsigned start, leading, stride;
  bool turned;
  Operand(uint64_t d, bool turned) : turned(turned) {
    start = (unsigned)(d & 0x3fff) << 4;
    leading = (unsigned)(d >> 16 & 0x3fff) << 4;
    stride = (unsigned)(d >> 32 & 0x3fff) << 4;
    if (d >> 62 != 1) fail("wgmma: a descriptor's swizzle should be 128 bytes");
    if (d & 0x3ffeC000C000C000) fail("wgmma: a descriptor has bits set that should be 0");
  }
  unsigned offset(int i, int k) const {
    return turned ? swizzled(start + i / 64 * leading + i % 64 * 2 + k / 8 * stride + k % 8 * 128)
                  : swizzled(start + i / 8 * stride + i % 8 * 128 + k * 2);
  }
  float at(int i, int k, float (*widen)(uint16_t)) const {
    const unsigned o = offset(i, k);
    if (o + 2 > current->block->sharedBytes) fail("wgmma: an operand reaches beside the shared memory");
    uint16_t bits;
    std::memcpy(&bits, current->block->shared + o, 2);
    return widen(bits);
  }
};

// Element i of lane l's accumulator.
int rowOf(int l, int i) { return l / 32 * 16 + l % 32 / 4 + i / 2 % 2 * 8; }
int colOf(int l, int i) { return i / 4 * 8 + l % 4 * 2 + i % 2; }

// The operand a, where the lanes hold it: two neighbours a register.
void readHeld(Warpgroup& group, size_t g, size_t which, float (&a)[64][16]) {
  for (int l = 0; l < warpgroupLanes; l++) {
    const Wgmma& op = group.lanes[l].groups[g][which];
    if (std::memcmp(op.issued, op.held, sizeof op.issued))
      fail("wgmma: the registers of its operand were written before it was waited for");
    for (int i = 0; i < 8; i++)
      a[l / 32 * 16 + l % 32 / 4 + i / 2 % 2 * 8][l % 4 * 2 + i / 4 * 8 + i % 2] =
          op.widen((uint16_t)(op.issued[i / 2] >> i % 2 * 16));
  }
}

void multiply(Warpgroup& group, size_t g, size_t which) {
  const Wgmma& op = group.lanes[0].groups[g][which];
  static float a[64][16], b[16][256], d[64][256];
  const Operand right(op.b, op.turnedB);
  for (int k = 0; k < 16; k++)
    for (int j = 0; j < op.n; j++) b[k][j] = right.at(j, k, op.widen);
  if (op.held) {
    readHeld(group, g, which, a);
  } else {
    const Operand left(op.a, op.turnedA);
    for (int i = 0; i < 64; i++)
      for (int k = 0; k < 16; k++) a[i][k] = left.at(i, k, op.widen);
  }
  for (int l = 0; l < warpgroupLanes; l++) {
    const auto& value = group.lanes[l].held[group.lanes[l].groups[g][which].d].value;
    for (int i = 0; i < op.n / 2; i++) d[rowOf(l, i)][colOf(l, i)] = op.accumulate ? value[i] : 0;
  }
  for (int i = 0; i < 64; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < op.n; j++) d[i][j] += a[i][k] * b[k][j];
  for (int l = 0; l < warpgroupLanes; l++) {
    Held& held = group.lanes[l].held[group.lanes[l].groups[g][which].d];
    for (int i = 0; i < op.n / 2; i++) held.value[i] = d[rowOf(l, i)][colOf(l, i)];
    held.inFlight--;
  }
}

void multiplyGroups(Warpgroup& group, int mayRemain) {
  const auto& first = group.lanes[0].groups;
  for (const Lane& lane : group.lanes)
    if (lane.groups != first) fail("the lanes of a warpgroup issued different products");
  const size_t due = first.size() > (size_t)mayRemain ? first.size() - mayRemain : 0;
  for (size_t g = 0; g < due; g++)
    for (size_t which = 0; which < first[g].size(); which++) multiply(group, g, which);
  for (Lane& lane : group.lanes) {
    lane.groups.erase(lane.groups.begin(), lane.groups.begin() + (ptrdiff_t)due);
    for (auto it = lane.held.begin(); it != lane.held.end();) {
      if (it->second.inFlight) {
        ++it;
        continue;
      }
      std::memcpy(it->first, it->second.value.data(), it->second.value.size() * sizeof(float));
      it = lane.held.erase(it);
      lane.fenced = false;
    }
  }
}

}  // namespace

unsigned sharedOffset(const void* p) {
  const Block& block = *current->block;
  const size_t offset = (size_t)((const unsigned char*)p - block.shared);
  if (offset >= block.sharedBytes) fail("an address is not in the block's shared memory");
  return (unsigned)offset;
}

void initMbarrier(void* at, unsigned arrivals) {
  if (sharedOffset(at) % 8) fail("a barrier in shared memory is not aligned to 8 bytes");
  Mbarrier& b = hopper().barriers[sharedOffset(at)];
  b = Mbarrier{};
  b.arrivals = b.pending = arrivals;
}
void arriveMbarrier(void* at, unsigned bytes) {
  Mbarrier& b = mbarrier(at);
  if (!b.pending) fail("more arrivals at a barrier in shared memory than it expects");
  b.bytes += bytes;
  b.pending--;
  b.finish();
}
void waitMbarrier(void* at, unsigned parity) {
  Mbarrier& b = mbarrier(at);
  waitUntil("a barrier in shared memory", [&] {
    b.land();
    return b.phase != parity;
  });
}

bool encodeTensorMap(TensorMap& map, void* data, int elementBytes, const uint64_t length[3], const uint64_t stride[2],
                     const unsigned box[3]) {
  if ((uintptr_t)data % 16 || box[0] * elementBytes > 128 || box[0] * elementBytes % 16) return false;
  map = {(unsigned char*)data, elementBytes, {}, {}, {}};
  for (int i = 0; i < 3; i++) {
    if (!length[i] || length[i] > 1ull << 32 || !box[i] || box[i] > 256) return false;
    if (i && (stride[i - 1] % 16 || stride[i - 1] >= 1ull << 40)) return false;
    map.length[i] = length[i];
    map.stride[i] = i ? stride[i - 1] : (uint64_t)elementBytes;
    map.box[i] = box[i];
  }
  return true;
}

void loadTile(void* to, const TensorMap& map, const int at[3], void* barrier) {
  checkTensor(map);
  const unsigned offset = tileOffset(map, to);
  Mbarrier& b = mbarrier(barrier);
  unsigned char* shared = current->block->shared;
  b.loads.push_back([&b, map, offset, shared, x = at[0], y = at[1], z = at[2]] {
    const int at[3] = {x, y, z};
    eachElement(map, at, offset, [&](unsigned o, const unsigned char* element) {
      if (element)
        std::memcpy(shared + o, element, map.elementBytes);
      else
        std::memset(shared + o, 0, map.elementBytes);
    });
    b.bytes -= tileBytes(map);
    b.finish();
  });
  if (eager()) b.land();
}

void storeTile(const TensorMap& map, const int at[3], const void* from, bool add) {
  checkTensor(map);
  if (!current->sharedFenced) fail("a tile is stored that fence.proxy.async and a barrier have not made visible");
  const unsigned offset = tileOffset(map, from);
  unsigned char* shared = current->block->shared;
  auto copy = [map, offset, shared, add, x = at[0], y = at[1], z = at[2]] {
    const int at[3] = {x, y, z};
    eachElement(map, at, offset, [&](unsigned o, unsigned char* element) {
      if (!element) return;
      if (add)
        *(float*)element += *(const float*)(shared + o);
      else
        std::memcpy(element, shared + o, map.elementBytes);
    });
  };
  if (eager())
    copy();
  else
    current->bulk.push_back(copy);
}
void commitBulk() {
  current->bulkGroups.push_back(std::move(current->bulk));
  current->bulk.clear();
}
void waitBulk(int mayRemain) {
  auto& groups = current->bulkGroups;
  while (groups.size() > (size_t)mayRemain) {
    for (auto& copy : groups[0]) copy();
    groups.erase(groups.begin());
  }
}
void fenceProxy() { current->fenced = true; }

void fenceWgmma() {
  Lane& lane = warpgroup().lanes[warpgroupLane()];
  lane.fenced = lane.groupFenced = true;
}

void issueWgmma(const Wgmma& op) {
  static const bool compiled = builtFor().find("90a") != std::string::npos;
  if (!compiled) fail("wgmma: it is in code for sm_90a alone, and there is none");
  Lane& lane = warpgroup().lanes[warpgroupLane()];
  Held& held = lane.held[op.d];
  if (!held.inFlight) {
    if (!lane.fenced) fail("wgmma: its accumulator was not fenced");
    held.value.assign(op.d, op.d + op.n / 2);
    std::memset(op.d, 0xff, op.n / 2 * sizeof(float));
  } else if (held.value.size() != (size_t)op.n / 2) {
    fail("wgmma: an accumulator in flight is used in another shape");
  }
  held.inFlight++;
  lane.open.push_back(op);
  if (!op.held) return;
  if (!lane.groupFenced) fail("wgmma: the registers of its operand were not fenced");
  std::memcpy(lane.open.back().issued, op.held, sizeof op.issued);
}
void commitWgmma() {
  Lane& lane = warpgroup().lanes[warpgroupLane()];
  lane.groups.push_back(std::move(lane.open));
  lane.open.clear();
  lane.groupFenced = false;
}
void waitWgmma(int mayRemain) {
  Warpgroup& group = warpgroup();
  if (current->block->threads < ((int)current->index.x / warpgroupLanes + 1) * warpgroupLanes)
    fail("wgmma: the warpgroup has fewer than 128 threads");
  if (group.arrived && group.mayRemain != mayRemain) fail("the lanes of a warpgroup wait for different products");
  group.mayRemain = mayRemain;
  const uint64_t before = group.generation;
  if (++group.arrived == warpgroupLanes) {
    multiplyGroups(group, mayRemain);
    group.arrived = 0;
    group.generation++;
    return;
  }
  waitUntil("wgmma.wait_group", [&] { return group.generation != before; });
}

}  // namespace emulator
