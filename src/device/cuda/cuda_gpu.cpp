#include "device/cuda/cuda_gpu.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "device/cuda/error.h"
#include "device/cuda/late_read.h"
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

// Pinned memory that copies to the device begin from: what they copy may change at once. In halves,
// one of which is filled while copies from the other run.
class Uploads {
 public:
  ~Uploads() {
    if (memory_ != nullptr) cudaFreeHost(memory_);
  }
  void start(const Stream& stream, std::byte* to, const std::byte* from, int64_t num_bytes) {
    if (memory_ == nullptr) {
      void* memory = nullptr;
      CACHALOT_CUDA_CHECK(cudaHostAlloc(&memory, 2 * kHalfBytes, cudaHostAllocDefault));
      memory_ = static_cast<std::byte*>(memory);
    }
    while (num_bytes > 0) {
      if (used_ == kHalfBytes) {
        done_[half_].record(stream);
        half_ ^= 1;
        done_[half_].synchronize();
        used_ = 0;
      }
      const int64_t count = std::min(num_bytes, kHalfBytes - used_);
      std::byte* const place = memory_ + half_ * kHalfBytes + used_;
      std::memcpy(place, from, static_cast<size_t>(count));
      CACHALOT_CUDA_CHECK(cudaMemcpyAsync(to, place, static_cast<size_t>(count),
                                          cudaMemcpyHostToDevice, stream.get()));
      used_ += count;
      to += count;
      from += count;
      num_bytes -= count;
    }
  }

 private:
  static constexpr int64_t kHalfBytes = int64_t{8} << 20;
  std::byte* memory_ = nullptr;
  Event done_[2] = {Event::create(), Event::create()};
  int half_ = 0;
  int64_t used_ = 0;
};

// Launches and copies of tables are put off until something waits for them or many have come
// together: then the tables go up in few copies, and the launches run as one (launch_list.h).
class CudaGpu final : public Gpu {
 public:
  explicit CudaGpu(const Device& device)
      : device_(device),
        stream_(Stream::create()),
        read_(Event::create()),
        // What comes while a read is under way need not hurry: the device is at work.
        launches_([this] {
          if (!is_reading_) submit();
        }),
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

  void start_read(void* to, const void* from, int64_t num_bytes) {
    submit();
    CACHALOT_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(num_bytes), cudaMemcpyDefault,
                                        stream_.get()));
    read_.record(stream_);
    is_reading_ = true;
  }
  void wait_for_read() {
    submit();  // the device goes on with it meanwhile
    read_.synchronize();
    is_reading_ = false;
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
    for (const StagedCopy& copy : staging_)
      uploads_.start(stream_, copy.to, copy.from, copy.num_bytes);
    staging_.clear();
    launches_.run(stream_);
  }

  Device device_;
  Stream stream_;
  Event read_;
  bool is_reading_ = false;
  Uploads uploads_;
  std::vector<StagedCopy> staging_;
  LaunchList launches_;
  PiecePool pieces_;
};

CudaGpu& gpu_of(const ExecContext& ctx) {
  CACHALOT_CHECK(ctx.gpu != nullptr);
  return static_cast<CudaGpu&>(*ctx.gpu);
}

}  // namespace

void start_read(const ExecContext& ctx, void* to, const void* from, int64_t num_bytes) {
  gpu_of(ctx).start_read(to, from, num_bytes);
}
void wait_for_read(const ExecContext& ctx) { gpu_of(ctx).wait_for_read(); }

const Device& device_of(const ExecContext& ctx) { return gpu_of(ctx).device(); }
const Stream& stream_of(const ExecContext& ctx) { return gpu_of(ctx).stream(); }

}  // namespace cuda

Result<std::unique_ptr<Gpu>> Gpu::open(int ordinal) {
  CACHALOT_ASSIGN_OR_RETURN(const cuda::Device device, cuda::open_device(ordinal));
  return std::unique_ptr<Gpu>(std::make_unique<cuda::CudaGpu>(device));
}

}  // namespace cachalot::device
