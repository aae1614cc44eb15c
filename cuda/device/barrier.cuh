#pragma once
// How the parts of a block wait for each other, and for what the hardware does beside them. sm_90.
#include <cuda_runtime.h>

#include <cstdint>

#include "device/async.cuh"

#if !defined(__CUDACC__) || __CUDA_ARCH__ >= 900
#define HAS_SM90 1  // what every later GPU has too
#endif
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_SM90A 1  // wgmma, setmaxnreg
#endif

namespace cuda {

// One lane of the warp, the same each time; all lanes call it. Unlike `lane() == 0` it tells the compiler that a single
// thread goes on.
__device__ __forceinline__ bool electOne() {
#ifndef __CUDACC__
  emulator::shown(0, "elect.sync");
  return emulator::current->lane == 0;
#elif defined(HAS_SM90)
  unsigned elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(elected));
  return elected;
#else
  __trap();
  return false;
#endif
}

// A barrier in shared memory (mbarrier). A phase ends when so many arrivals, and the bytes announced with them, are
// there; phases are counted modulo 2.
struct alignas(8) PhaseBarrier {
  uint64_t state;

  __device__ __forceinline__ void init(unsigned arrivals) {
#ifndef __CUDACC__
    emulator::initMbarrier(this, arrivals);
#elif defined(HAS_SM90)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(this)), "r"(arrivals) : "memory");
#else
    __trap();
#endif
  }
  __device__ __forceinline__ void arrive() {
#ifndef __CUDACC__
    emulator::arriveMbarrier(this, 0);
#elif defined(HAS_SM90)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(this)) : "memory");
#else
    __trap();
#endif
  }
  // Arrives, and announces bytes that copies into shared memory will bring.
  __device__ __forceinline__ void arriveExpecting(unsigned bytes) {
#ifndef __CUDACC__
    emulator::arriveMbarrier(this, bytes);
#elif defined(HAS_SM90)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(this)), "r"(bytes)
                 : "memory");
#else
    __trap();
#endif
  }
  // Until the phase of this parity has ended. Before the first phase, the one of parity 1 counts as ended.
  __device__ __forceinline__ void wait(unsigned parity) {
#ifndef __CUDACC__
    emulator::waitMbarrier(this, parity);
#elif defined(HAS_SM90)
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@p bra done;\n"
        "bra again;\n"
        "done:\n"
        "}" ::"r"(sharedAddress(this)),
        "r"(parity)
        : "memory");
#else
    __trap();
#endif
  }
};

// After the barriers of a block were initialised, by the thread that did it and before __syncthreads: makes them
// visible to copies too.
__device__ __forceinline__ void fenceBarrierInit() {
#ifndef __CUDACC__
#elif defined(HAS_SM90)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

// Makes what this thread wrote to shared memory visible to the copy engine and to the tensor cores, once a barrier
// follows.
__device__ __forceinline__ void fenceProxyAsync() {
#ifndef __CUDACC__
  emulator::fenceProxy();
#elif defined(HAS_SM90)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

// A barrier among some warps of the block; id 0 is that of __syncthreads.
__device__ __forceinline__ void syncThreads(int id, int threads) {
#ifdef __CUDACC__
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emulator::arriveAndWait(emulator::current->block->barriers[id], threads, "bar.sync");
#endif
}

// Registers a thread of this warpgroup may use from here on: fewer, so that others can have more. Works only in a
// kernel with __launch_bounds__(threads, 1).
template <int registers>
__device__ __forceinline__ void giveUpRegisters() {
#if defined(__CUDACC__) && defined(HAS_SM90A)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
#endif
}
template <int registers>
__device__ __forceinline__ void takeRegisters() {
#if defined(__CUDACC__) && defined(HAS_SM90A)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
#endif
}

}  // namespace cuda
