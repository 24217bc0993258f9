#include "data/keyed_permutation.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "data/streams.h"

namespace cachalot::data {

KeyedPermutation::KeyedPermutation(int64_t n, RngStream rng) : n_(static_cast<uint64_t>(n)) {
  CACHALOT_CHECK(n >= 1);
  key_ = {rng.next_u32(), rng.next_u32()};
  // Six rounds a bit of n mix well beyond what a shuffle needs; 24 more cover tiny n.
  const int num_rounds = 24 + 6 * std::bit_width(n_ - 1);
  for (int round = 0; round < num_rounds; ++round) offsets_.push_back(draw_below(rng, n_));
}

int64_t KeyedPermutation::at(int64_t i) const {
  auto x = static_cast<uint64_t>(i);
  CACHALOT_CHECK(x < n_);
  for (size_t round = 0; round < offsets_.size(); ++round) {
    const uint64_t offset = offsets_[round];
    const uint64_t partner = offset >= x ? offset - x : offset + n_ - x;
    const uint64_t larger = std::max(x, partner);  // both of a pair toss the same coin
    const auto coin =
        philox4x32({static_cast<uint32_t>(larger), static_cast<uint32_t>(larger >> 32),
                    static_cast<uint32_t>(round), 0},
                   key_);
    if (coin[0] & 1) x = partner;
  }
  return static_cast<int64_t>(x);
}

}  // namespace cachalot::data
