#include "kernels.h"

#include <cstdlib>
#include <cstring>

#include "core/check.h"
#include "cpu/stream.h"

namespace {

// Queues a CPU kernel on the stream of the calling thread instead of running it.
template <auto kernel>
struct Queued;
template <class... Args, void (*kernel)(Args...)>
struct Queued<kernel> {
  static void call(Args... args) {
    cpu::stream().enqueue([=] { kernel(args...); });
  }
};

#define K(name, params) &Queued<&cpu::avx2::name>::call,
const Kernels avx2 = {KERNELS(K)};
#undef K
#define K(name, params) &Queued<&cpu::avx512::name>::call,
const Kernels avx512 = {KERNELS(K)};
#undef K
#define K(result, name, params) &cpu::name,
const Backend onCpu = {BACKEND(K)};
#undef K

#ifdef WITH_CUDA
#define K(name, params) &cuda::name,
const Kernels cudaKernels = {KERNELS(K)};
#undef K
#define K(result, name, params) &cuda::name,
const Backend onCuda = {BACKEND(K)};
#undef K
#endif

struct Choice {
  const char* name;
  const Kernels* table;
};

// POLYGRAD_ISA=avx2 asks for less than the machine offers.
const Choice& choice() {
  static const Choice chosen = [] {
    const char* asked = std::getenv("POLYGRAD_ISA");
    auto allowed = [&](const char* name) { return !asked || !std::strcmp(asked, name); };
    __builtin_cpu_init();
    bool has2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    bool has512 = has2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512cd");
    if (has512 && allowed("avx512")) return Choice{"avx512", &avx512};
    if (has2) return Choice{"avx2", &avx2};
    throw Error("the CPU backend needs a processor with AVX2, FMA and BMI2 (any since 2015)", "ERR_DEVICE");
  }();
  return chosen;
}

}  // namespace

#ifdef WITH_CUDA
[[noreturn]] static void throwOneGpu(Device device) {
  throw Error(text("there is no device cuda:", (int)device - 1,
                   ": a process uses one GPU, which is called cuda; CUDA_VISIBLE_DEVICES=", (int)device - 1,
                   " makes it that one"),
              "ERR_DEVICE");
}
namespace cuda {
CudaReport report();
size_t availableMemory();
}  // namespace cuda
CudaReport cudaReport() { return cuda::report(); }
size_t cudaAvailableMemory() { return cuda::availableMemory(); }
#else
size_t cudaAvailableMemory() { throw Error("this build of polygrad has no CUDA backend", "ERR_DEVICE"); }
CudaReport cudaReport() {
  return {{}, "this build of polygrad has no CUDA backend; ./setup.sh --cuda makes one that has"};
}
#endif

const std::vector<const Backend*>& backends() {
#ifdef WITH_CUDA
  static const std::vector<const Backend*> all = {&onCpu, &onCuda};
#else
  static const std::vector<const Backend*> all = {&onCpu};
#endif
  return all;
}

const char* cpuInstructionSet() { return choice().name; }

const Kernels& kernels(Device device) {
  if (device == Device::cpu) return *choice().table;
#ifdef WITH_CUDA
  if (device != Device::cuda) throwOneGpu(device);
  return cudaKernels;
#else
  throw Error("this build of polygrad has no CUDA backend", "ERR_DEVICE");
#endif
}

const Backend& backend(Device device) {
  if (device == Device::cpu) return onCpu;
#ifdef WITH_CUDA
  if (device != Device::cuda) throwOneGpu(device);
  return onCuda;
#else
  throw Error("this build of polygrad has no CUDA backend", "ERR_DEVICE");
#endif
}
