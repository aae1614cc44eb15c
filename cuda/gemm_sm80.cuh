#pragma once
// The tensor cores as every GPU from sm_80 on has them: how a block makes a tile of a product of bf16 or f16. The tiles
// of a and b come by cp.async, several steps ahead, and go to mma.m16n8k16 by ldmatrix.
#include "device/mma.cuh"
#include "device/product.cuh"
#include "device/shared.cuh"

namespace cuda {

// A block makes a tile of rows x cols, `deep` of the depth at a time; a warp makes warpRows x warpCols of it.
template <int rows_, int cols_, int deep_, int warpRows_, int warpCols_, int stages_, int blocks_>
struct Shape {
  static constexpr int rows = rows_, cols = cols_, deep = deep_, warpRows = warpRows_, warpCols = warpCols_;
  static constexpr int stages = stages_;
  static constexpr int blocks = blocks_;  // that a multiprocessor holds
  static constexpr int warpsAcross = cols / warpCols;
  static constexpr int threads = 32 * (rows / warpRows) * warpsAcross;
  static constexpr int aBytes = rows * deep * 2, bBytes = cols * deep * 2;
  static constexpr int stagingRow = warpCols + 8;  // floats; warps write pairs without bank conflicts
  static constexpr int stagingBytes = threads / 32 * 16 * stagingRow * 4;
  static constexpr int pipelineBytes = stages * (aBytes + bBytes);
  static constexpr int sharedBytes = pipelineBytes > stagingBytes ? pipelineBytes : stagingBytes;
};
using Large = Shape<128, 256, 32, 64, 64, 6, 1>;
using Medium = Shape<128, 128, 32, 64, 64, 4, 2>;
using Small = Shape<64, 64, 64, 32, 32, 3, 3>;

template <class S>
struct Storage {
  Place place;  // kept here, and not in registers, while the sums are made
  alignas(128) unsigned char bytes[S::sharedBytes];
};

// Where 16 bytes of a line lie in shared memory: turned about among their neighbours so that 8 lines' worth of them,
// which ldmatrix reads at a time, and 8 neighbours, which are copied at a time, lie in different banks.
template <int lineBytes>
HD int turnOf(int line) {
  return lineBytes == 64 ? line / 2 % 4 : line % 8;
}

// A thread's part in bringing a tile of `lines` stored rows or columns, `length` elements each, to shared memory.
// along: the depth runs along the lines, else from line to line.
template <class T, int lines, int length, int threads, bool along>
struct TileCopy {
  static constexpr int chunks = length / 8, perPass = threads / chunks, passes = lines / perPass;
  static_assert(threads % chunks == 0 && lines % perPass == 0 && perPass % 8 == 0);
  const T* from;    // this thread's first chunk of the next tile
  unsigned inside;  // along: which passes' lines are inside the matrix; else how many bytes of the chunk

  static __device__ int line() { return threadIdx.x / chunks; }
  static __device__ int column() { return threadIdx.x % chunks * 8; }

  __device__ TileCopy(const Operand& x, int64_t base, int first, int end, int k) {
    from = reinterpret_cast<const T*>(x.data) + base +
           (along ? (first + line()) * x.step + column() + k : (line() + k) * x.step + first + column());
    inside = 0;
    if (along) {
#pragma unroll
      for (int j = 0; j < passes; j++) inside |= (unsigned)(first + line() + j * perPass < end) << j;
    } else {
      inside = bytesOf(end - first - column());
    }
  }
  // This thread's first chunk of a tile in shared memory; the next one lies `apart` bytes behind it.
  static constexpr int apart = perPass * length * 2;
  static __device__ __forceinline__ unsigned char* chunkIn(unsigned char* tile) {
    return tile + line() * length * 2 + ((column() / 8) ^ turnOf<length * 2>(line())) * 16;
  }
  static __device__ int bytesOf(int elements) { return (elements < 0 ? 0 : elements > 8 ? 8 : elements) * 2; }

  // left: how much of the depth there is still. width: the bytes that every address is a multiple of: 16, 4 or 2.
  template <bool narrow>
  __device__ __forceinline__ void issue(unsigned char* tile, int64_t step, int left, int width) const {
    unsigned char* target = chunkIn(tile);
    const int most = along ? bytesOf(left - column()) : (int)inside;
    const T* chunk = from;
#pragma unroll
    for (int j = 0; j < passes; j++, chunk += perPass * step) {
      const bool in = along ? inside >> j & 1 : line() + j * perPass < left;
      const int taken = in ? most : 0;
      unsigned char* to = target + j * apart;
      if (!narrow || width == 16) {
        copyAsync<16>(to, chunk, taken);
      } else if (width == 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int rest = taken - 4 * i;
          copyAsync<4>(to + 4 * i, chunk + 2 * i, rest < 0 ? 0 : rest > 4 ? 4 : rest);
        }
      } else {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const uint32_t low = 4 * i < taken ? chunk[2 * i].bits : 0;
          const uint32_t high = 4 * i + 2 < taken ? chunk[2 * i + 1].bits : 0;
          words[i] = low | high << 16;
        }
        *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
};

// Reads pieces of 16 x 16 of a tile for the warp. along: as above. Of the four 8 x 8 matrices the second pair lies
// further along the depth in a piece of a, every second one in a piece of b.
template <int length, bool along, bool ofA>
struct TileReader {
  int at;  // this lane's row of the piece that begins at the warp's first row or column
  __device__ explicit TileReader(int first) {
    const int odd = lane() / 8 % 2, late = lane() / 16;
    const int across = ofA ? odd : late, deep = ofA ? late : odd;  // which half of the 16 in each direction
    const int line = lane() % 8 + 8 * (along ? across : deep) + (along ? first : 0);
    const int chunk = (along ? deep : across) + (along ? 0 : first / 8);
    at = line * length * 2 + (chunk ^ turnOf<length * 2>(line)) * 16;
  }
  // The piece `offset` beside that one and `k` deeper: both are multiples of 16, and a turn stays within 128 bytes.
  __device__ __forceinline__ void load(uint32_t (&r)[4], const unsigned char* tile, int offset, int k) const {
    if constexpr (along)
      loadMatrices(r, tile + (at ^ k * 2) + offset * length * 2);
    else
      loadMatricesTransposed(r, tile + (at ^ offset * 2) + k * length * 2);
  }
};

// A warp's part of the tile, in pieces of 16 x 8 as multiplyAdd has them.
template <class S>
using Sums = float[S::warpRows / 16][S::warpCols / 8][4];

template <class S>
__device__ inline int warpRow() {
  return warp() / S::warpsAcross * S::warpRows;
}
template <class S>
__device__ inline int warpCol() {
  return warp() % S::warpsAcross * S::warpCols;
}

// What a kernel does on the way of the tiles: here nothing.
struct AsTheyAre {
  static constexpr bool oneProduct = false;  // and not a sum of several
  // Whether it works on what this thread copied of a before anyone reads it: load() what lies at a chunk of 16 bytes of
  // that line of the tile, made() what it becomes.
  static constexpr bool worksOnA = false;
  // What this thread made of a: its first chunk, and how much of the depth is left from there on.
  __device__ void after(const unsigned char*, int) const {}
  // Once, when the first copies are under way: what it needs in shared memory.
  __device__ void begin() const {}
  // The ring goes on for stages - 1 stages behind the depth: what is to be copied to the number-th of these.
  __device__ void behind(int, unsigned char*) const {}
};

// Makes the sums of the block's tile; the tiles of a and b come in a ring of stages. With `narrow` addresses need only
// be multiples of an element. s.place is set, and shown by a barrier, on the way. Returns where in s.bytes the first
// stage behind the depth lies; all copies have come by then, and the stages are free.
template <class T, class S, bool aTurned, bool bTurned, bool narrow, class OnTheWay>
__device__ __forceinline__ int sumTile(const Product& p, int2 widths, Storage<S>& s, const Place& at, Sums<S>& sum,
                                       OnTheWay onTheWay) {
  constexpr int down = S::warpRows / 16, across = S::warpCols / 8, pieces = S::deep / 16;
  constexpr int stageBytes = S::aBytes + S::bBytes;
  constexpr bool aAlong = !aTurned, bAlong = bTurned;
  constexpr int aLength = aAlong ? S::deep : S::rows, bLength = bAlong ? S::deep : S::cols;
  using CopyA = TileCopy<T, aAlong ? S::rows : S::deep, aLength, S::threads, aAlong>;
  using CopyB = TileCopy<T, bAlong ? S::cols : S::deep, bLength, S::threads, bAlong>;
  static_assert(!OnTheWay::worksOnA || (aAlong && CopyA::passes == down && pieces == 2));

  if (threadIdx.x == 0) s.place = at;
  const int steps = (int)(at.end - at.begin);
  Walk walk(p, at, S::deep);
  CopyA copyA(p.a, walk.a, at.row, at.rows, walk.k);
  CopyB copyB(p.b, walk.b, at.col, p.n, walk.k);
  const TileReader<aLength, aAlong, true> readA(warpRow<S>());
  const TileReader<bLength, bAlong, false> readB(warpCol<S>());
  int left = at.depth - walk.k;
  [[maybe_unused]] int leftInChunk = at.depth - CopyA::column();  // of the depth, in the chunks that are worked on
  __syncthreads();

  auto copy = [&](int to, int rest) {  // rest: of the steps, this one and those behind it
    copyA.template issue<narrow>(s.bytes + to, p.a.step, left, widths.x);
    copyB.template issue<narrow>(s.bytes + to + S::aBytes, p.b.step, left, widths.y);
    left -= S::deep;
    copyA.from += aAlong ? S::deep : S::deep * p.a.step;
    copyB.from += bAlong ? S::deep : S::deep * p.b.step;
    if (!OnTheWay::oneProduct && left <= 0 && p.sums > 1) {  // on to the next product of the sum
      const int64_t passed = p.k - left;
      const int product = (int)((uint32_t)(s.place.end - rest) / (uint32_t)((p.k + S::deep - 1) / S::deep));
      left = p.k;
      copyA.from += Walk::between(p, product, true) - passed * (aAlong ? 1 : p.a.step);
      copyB.from += Walk::between(p, product, false) - passed * (bAlong ? 1 : p.b.step);
    }
  };
  uint32_t a[2][down][4], b[2][across][2];
  auto read = [&](int to, int from, int piece) {
#pragma unroll
    for (int i = 0; i < down; i++) readA.load(a[to][i], s.bytes + from, 16 * i, 16 * piece);
#pragma unroll
    for (int j = 0; j < across; j += 2) {
      uint32_t r[4];
      readB.load(r, s.bytes + from + S::aBytes, 8 * j, 16 * piece);
      b[to][j][0] = r[0], b[to][j][1] = r[1];
      b[to][j + 1][0] = r[2], b[to][j + 1][1] = r[3];
    }
  };

  for (int i = 0; i < S::stages - 1; i++) {
    if (i < steps)
      copy(i * stageBytes, steps - i);
    else
      onTheWay.behind(i - steps, s.bytes + i * stageBytes);
    commitCopies();
  }
  onTheWay.begin();
#pragma unroll
  for (int i = 0; i < down; i++)
#pragma unroll
    for (int j = 0; j < across; j++)
#pragma unroll
      for (int l = 0; l < 4; l++) sum[i][j][l] = 0;
  waitCopies<S::stages - 2>();
  if constexpr (OnTheWay::worksOnA) {
    __syncthreads();
    unsigned char* first = CopyA::chunkIn(s.bytes);
#pragma unroll
    for (int i = 0; i < down; i++) {
      const auto made = onTheWay.made(onTheWay.load(first + i * CopyA::apart, CopyA::line() + i * CopyA::perPass));
      if (leftInChunk > 0) storePack(reinterpret_cast<T*>(first + i * CopyA::apart), made);
    }
    onTheWay.after(first, leftInChunk);
  }
  __syncthreads();
  int from = 0;
  read(0, from, 0);
#pragma unroll 1
  for (int rest = steps; rest > 0; rest--) {
#pragma unroll
    for (int piece = 0; piece < pieces; piece++) {
      if (piece == pieces - 1) {  // the next stage is there, and nobody reads the last one any more
        if constexpr (!OnTheWay::worksOnA) waitCopies<S::stages - 2>();
        __syncthreads();
        from = from == (S::stages - 1) * stageBytes ? 0 : from + stageBytes;
      }
      read((piece + 1) % 2, from, (piece + 1) % pieces);
      if (piece == 0) {
        auto to = [&] { return from == 0 ? (S::stages - 1) * stageBytes : from - stageBytes; };
        if (rest > S::stages - 1)
          copy(to(), rest - (S::stages - 1));
        else
          onTheWay.behind(S::stages - 1 - rest, s.bytes + to());
        commitCopies();
      }
      [[maybe_unused]] unsigned char* next = nullptr;
      if (OnTheWay::worksOnA && piece == 0) {
        leftInChunk -= S::deep;
        waitCopies<S::stages - 2>();
        next = CopyA::chunkIn(s.bytes + (from == (S::stages - 1) * stageBytes ? 0 : from + stageBytes));
      }
#pragma unroll
      for (int i = 0; i < down; i++) {
        auto products = [&] {
#pragma unroll
          for (int j = 0; j < across; j++) multiplyAdd<T>(sum[i][j], a[piece % 2][i], b[piece % 2][j]);
        };
        if constexpr (OnTheWay::worksOnA) {
          if (piece == 0) {  // a chunk beside each row of products: the tensor cores need not wait
            const auto held = onTheWay.load(next + i * CopyA::apart, CopyA::line() + i * CopyA::perPass);
            products();
            const auto made = onTheWay.made(held);
            if (leftInChunk > 0) storePack(reinterpret_cast<T*>(next + i * CopyA::apart), made);
            continue;
          }
        }
        products();
      }
      if (OnTheWay::worksOnA && piece == 0) onTheWay.after(next, leftInChunk);
    }
  }
  waitCopies<0>();
  __syncthreads();
  return from;
}

// Lays 16 rows of the warp's part down in float, so that lanes can take eight neighbours each.
template <class S>
__device__ __forceinline__ void stage(const Sums<S>& sum, int piece, float* staging) {
  constexpr int down = S::warpRows / 16, across = S::warpCols / 8;
#pragma unroll
  for (int i = 0; i < down; i++)
    if (i == piece)
#pragma unroll
      for (int j = 0; j < across; j++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          *reinterpret_cast<float2*>(staging + (lane() / 4 + 8 * half) * S::stagingRow + 8 * j + lane() % 4 * 2) =
              make_float2(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
}

}  // namespace cuda
