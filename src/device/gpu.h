// A GPU as a value: its memory, its one stream of work, and the twins that host memory has on it.
// No CUDA type shows; kernels' launchers find theirs in cuda/cuda_gpu.h.
//
// Twins   what kernels read but the host makes has two addresses: ops name it by the host's, and
//         on_device() gives the other.
//         constants  of a model: ConstantTwins copies them once.
//         tables     of a step (tokens, cuts into sequences, lists of rows): table() gives host
//                    memory, which is written at once; on_device() copies all that has not been
//                    copied, so that tables which are made before the first launch cost one copy.
// Order   kernels, fills and copies run in the order of their calls.
// Errors  a GPU that fails ends the process and names the call; memory that is out is a Status. A
//         step's scratch then lies in the host's memory, and take_shortage() tells.
// Threads one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"

namespace cachalot::device {

class Gpu {
 public:
  // unsupported: a build without CUDA, no driver, no such device or one that the kernels are not
  // for.
  static Result<std::unique_ptr<Gpu>> open(int ordinal);
  Gpu() = default;
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  virtual ~Gpu() = default;

  // Device memory, zero, aligned to 256 bytes; resource_exhausted.
  virtual Result<std::byte*> allocate(int64_t num_bytes) = 0;
  virtual void release(std::byte* memory) = 0;
  // Between any two of host and device memory; complete when it returns.
  virtual void copy(void* to, const void* from, int64_t num_bytes) = 0;
  virtual void fill(void* to, uint8_t value, int64_t num_bytes) = 0;
  virtual void synchronize() = 0;

  // Host memory that is copied at the full rate, and that kernels can read and write, slowly;
  // resource_exhausted.
  virtual Result<std::byte*> allocate_pinned(int64_t num_bytes) = 0;
  virtual void release_pinned(std::byte* memory) = 0;
  struct Copy {
    void* to;
    const void* from;
    int64_t num_bytes;
  };
  // As copy(), one after the other without a wait between them.
  virtual void copy_all(std::span<const Copy> copies) = 0;

  // What was short of device memory since the last call, and got the host's instead
  // (Buffer::create_scratch); ok: nothing.
  Status take_shortage() { return std::exchange(shortage_, Status()); }

  // Forgets the tables of the step before. Kernels that read them may still run.
  void begin_tables();
  // Host memory until the next begin_tables().
  template <typename T>
  T* table(int64_t count) {
    return static_cast<T*>(table_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // The same place of the twin. CHECK: there is none. Null stays null.
  template <typename T>
  T* on_device(T* host) {
    copy_tables();
    return address_on_device(host);
  }
  // That place for another table to hold, before either has been copied.
  template <typename T>
  T* address_on_device(T* host) {
    return const_cast<T*>(
        reinterpret_cast<const T*>(twin_of(reinterpret_cast<const std::byte*>(host))));
  }

 protected:
  // Does not wait: `from`, pinned memory, stays until wait_for_staging() has returned.
  virtual void copy_staged(std::byte* to, const std::byte* from, int64_t num_bytes) = 0;
  virtual void wait_for_staging() = 0;
  // Of tables; what a destructor calls while the functions above can still be called.
  void release_tables();

 private:
  friend class Buffer;
  friend class ConstantTwins;
  struct Twin {
    int64_t num_bytes;
    std::byte* device;
  };
  struct TableBlock {
    std::byte* host;
    std::byte* device;
    int64_t size;
    int64_t used;
    int64_t copied;
  };
  void* table_bytes(int64_t num_bytes);
  void copy_tables();
  const std::byte* twin_of(const std::byte* host) const;

  std::map<const std::byte*, Twin> constants_;  // by their first byte
  std::vector<TableBlock> tables_;
  size_t table_idx_ = 0;
  Status shortage_;
};

// Copies of constants on a GPU, as long as this lives. The host's stay where they are, unchanged.
class ConstantTwins {
 public:
  ConstantTwins() = default;
  explicit ConstantTwins(Gpu& gpu) : gpu_(&gpu) {}
  ConstantTwins(const ConstantTwins&) = delete;
  ConstantTwins& operator=(const ConstantTwins&) = delete;
  ~ConstantTwins();

  template <typename T>
  Status add(std::span<const T> host) {  // resource_exhausted
    return add_bytes(std::as_bytes(host));
  }

 private:
  Status add_bytes(std::span<const std::byte> host);

  Gpu* gpu_ = nullptr;
  std::vector<const std::byte*> added_;
};

// memcpy and memset to zero in the memory of `gpu`; null: the host's. The other side may be either.
void copy_bytes(Gpu* gpu, void* to, const void* from, int64_t num_bytes);
void copy_all(Gpu* gpu, std::span<const Gpu::Copy> copies);
void clear_bytes(Gpu* gpu, void* to, int64_t num_bytes);

}  // namespace cachalot::device
