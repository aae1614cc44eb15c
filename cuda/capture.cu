// Steps as graphs: what a stream was asked for once, queued as a whole again and again.
#include <algorithm>

#include "core/check.h"
#include "environment.h"
#include "kernels.h"
#include "stream.h"

namespace cuda {

bool capturing() {
  Environment* e = environmentIfThere();
  return e && e->capture;
}

void beginCapture() {
  Environment& e = environment();
  check(!e.capture, "capture: a step is being captured already");
  trim();  // the graph cannot use what is cached
  auto* graph = new Graph;
  graph->pool = newPool(e.stream);
  graph->pool->recording = true;
  setRecording(e, true);
  // Relaxed: the graph's pool may ask the device for memory meanwhile.
  const cudaError_t status = cudaStreamBeginCapture(e.stream, cudaStreamCaptureModeRelaxed);
  if (status != cudaSuccess) {
    setRecording(e, false);
    closePool(graph->pool);
    delete graph;
    checkCuda(status, "capture");
  }
  e.capture = graph;
}

Graph* endCapture(bool keep) {
  Environment& e = environment();
  check(e.capture, "capture: no step is being captured");
  Graph* graph = e.capture;
  e.capture = nullptr;
  e.graphs.push_back(graph);
  cudaGraph_t recorded = nullptr;
  cudaError_t status = cudaStreamEndCapture(e.stream, &recorded);
  if (status == cudaSuccess && keep) status = cudaGraphInstantiate(&graph->exec, recorded, 0);
  if (recorded) cudaGraphDestroy(recorded);
  setRecording(e, false);
  if (status != cudaSuccess || !keep) {
    destroyGraph(graph);
    if (keep) checkCuda(status, "capture");
    cudaGetLastError();
    return nullptr;
  }
  countAsUsed(graph->pool);
  return graph;
}

void replay(Graph* graph) {
  Environment& e = environment();
  check(std::find(e.graphs.begin(), e.graphs.end(), graph) != e.graphs.end(), "replay: the graph has been destroyed");
  check(!e.capture, "replay: a step is being captured");
  checkCuda(cudaGraphLaunch(graph->exec, e.stream), "replay");
  launched("replay");
}

void destroyGraph(Graph* graph) {
  Environment& e = environment();
  auto at = std::find(e.graphs.begin(), e.graphs.end(), graph);
  if (at == e.graphs.end()) return;
  e.graphs.erase(at);
  cudaStreamSynchronize(e.stream);
  if (graph->exec) cudaGraphExecDestroy(graph->exec);
  for (auto [data, bytes] : graph->held) release(data, bytes);
  closePool(graph->pool);
  delete graph;
}

}  // namespace cuda
