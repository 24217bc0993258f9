#include "data/streams.h"

#include "base/check.h"

namespace cachalot::data {

RngStream data_stream(uint64_t seed, DataUse use, uint32_t a, uint64_t b, uint64_t index) {
  const auto key = philox4x32(
      {static_cast<uint32_t>(use), a, static_cast<uint32_t>(b), static_cast<uint32_t>(b >> 32)},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return {(uint64_t{key[0]} << 32) | key[1], RngPurpose::data, index};
}

uint64_t draw_below(RngStream& rng, uint64_t n) {
  CACHALOT_CHECK(n >= 1);
  // Values under 2^64 mod n would favour small results.
  const uint64_t reject_below = (0 - n) % n;
  for (;;) {
    const uint64_t high = rng.next_u32();
    const uint64_t value = (high << 32) | rng.next_u32();
    if (value >= reject_below) return value % n;
  }
}

}  // namespace cachalot::data
