// OpenBLAS: which of its kernels run, and the two products.
#include "cpu/blas.h"

#include <cpuid.h>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "core/check.h"

extern "C" {
enum { rowMajor = 101, noTranspose = 111, transpose = 112 };
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                 int ldb, float beta, float* c, int ldc);
void cblas_dgemm(int order, int ta, int tb, int m, int n, int k, double alpha, const double* a, int lda,
                 const double* b, int ldb, double beta, double* c, int ldc);
void openblas_set_num_threads(int threads);
char* openblas_get_corename();
char* openblas_get_config();
}

namespace {

// OpenBLAS knows processors by model number: one newer than itself gets kernels from before AVX. So ask for what the
// processor can do instead. Zen 4 does AVX-512 in two halves, and there the AVX2 kernels are some 4 % faster.
const char* kernelsHere() {
  __builtin_cpu_init();
  unsigned a = 0, b, c, d;
  __get_cpuid(1, &a, &b, &c, &d);
  const bool zen4 = __builtin_cpu_is("amd") && ((a >> 8) & 15) + ((a >> 20) & 255) == 0x19;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512cd");
  if (avx512 && !zen4) return "SkylakeX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
  return nullptr;
}

// OpenBLAS counts in int.
int narrow(int64_t n) {
  check(n <= INT_MAX, "a matrix product has a side of ", n, ", but at most ", INT_MAX, " is possible");
  return (int)n;
}

}  // namespace

// OpenBLAS reads its settings from the environment while the addon loads, and starts its own threads then. The linker
// (--wrap=getenv) sends its questions here: changing the real environment would race with other threads' getenv.
extern "C" char* __real_getenv(const char* name);
extern "C" char* __wrap_getenv(const char* name) {
  if (std::strcmp(name, "OPENBLAS_NUM_THREADS") == 0) return const_cast<char*>("1");
  char* value = __real_getenv(name);
  if (!value && std::strcmp(name, "OPENBLAS_CORETYPE") == 0) return const_cast<char*>(kernelsHere());
  return value;
}

namespace cpu {

void sgemm(bool transposeA, bool transposeB, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
           const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  cblas_sgemm(rowMajor, transposeA ? transpose : noTranspose, transposeB ? transpose : noTranspose, narrow(m),
              narrow(n), narrow(k), alpha, a, narrow(lda), b, narrow(ldb), beta, c, narrow(ldc));
}

void dgemm(bool transposeA, bool transposeB, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
           int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc) {
  cblas_dgemm(rowMajor, transposeA ? transpose : noTranspose, transposeB ? transpose : noTranspose, narrow(m),
              narrow(n), narrow(k), alpha, a, narrow(lda), b, narrow(ldb), beta, c, narrow(ldc));
}

void blasInit() { openblas_set_num_threads(1); }

std::string blasName() {
  std::string config = openblas_get_config(), core = openblas_get_corename();
  if (core == "Prescott") core = "Nehalem";  // one and the same here: see OPENBLAS_CORES in CMakeLists.txt
  return config.substr(0, config.find(' ', config.find(' ') + 1)) + " (" + core + " kernels)";
}

}  // namespace cpu
