// The memory of all sequences' caches: blocks and states, each up to a limit. Sequences take from
// it and give back (sequence_cache.h); it outlives them. Memory is allocated in slabs as it is
// first used and kept until the end. Threads: one owner, the same as of its sequences.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "cache/cache_layout.h"
#include "cache/slab_pool.h"

namespace cachalot::cache {

struct PoolLimits {
  int64_t max_blocks = 0;     // of layout.block_tokens() positions each
  int64_t max_sequences = 0;  // states: sequences that exist at a time, forks included
};

// The most blocks that fit max_bytes beside the states of max_sequences; resource_exhausted where
// not one block fits.
Result<PoolLimits> limits_for_bytes(const CacheLayout& layout, int64_t max_bytes,
                                    int64_t max_sequences);

class BlockPool {
 public:
  // gpu: whose memory it is, which outlives the pool; null: the host's.
  static Result<std::unique_ptr<BlockPool>> create(CacheLayout layout, PoolLimits limits,
                                                   device::Gpu* gpu = nullptr);
  ~BlockPool();  // CHECK: nothing is in use
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  const CacheLayout& layout() const { return layout_; }
  SlabPool& blocks() { return blocks_; }
  SlabPool& states() { return states_; }
  const SlabPool& blocks() const { return blocks_; }
  const SlabPool& states() const { return states_; }
  device::Gpu* gpu() const { return blocks_.gpu(); }
  int64_t reserved_bytes() const { return blocks_.reserved_bytes() + states_.reserved_bytes(); }

 private:
  BlockPool(CacheLayout layout, PoolLimits limits, device::Gpu* gpu);

  CacheLayout layout_;
  SlabPool blocks_;
  SlabPool states_;
};

}  // namespace cachalot::cache
