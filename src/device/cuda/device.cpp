#include "device/cuda/device.h"

#include <cuda_runtime_api.h>

#include <string>

#include "device/cuda/error.h"

namespace cachalot::device::cuda {

Result<Device> open_device(int ordinal) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();  // not sticky: there is nothing behind it
    return unsupported(std::string("device cuda: expected a driver, found ") +
                       cudaGetErrorString(error));
  }
  if (ordinal < 0 || ordinal >= count) {
    return unsupported("device cuda:" + std::to_string(ordinal) + ": expected one of " +
                       std::to_string(count) + " devices, found none");
  }
  cudaDeviceProp properties;
  CACHALOT_CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  if (properties.major != 9 || properties.minor != 0) {
    return unsupported("device cuda:" + std::to_string(ordinal) + ": expected sm_90, found sm_" +
                       std::to_string(properties.major) + std::to_string(properties.minor));
  }
  CACHALOT_CUDA_CHECK(cudaSetDevice(ordinal));
  Device device;
  device.ordinal = ordinal;
  device.num_sms = properties.multiProcessorCount;
  device.smem_per_sm_bytes = static_cast<int64_t>(properties.sharedMemPerMultiprocessor);
  device.smem_per_block_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  device.l2_bytes = properties.l2CacheSize;
  device.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  return device;
}

}  // namespace cachalot::device::cuda
