// What a failed CUDA call means: the process ends and names the call. Its errors are sticky, so
// that
// nothing after one can be trusted. Memory that is out is the exception: a Status (cuda/memory.h).
#pragma once

#include <cuda_runtime_api.h>

namespace cachalot::device::cuda {

[[noreturn]] void cuda_failed(cudaError_t error, const char* call, const char* file, int line);

}  // namespace cachalot::device::cuda

#define CACHALOT_CUDA_CHECK(call)                                               \
  do {                                                                          \
    if (const cudaError_t error_ = (call); error_ != cudaSuccess) [[unlikely]]  \
      ::cachalot::device::cuda::cuda_failed(error_, #call, __FILE__, __LINE__); \
  } while (false)
