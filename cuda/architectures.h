#pragma once
// Which of the architectures that the kernels were compiled for a GPU runs, by the rules of CUDA.
#include <string>

namespace cuda {

struct Image {
  int architecture = 0;   // 80, 89, 90, 100 ..; 0: this GPU runs none
  bool specific = false;  // to this very architecture, as sm_90a: the only ones with wgmma
};

// built: as CMake writes them, with commas: `80-real,90a,120-virtual`. Machine code runs on later GPUs of the same
// generation (8.0 on 8.9), PTX on all later ones, either with an `a` on its own architecture alone. Words that are no
// architecture (`native`) are taken for the GPU's.
Image imageFor(const std::string& built, int capability);

// The same for a reader: `sm_80, sm_90a, PTX of 120`.
std::string listed(const std::string& built);

}  // namespace cuda
