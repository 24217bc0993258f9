// Plain code: ten rounds of integer products for eight elements are a few nanoseconds each, where
// the exchange that follows sends two bytes an element over a network.
#include "ops/optim/stochastic_round.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/rng.h"
#include "numeric/formats.h"
#include "ops/elementwise/kernel_dispatch.h"

namespace cachalot::ops {
namespace {

uint16_t round_one(float x, uint32_t r) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7F800000) == 0x7F800000) return numeric::bf16_from_float(x);  // infinity, NaN
  return static_cast<uint16_t>((bits + r) >> 16);
}

}  // namespace

void stochastic_round_bf16(device::ExecContext& ctx, const StochasticRoundKey& key,
                           int64_t first_element, std::span<const float> x, uint16_t* out) {
  const auto n = static_cast<int64_t>(x.size());
  CACHALOT_CHECK(first_element >= 0 && first_element + n <= int64_t{1} << 35);
  const std::array<uint32_t, 4> stream =
      philox4x32({key.rank, static_cast<uint32_t>(RngPurpose::rounding), key.step, key.tensor},
                 {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)});
  for_row_blocks(ctx, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t element = first_element + i;
      const std::array<uint32_t, 4> random = philox4x32(
          {static_cast<uint32_t>(element / 8), 0, stream[2], stream[3]}, {stream[0], stream[1]});
      const int64_t block_end = std::min(end, i + 8 - element % 8);
      for (; i < block_end; ++i) {
        const int64_t lane = (first_element + i) % 8;
        const uint32_t pair = random[static_cast<size_t>(lane / 2)];
        out[i] = round_one(x[static_cast<size_t>(i)], lane % 2 == 0 ? pair & 0xFFFF : pair >> 16);
      }
    }
  });
}

}  // namespace cachalot::ops
