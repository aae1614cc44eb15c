// The ceiling of the bandwidth figures: a copy with streaming stores by several threads. Compiled by `npm run
// bench:cpu`. usage: copy THREADS BYTES; then, for each line on standard input, copies once and prints {"seconds": s}.
#include <immintrin.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  int threads = std::atoi(argv[1]);
  size_t bytes = std::strtoull(argv[2], nullptr, 10) / (threads * 64) * (threads * 64), part = bytes / threads;
  char* from = (char*)std::aligned_alloc(1 << 21, (bytes + (1 << 21) - 1) >> 21 << 21);
  char* to = (char*)std::aligned_alloc(1 << 21, (bytes + (1 << 21) - 1) >> 21 << 21);
  madvise(from, bytes, MADV_HUGEPAGE);  // as the tensors that it is compared with
  madvise(to, bytes, MADV_HUGEPAGE);
  std::memset(from, 1, bytes);
  std::memset(to, 2, bytes);
  // Helpers sleep between rounds, so as not to disturb the other contenders; they are awake before the clock starts.
  std::mutex mutex;
  std::condition_variable wake;
  int called = 0;
  std::atomic<int> ready{0}, round{0}, done{0};
  auto copy = [&](int t) {
    const __m256i* in = (const __m256i*)(from + t * part);
    __m256i* out = (__m256i*)(to + t * part);
    for (size_t i = 0; i < part / 32; i++) _mm256_stream_si256(out + i, _mm256_load_si256(in + i));
    _mm_sfence();
  };
  for (int t = 1; t < threads; t++)
    std::thread([&, t] {
      for (int seen = 0;; seen++) {
        {
          std::unique_lock lock(mutex);
          wake.wait(lock, [&] { return called != seen; });
        }
        ready++;
        while (round == seen) _mm_pause();
        copy(t);
        done++;
      }
    }).detach();
  std::printf("{\"bytes\": %zu}\n", bytes);
  std::fflush(stdout);
  for (char line[256]; std::fgets(line, sizeof line, stdin);) {
    ready = done = 0;
    {
      std::lock_guard lock(mutex);
      called++;
    }
    wake.notify_all();
    while (ready < threads - 1) _mm_pause();
    auto start = std::chrono::steady_clock::now();
    round++;
    copy(0);
    while (done < threads - 1) _mm_pause();
    std::printf("{\"seconds\": %.9f}\n",
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    std::fflush(stdout);
  }
  std::_Exit(0);
}
