#include "device/cuda/cuda_gpu.h"

#include <string>

#include "base/check.h"
#include "device/cuda/error.h"
#include "device/gpu.h"

namespace cachalot::device {
namespace cuda {
namespace {

Result<std::byte*> given(cudaError_t error, void* memory, const char* kind, int64_t num_bytes) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky
    return resource_exhausted(std::string(kind) + " memory: expected " + std::to_string(num_bytes) +
                              " bytes, found fewer free");
  }
  CACHALOT_CUDA_CHECK(error);
  return static_cast<std::byte*>(memory);
}

class CudaGpu final : public Gpu {
 public:
  explicit CudaGpu(const Device& device)
      : device_(device), stream_(Stream::create()), staged_(Event::create()) {}
  ~CudaGpu() override {
    make_current();
    stream_.synchronize();
    release_tables();
  }

  Result<std::byte*> allocate(int64_t num_bytes) override {
    make_current();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(num_bytes));
    CACHALOT_ASSIGN_OR_RETURN(std::byte * given_memory, given(error, memory, "device", num_bytes));
    fill(given_memory, 0, num_bytes);
    return given_memory;
  }
  // Waits until nothing on the device reads it.
  void release(std::byte* memory) override { CACHALOT_CUDA_CHECK(cudaFree(memory)); }
  void copy(void* to, const void* from, int64_t num_bytes) override {
    CACHALOT_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(num_bytes), cudaMemcpyDefault,
                                        stream_.get()));
    stream_.synchronize();
  }
  void fill(void* to, uint8_t value, int64_t num_bytes) override {
    CACHALOT_CUDA_CHECK(cudaMemsetAsync(to, value, static_cast<size_t>(num_bytes), stream_.get()));
  }
  void synchronize() override { stream_.synchronize(); }

  const Device& device() const { return device_; }
  const Stream& stream() const { return stream_; }

 protected:
  Result<std::byte*> allocate_staging(int64_t num_bytes) override {
    void* memory = nullptr;
    const cudaError_t error =
        cudaHostAlloc(&memory, static_cast<size_t>(num_bytes), cudaHostAllocDefault);
    return given(error, memory, "pinned", num_bytes);
  }
  void release_staging(std::byte* memory) override { CACHALOT_CUDA_CHECK(cudaFreeHost(memory)); }
  void copy_staged(std::byte* to, const std::byte* from, int64_t num_bytes) override {
    CACHALOT_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(num_bytes),
                                        cudaMemcpyHostToDevice, stream_.get()));
    staged_.record(stream_);
  }
  void wait_for_staging() override {
    make_current();
    staged_.synchronize();
  }

 private:
  // A thread launches on its current device: every step and every owner begins with this.
  void make_current() const { CACHALOT_CUDA_CHECK(cudaSetDevice(device_.ordinal)); }

  Device device_;
  Stream stream_;
  Event staged_;  // of the last copy_staged()
};

const CudaGpu& gpu_of(const ExecContext& ctx) {
  CACHALOT_CHECK(ctx.gpu != nullptr);
  return static_cast<const CudaGpu&>(*ctx.gpu);
}

}  // namespace

const Device& device_of(const ExecContext& ctx) { return gpu_of(ctx).device(); }
const Stream& stream_of(const ExecContext& ctx) { return gpu_of(ctx).stream(); }

}  // namespace cuda

Result<std::unique_ptr<Gpu>> Gpu::open(int ordinal) {
  CACHALOT_ASSIGN_OR_RETURN(const cuda::Device device, cuda::open_device(ordinal));
  return std::unique_ptr<Gpu>(std::make_unique<cuda::CudaGpu>(device));
}

}  // namespace cachalot::device
