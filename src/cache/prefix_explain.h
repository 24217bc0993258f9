// Why a text is found in the disk tier of the prefix cache, and no further.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"
#include "cache/cache_layout.h"
#include "cache/disk_store.h"

namespace cachalot::cache {

struct PrefixExplanation {
  int64_t kept_tokens = 0;   // in whole blocks from the start
  int64_t state_tokens = 0;  // up to the last of their states; 0: none
  std::string why;           // it goes no further: a sentence
};

// Reads heads of records alone. identity: whose rows would be looked for.
Result<PrefixExplanation> explain_prefix(DiskStore& store, const CacheIdentity& identity,
                                         int64_t block_tokens, std::span<const int32_t> tokens);

}  // namespace cachalot::cache
