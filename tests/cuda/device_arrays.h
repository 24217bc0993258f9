// Arrays on a GPU, for tests and benchmarks that hand device memory to kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "device/cuda/device.h"
#include "device/cuda/memory.h"

namespace cachalot::testing {

namespace cuda = device::cuda;

class DeviceArrays {
 public:
  const cuda::Device& device() const { return device_; }
  const cuda::Stream& stream() const { return stream_; }

  cuda::DeviceBuffer room(int64_t num_bytes, uint8_t value = 0xFF) {
    Result<cuda::DeviceBuffer> buffer = cuda::DeviceBuffer::create(stream_, num_bytes);
    CACHALOT_CHECK_MSG(buffer.has_value(), buffer.error().message());
    cuda::fill(stream_, (*buffer).data(), value, num_bytes);  // 0xFF: NaN in bf16 and fp32
    return *std::move(buffer);
  }
  template <typename T>
  cuda::DeviceBuffer put(const std::vector<T>& values) {
    cuda::DeviceBuffer buffer = room(static_cast<int64_t>(values.size() * sizeof(T)));
    cuda::copy_to_device(stream_, buffer.data(), values.data(), buffer.size());
    stream_.synchronize();
    return buffer;
  }
  template <typename T>
  std::vector<T> get(const cuda::DeviceBuffer& buffer) {
    std::vector<T> values(static_cast<size_t>(buffer.size()) / sizeof(T));
    cuda::copy_to_host(stream_, values.data(), buffer.data(), buffer.size());
    stream_.synchronize();
    return values;
  }

 protected:
  void open(const cuda::Device& device) {
    device_ = device;
    stream_ = cuda::Stream::create();
  }

  cuda::Device device_;
  cuda::Stream stream_;
};

}  // namespace cachalot::testing
