// An array of floats in a context's memory, for what steps of changing size hand to each other.
#pragma once

#include <cstdint>
#include <vector>

#include "device/exec_context.h"

namespace cachalot::device {

// Borrows the GPU. Grows and never shrinks.
class Floats {
 public:
  explicit Floats(const ExecContext& ctx) : gpu_(ctx.gpu) {}

  // Room for `count` values; those of before are lost where it grows.
  void make_room(int64_t count);
  // Becomes these values of the host.
  void assign(const float* values, int64_t count);
  void give_back() { memory_ = Buffer(); }  // the GPU's memory, and the values
  float* data() {
    return gpu_ == nullptr ? host_.data() : reinterpret_cast<float*>(memory_.data());
  }
  // The first `count` values where the host reads them, until the next call.
  const float* on_host(int64_t count);

 private:
  Gpu* gpu_;
  Buffer memory_;            // of the GPU
  std::vector<float> host_;  // the array itself, or a copy of its beginning
};

}  // namespace cachalot::device
