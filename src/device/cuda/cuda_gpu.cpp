#include "device/cuda/cuda_gpu.h"

#include <string>
#include <vector>

#include "base/check.h"
#include "device/cuda/error.h"
#include "device/cuda/launch_list.h"
#include "device/gpu.h"
#include "device/piece_pool.h"

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

// Launches and copies of tables are put off until something waits for them or many have come
// together: then the tables go up in few copies, and the launches run as one (launch_list.h).
class CudaGpu final : public Gpu {
 public:
  explicit CudaGpu(const Device& device)
      : device_(device),
        stream_(Stream::create()),
        staged_(Event::create()),
        launches_([this] { submit(); }),
        pieces_([this](int64_t num_bytes) { return take(num_bytes); },
                [this](std::byte* memory) { give_back(memory); }) {
    stream_.put_off(&launches_);
  }
  ~CudaGpu() override {
    make_current();
    synchronize();
    release_tables();
  }

  Result<std::byte*> allocate(int64_t num_bytes) override {
    CACHALOT_ASSIGN_OR_RETURN(std::byte * memory, pieces_.allocate(num_bytes));
    fill(memory, 0, num_bytes);
    return memory;
  }
  void release(std::byte* memory) override { pieces_.release(memory); }
  void copy(void* to, const void* from, int64_t num_bytes) override {
    submit();
    CACHALOT_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(num_bytes), cudaMemcpyDefault,
                                        stream_.get()));
    stream_.synchronize();
  }
  void fill(void* to, uint8_t value, int64_t num_bytes) override {
    submit();
    CACHALOT_CUDA_CHECK(cudaMemsetAsync(to, value, static_cast<size_t>(num_bytes), stream_.get()));
  }
  void synchronize() override {
    submit();
    stream_.synchronize();
  }

  Result<std::byte*> allocate_pinned(int64_t num_bytes) override {
    make_current();
    void* memory = nullptr;
    const cudaError_t error =
        cudaHostAlloc(&memory, static_cast<size_t>(num_bytes), cudaHostAllocDefault);
    return given(error, memory, "pinned", num_bytes);
  }
  void release_pinned(std::byte* memory) override {
    submit();
    stream_.synchronize();  // kernels may read it
    CACHALOT_CUDA_CHECK(cudaFreeHost(memory));
  }
  void copy_all(std::span<const Copy> copies) override {
    submit();
    for (const Copy& one : copies) {
      CACHALOT_CUDA_CHECK(cudaMemcpyAsync(one.to, one.from, static_cast<size_t>(one.num_bytes),
                                          cudaMemcpyDefault, stream_.get()));
    }
    stream_.synchronize();
  }

  const Device& device() const { return device_; }
  const Stream& stream() const { return stream_; }

 protected:
  void copy_staged(std::byte* to, const std::byte* from, int64_t num_bytes) override {
    // Those of one block of tables lie one after the other.
    if (!staging_.empty()) {
      StagedCopy& last = staging_.back();
      if (last.from + last.num_bytes == from && last.to + last.num_bytes == to) {
        last.num_bytes += num_bytes;
        return;
      }
    }
    staging_.push_back({to, from, num_bytes});
  }
  void wait_for_staging() override {
    make_current();
    submit();
    staged_.synchronize();
  }

 private:
  // A thread launches on its current device: every step and every owner begins with this.
  void make_current() const { CACHALOT_CUDA_CHECK(cudaSetDevice(device_.ordinal)); }

  Result<std::byte*> take(int64_t num_bytes) {
    make_current();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(num_bytes));
    return given(error, memory, "device", num_bytes);
  }
  // Waits until nothing on the device reads it.
  void give_back(std::byte* memory) {
    submit();
    CACHALOT_CUDA_CHECK(cudaFree(memory));
  }

  struct StagedCopy {
    std::byte* to;
    const std::byte* from;
    int64_t num_bytes;
  };
  // Hands the device what was put off. The copies may go first: no launch before them reads there.
  void submit() {
    for (const StagedCopy& copy : staging_) {
      CACHALOT_CUDA_CHECK(cudaMemcpyAsync(copy.to, copy.from, static_cast<size_t>(copy.num_bytes),
                                          cudaMemcpyHostToDevice, stream_.get()));
    }
    if (!staging_.empty()) staged_.record(stream_);
    staging_.clear();
    launches_.run(stream_);
  }

  Device device_;
  Stream stream_;
  Event staged_;  // of the last copy in staging_
  std::vector<StagedCopy> staging_;
  LaunchList launches_;
  PiecePool pieces_;
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
