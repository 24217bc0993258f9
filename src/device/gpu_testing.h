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

  int num_allocated = 0;
  int num_staged = 0;  // copies of tables

 protected:
  Result<std::byte*> allocate_staging(int64_t num_bytes) override { return allocate(num_bytes); }
  void release_staging(std::byte* memory) override { release(memory); }
  void copy_staged(std::byte* to, const std::byte* from, int64_t num_bytes) override {
    ++num_staged;
    copy(to, from, num_bytes);
  }
  void wait_for_staging() override {}
};

}  // namespace cachalot::device
