// Owned memory and the step arena, of the host or of a GPU. Aligned to 64 bytes (a cache line and
// an AVX-512 vector).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/status.h"

namespace cachalot::device {

class Gpu;

// Zero-filled on creation. Move-only owner.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t num_bytes);  // CHECK fails where memory is out
  // For sizes that outside input decides: resource_exhausted instead of a failed CHECK. gpu: whose
  // memory it is, which outlives the buffer; null: the host's.
  static Result<Buffer> create(int64_t num_bytes, Gpu* gpu = nullptr);
  // Host memory that is copied to and from the GPU at the full rate; null: any host memory.
  static Result<Buffer> create_pinned(int64_t num_bytes, Gpu* gpu);
  // For what a step cannot do without: where the GPU's memory is out it is pinned memory, which
  // the step's kernels read slowly, and Gpu::take_shortage() tells. CHECK fails where that is out.
  static Buffer create_scratch(int64_t num_bytes, Gpu* gpu);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  Gpu* gpu_ = nullptr;
  bool is_pinned_ = false;
};

// Scratch of one step: bump allocation, released in stack order by ArenaScope. Contents are not
// cleared. Grows by whole blocks until the step's peak is known and stays there, so a warmed-up
// step does not allocate. Threads: one owner.
class Arena {
 public:
  explicit Arena(int64_t block_bytes = int64_t{1} << 24, Gpu* gpu = nullptr)
      : block_bytes_(block_bytes), gpu_(gpu) {}

  template <typename T>
  T* allocate(int64_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    return static_cast<T*>(allocate_bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  void* allocate_bytes(int64_t num_bytes);
  int64_t reserved_bytes() const;
  void give_back();  // all memory; CHECK: nothing is allocated

 private:
  friend class ArenaScope;
  int64_t block_bytes_;
  Gpu* gpu_;  // null: host memory
  std::vector<Buffer> blocks_;
  size_t block_idx_ = 0;
  int64_t offset_ = 0;
};

// Releases, when it ends, all that was allocated from the arena since it began.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena)
      : arena_(arena), block_idx_(arena.block_idx_), offset_(arena.offset_) {}
  ~ArenaScope() {
    arena_.block_idx_ = block_idx_;
    arena_.offset_ = offset_;
  }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  size_t block_idx_;
  int64_t offset_;
};

}  // namespace cachalot::device
