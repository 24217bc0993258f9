#include "device/cuda/error.h"

#include <string>

#include "base/check.h"

namespace cachalot::device::cuda {

void cuda_failed(cudaError_t error, const char* call, const char* file, int line) {
  check_failed(file, line, call,
               std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error));
}

}  // namespace cachalot::device::cuda
