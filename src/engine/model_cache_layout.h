// The cache layout that a model's layers ask for at a precision.
// Source  reference/forward 3.5, 3.10, 8.1.
#pragma once

#include "base/status.h"
#include "cache/cache_layout.h"
#include "formats/config.h"
#include "model/precision.h"

namespace cachalot::engine {

struct CacheOptions {
  int64_t block_tokens = 256;        // rounded up to a multiple of every layer's ratio
  int64_t rewind_slack = 8;          // the most drafts that may be rejected at once
  uint64_t weights_fingerprint = 0;  // LoadedModel's; 0 where rows never leave the process
};

// Decoder layers, then MTP blocks. A layer that reads another's KV rows (kv_source) or picks
// (index_source) keeps none of its own. Rows of another configuration, precision or weights have
// another fingerprint.
Result<cache::CacheLayout> model_cache_layout(const formats::ModelConfig& config,
                                              const model::Precision& precision,
                                              const CacheOptions& options);

}  // namespace cachalot::engine
