// The last step of the coefficient gradients: a fixed-order sum of what the groups of rows left.
#include "device/failure.cuh"
#include "poly.cuh"

namespace cuda {
namespace {

struct SumsShared {
  BlockReduce<double> reduce;
};

// One block a sum: its threads take slots in turn, then join in a fixed order.
template <class C>
__global__ void joinSlotsKernel(const double* slots, Runs runs, const int32_t* offsets, int order, C* dweight,
                                C* dbias) {
  auto& s = sharedMemory<SumsShared>();
  const int set = blockIdx.x / (order + 1), k = blockIdx.x % (order + 1);
  int64_t begin = offsets ? (int64_t)offsets[set] : 0, end = offsets ? (int64_t)offsets[set + 1] : runs.rows;
  begin = begin < 0 ? 0 : begin;
  end = end > runs.rows ? runs.rows : end;
  double sum = 0;
  if (begin < end)
    for (int64_t g = runs.of(begin) + threadIdx.x, last = runs.of(end - 1); g <= last; g += blockDim.x)
      sum += slots[(g + set) * (order + 1) + k];
  sum = blockSum(sum, s.reduce);
  if (threadIdx.x) return;
  if (k == 0)
    dbias[set] = (C)sum;
  else
    dweight[(int64_t)set * order + order - k] = (C)sum;
}

// One block.
__global__ void checkOffsetsKernel(const int32_t* offsets, int sets, int64_t rows, Failure falls, Failure range) {
  bool fell = false;
  for (int i = threadIdx.x; i < sets; i += blockDim.x)
    if (offsets[i] > offsets[i + 1]) {
      report(falls, i + 1, offsets[i + 1], offsets[i]);
      fell = true;
    }
  fell = __any_sync(~0u, fell);
  if (threadIdx.x == 0 && !fell && (offsets[0] != 0 || offsets[sets] != rows))
    report(range, offsets[0], offsets[sets], rows);
}

}  // namespace

void joinSlots(const double* slots, const Runs& runs, const View& offsets, const View& dweight, const View& dbias) {
  const int order = (int)dweight.cols();
  const Grid grid{dim3((unsigned)(dbias.size() * (order + 1))), 128, sizeof(SumsShared)};
  const int32_t* at = offsets.as<int32_t>();
  if (dweight.dtype == Dtype::float64)
    launch("joinSlots", joinSlotsKernel<double>, grid, slots, runs, at, order, dweight.as<double>(),
           dbias.as<double>());
  else
    launch("joinSlots", joinSlotsKernel<float>, grid, slots, runs, at, order, dweight.as<float>(), dbias.as<float>());
}

void checkOffsets(const char* op, const View& offsets, int64_t rows) {
  if (!offsets.given()) return;
  launch(op, checkOffsetsKernel, {dim3(1), 32}, offsets.as<int32_t>(), (int)offsets.size() - 1, rows,
         failure(sentence::offsetsFall, op), failure(sentence::offsetsRange, op));
}

}  // namespace cuda
