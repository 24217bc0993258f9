#include "device/cuda/handles.h"

#include "device/cuda/error.h"

namespace cachalot::device::cuda {

Stream Stream::create() {
  cudaStream_t handle = nullptr;
  CACHALOT_CUDA_CHECK(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking));
  return Stream(handle);
}

void Stream::synchronize() const { CACHALOT_CUDA_CHECK(cudaStreamSynchronize(get())); }

Event Event::create() {
  cudaEvent_t handle = nullptr;
  CACHALOT_CUDA_CHECK(cudaEventCreate(&handle));
  return Event(handle);
}

void Event::record(const Stream& stream) const {
  CACHALOT_CUDA_CHECK(cudaEventRecord(get(), stream.get()));
}

void Event::synchronize() const { CACHALOT_CUDA_CHECK(cudaEventSynchronize(get())); }

double Event::elapsed_us(const Event& begin, const Event& end) {
  float ms = 0;
  CACHALOT_CUDA_CHECK(cudaEventElapsedTime(&ms, begin.get(), end.get()));
  return ms * 1e3;
}

Graph Graph::capture(const Stream& stream, const std::function<void()>& work) {
  CACHALOT_CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  work();
  cudaGraph_t graph = nullptr;
  CACHALOT_CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
  cudaGraphExec_t handle = nullptr;
  CACHALOT_CUDA_CHECK(cudaGraphInstantiate(&handle, graph, 0));
  CACHALOT_CUDA_CHECK(cudaGraphDestroy(graph));
  CACHALOT_CUDA_CHECK(cudaGraphUpload(handle, stream.get()));
  return Graph(handle);
}

void Graph::launch(const Stream& stream) const {
  CACHALOT_CUDA_CHECK(cudaGraphLaunch(get(), stream.get()));
}

}  // namespace cachalot::device::cuda
