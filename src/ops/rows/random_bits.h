// Made-up bytes, as fast as memory takes them: for weights whose values do not matter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/host_device.h"
#include "device/exec_context.h"

namespace cachalot::ops {

struct RandomBits {
  uint64_t seed;
  uint64_t keep;  // random where its bits are set
  uint64_t set;   // and these are set in any case
  std::byte* to;  // [num_words] of 8 bytes, aligned to them
  int64_t num_words;

  // Of splitmix64, its i-th number.
  CACHALOT_HD uint64_t word(int64_t i) const {
    uint64_t z = seed + static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return ((z ^ (z >> 31)) & keep) | set;
  }
};

void random_bits(device::ExecContext& ctx, const RandomBits& p);
void random_bits_cuda(device::ExecContext& ctx, const RandomBits& p);

}  // namespace cachalot::ops
