#include "attention.cuh"
namespace cuda {
bool sm80Takes(Dtype, int, bool) { return false; }
ForwardTiling sm80Tiling(int) { return {}; }
void attentionSm80(Dtype, const AttentionProblem&) {}
void attentionGradSm80(Dtype, const AttentionProblem&) {}
}  // namespace cuda
