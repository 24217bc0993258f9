// A GPU for tests of what the host does: its memory is the host's, and nothing runs on it.
#pragma once

#include <cstdlib>
#include <cstring>

#include "device/gpu.h"

namespace cachalot::device {

class FakeGpu final : public Gpu {
 public:
  ~FakeGpu() override { release_tables(); }
  Result<std::byte*> allocate(int64_t num_bytes) override {
    if (num_bytes > max_bytes) return resource_exhausted("device memory: found fewer free");
    ++num_allocated;
    return static_cast<std::byte*>(std::calloc(1, static_cast<size_t>(num_bytes)));
  }
  void release(std::byte* memory) override {
    --num_allocated;
    std::free(memory);
  }
  void copy(void* to, const void* from, int64_t num_bytes) override {
    std::memcpy(to, from, static_cast<size_t>(num_bytes));
  }
  void fill(void* to, uint8_t value, int64_t num_bytes) override {
    std::memset(to, value, static_cast<size_t>(num_bytes));
  }
  void synchronize() override {}
  Result<std::byte*> allocate_pinned(int64_t num_bytes) override {
    ++num_pinned;
    return static_cast<std::byte*>(std::calloc(1, static_cast<size_t>(num_bytes)));
  }
  void release_pinned(std::byte* memory) override {
    --num_pinned;
    std::free(memory);
  }
  void copy_all(std::span<const Copy> copies) override {
    for (const Copy& one : copies) copy(one.to, one.from, one.num_bytes);
  }

  int64_t max_bytes = int64_t{1} << 40;  // of one piece of device memory
  int num_allocated = 0;
  int num_pinned = 0;
  int num_staged = 0;  // copies of tables

 protected:
  void copy_staged(std::byte* to, const std::byte* from, int64_t num_bytes) override {
    ++num_staged;
    copy(to, from, num_bytes);
  }
  void wait_for_staging() override {}
};

}  // namespace cachalot::device
