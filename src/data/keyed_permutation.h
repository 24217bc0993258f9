// A random permutation of [0, n) that is never stored: at(i) costs about 6 log2 n hashes, so a
// shuffled corpus needs no memory and a resumed one no replay.
// Source   Hoang, Morris and Rogaway, "An enciphering scheme based on a card shuffle"
//          (swap-or-not), 2012: each round pairs x with K - x and swaps the pair by a hashed coin.
//          Works for every n, small ones too.
// Threads  Immutable.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/rng.h"

namespace cachalot::data {

class KeyedPermutation {
 public:
  // n >= 1; the permutation is a function of n and of what rng gives.
  KeyedPermutation(int64_t n, RngStream rng);

  int64_t size() const { return static_cast<int64_t>(n_); }
  int64_t at(int64_t i) const;

 private:
  uint64_t n_;
  std::array<uint32_t, 2> key_;
  std::vector<uint64_t> offsets_;  // K of each round
};

}  // namespace cachalot::data
