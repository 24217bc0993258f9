// Owned memory of the device, and pinned host memory from which it is filled.
// Memory is taken and given back in stream order: a buffer may be dropped while kernels that were
// submitted to its stream before still use it. Its stream outlives it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/cuda/handles.h"

namespace cachalot::device::cuda {

// Contents are not defined at first; data() is aligned to 256 bytes.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  static Result<DeviceBuffer> create(const Stream& stream,
                                     int64_t num_bytes);  // resource_exhausted
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  cudaStream_t stream_ = nullptr;
};

class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  static Result<PinnedBuffer> create(int64_t num_bytes);  // resource_exhausted
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;
  ~PinnedBuffer();

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// In stream order; the host side stays valid until the stream has come so far. Asynchronous where
// it is pinned.
void copy_to_device(const Stream& stream, std::byte* to, const void* from, int64_t num_bytes);
void copy_to_host(const Stream& stream, void* to, const std::byte* from, int64_t num_bytes);
void fill(const Stream& stream, std::byte* to, uint8_t value, int64_t num_bytes);

}  // namespace cachalot::device::cuda
