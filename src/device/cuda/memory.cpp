#include "device/cuda/memory.h"

#include <string>
#include <utility>

#include "device/cuda/error.h"

namespace cachalot::device::cuda {

Result<DeviceBuffer> DeviceBuffer::create(const Stream& stream, int64_t num_bytes) {
  DeviceBuffer buffer;
  if (num_bytes == 0) return buffer;
  void* data = nullptr;
  const cudaError_t error = cudaMallocAsync(&data, static_cast<size_t>(num_bytes), stream.get());
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky
    return resource_exhausted("device memory: expected " + std::to_string(num_bytes) +
                              " bytes, found fewer free");
  }
  CACHALOT_CUDA_CHECK(error);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.size_ = num_bytes;
  buffer.stream_ = stream.get();
  return buffer;
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      stream_(std::exchange(other.stream_, nullptr)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(stream_, other.stream_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) cudaFreeAsync(data_, stream_);
}

Result<PinnedBuffer> PinnedBuffer::create(int64_t num_bytes) {
  PinnedBuffer buffer;
  if (num_bytes == 0) return buffer;
  void* data = nullptr;
  const cudaError_t error =
      cudaHostAlloc(&data, static_cast<size_t>(num_bytes), cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky
    return resource_exhausted("pinned memory: expected " + std::to_string(num_bytes) +
                              " bytes, found fewer free");
  }
  CACHALOT_CUDA_CHECK(error);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.size_ = num_bytes;
  return buffer;
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

void copy_to_device(const Stream& stream, std::byte* to, const void* from, int64_t num_bytes) {
  CACHALOT_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(num_bytes),
                                      cudaMemcpyHostToDevice, stream.get()));
}

void copy_to_host(const Stream& stream, void* to, const std::byte* from, int64_t num_bytes) {
  CACHALOT_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(num_bytes),
                                      cudaMemcpyDeviceToHost, stream.get()));
}

void fill(const Stream& stream, std::byte* to, uint8_t value, int64_t num_bytes) {
  CACHALOT_CUDA_CHECK(cudaMemsetAsync(to, value, static_cast<size_t>(num_bytes), stream.get()));
}

}  // namespace cachalot::device::cuda
