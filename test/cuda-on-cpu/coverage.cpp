// Ops of the test build alone: which rows of the contract (src/kernels.h) were not called on the device, and which
// kernels were launched, since the process began. The linker sends calls of kernels() here (--wrap).
#include <dlfcn.h>

#include <atomic>

#include "coverage.h"
#include "ops/op.h"

namespace {

enum class Row {
#define K(name, params) name,
  KERNELS(K)
#undef K
};
constexpr const char* names[] = {
#define K(name, params) #name,
    KERNELS(K)
#undef K
};
std::atomic<bool> called[std::size(names)];

template <Row row, auto kernel>
struct Counted;
template <Row row, class... Args, void (*kernel)(Args...)>
struct Counted<row, kernel> {
  static void call(Args... args) {
    called[(int)row] = true;
    kernel(args...);
  }
};
#define K(name, params) &Counted<Row::name, &cuda::name>::call,
const Kernels counted = {KERNELS(K)};
#undef K

}  // namespace

extern "C" {
const Kernels& __real__Z7kernels6Device(Device device);
const Kernels& __wrap__Z7kernels6Device(Device device) {
  return device == Device::cuda ? counted : __real__Z7kernels6Device(device);
}
}

OP(std::string, rowsNotCalled, ()) {
  std::string all;
  for (size_t i = 0; i < std::size(names); i++)
    if (!called[i]) all += text(all.empty() ? "" : " ", names[i]);
  return all;
}

// As offsets into the addon, in decimal: `nm` knows their names.
OP(std::string, kernelsLaunched, ()) {
  Dl_info here{};
  dladdr((const void*)names, &here);
  std::string all;
  for (const void* kernel : emulator::launchedKernels())
    all += text(all.empty() ? "" : " ", (size_t)((const char*)kernel - (const char*)here.dli_fbase));
  return all;
}
