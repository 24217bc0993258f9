// Rows of floats to the nearest bf16, for each instruction set that includes this.
#pragma once

#include <bit>
#include <cstdint>

namespace cachalot::ops {
namespace {

// As numeric::round_to_bf16, without a branch: compilers make vectors of the loop below.
inline float nearest_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t nearest = bits + 0x7FFF + ((bits >> 16) & 1);
  const uint32_t quiet = bits | 0x00400000;
  const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  return std::bit_cast<float>((is_nan ? quiet : nearest) & 0xFFFF0000);
}

void round_rows(const float* from, int64_t from_stride, int64_t m, int64_t n, float* to,
                int64_t to_stride) {
  for (int64_t i = 0; i < m; ++i, from += from_stride, to += to_stride) {
    for (int64_t lane = 0; lane < n; ++lane) to[lane] = nearest_bf16(from[lane]);
  }
}

}  // namespace
}  // namespace cachalot::ops
