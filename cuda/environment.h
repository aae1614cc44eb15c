#pragma once
// What the host keeps of the device for one JavaScript environment, that is for one thread.
#include <cuda_runtime.h>

#include <memory>
#include <string>
#include <vector>

#include "device/failure.cuh"
#include "pool.h"
#include "transfers.h"

// A captured step: the work, and the memory that it needs each time.
struct Graph {
  cudaGraphExec_t exec = nullptr;
  cuda::Pool* pool = nullptr;
  struct Held {
    void* data;
    size_t bytes;
  };
  std::vector<Held> held;  // memory from before that was released meanwhile: the graph may use it
};

namespace cuda {

struct Environment {
  cudaStream_t stream = nullptr;
  FailureRecord* failures = nullptr;
  unsigned launches = 0;
  Pool* pool = nullptr;
  std::unique_ptr<Transfers> transfers;
  Graph* capture = nullptr;  // the one that is being made
  std::vector<Graph*> graphs;
  std::vector<void*> unnamed;  // with guards: blocks that no kernel has been launched for
};

Environment& environment();         // of the calling thread; made at first use
Environment* environmentIfThere();  // null if the calling thread has not used the device

Pool* newPool(cudaStream_t stream);
void closePool(Pool* pool);
void setRecording(Environment& e, bool on);  // no other thread may touch its pools meanwhile
void countAsUsed(Pool* pool);                // of a finished graph
void nameBlocks(Environment& e, const char* kernel);

std::string said(const FailureRecord& record);  // "" if nothing happened

// What the caller asked for in the process's environment; POLYGRAD_SYNC=1, POLYGRAD_GUARD=1.
bool asked(const char* variable);

}  // namespace cuda
