// A sequence that the engine holds: its tokens, and the rows of those that have been run.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cache/sequence_cache.h"

namespace cachalot::engine {

struct Sequence {
  // None while an answer waits for room. Its tokens may run ahead of it: the last sampled one has
  // not been through the model.
  std::optional<cache::SequenceCache> cache;
  std::vector<int32_t> tokens;
  // Where the MTP block's rows end; at positions below, back to its window, they are there.
  int64_t mtp_end = 0;
  bool is_busy = false;  // an answer is under way in it

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_cached() const { return cache ? cache->num_tokens() : 0; }
};

}  // namespace cachalot::engine
