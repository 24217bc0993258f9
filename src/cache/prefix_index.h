// The memory tiers of the prefix cache: blocks of the pool by their keys, each with a reference of
// its own, in chains from a root; beside some of them the state at their end. Where the pool is a
// GPU's, blocks that have to go from there are moved to the host's memory first.
// Order   by use, the most recent first. Whoever uses a block uses those before it: a block is
//         never used more recently than its parent, and goes before it, from the pool and from the
//         host's memory. So a chain begins in the pool and ends in the host's memory.
// Limits  in bytes, of blocks in the pool, of blocks in the host's memory and of states apart.
//         Blocks that sequences hold as well stay above a limit: to let them go would free nothing.
// Threads the pool's owner. Owner: borrows the pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "cache/block_key.h"
#include "cache/block_pool.h"
#include "cache/slab_pool.h"

namespace cachalot::cache {

struct KeptBlock {
  BlockKey key;
  KeptBlock* parent = nullptr;  // null: the first block
  BlockKey parent_key;          // then of the root
  std::vector<int32_t> tokens;
  int32_t block_id = -1;       // of the pool; -1 where blocks have no bytes, or the host has them
  int32_t host_id = -1;        // -1: not in the host's memory
  int32_t state_id = -1;       // -1: none
  bool is_passing = false;     // the state goes as soon as the same sequence has a later one
  int64_t segment = -1;        // of the disk tier; -1: not there
  bool stays_on_host = false;  // it is about to be placed
  int64_t num_children = 0;
  int64_t num_in_pool = 0;  // of the children
  std::list<KeptBlock>::iterator place;
  std::list<KeptBlock*>::iterator state_place;
};

class PrefixIndex {
 public:
  PrefixIndex(BlockPool& pool, int64_t max_block_bytes, int64_t max_host_bytes,
              int64_t max_state_bytes);
  ~PrefixIndex() { clear(); }
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Null unless the key, the parent and every token are those asked for.
  KeptBlock* find(const BlockKey& parent_key, const BlockKey& key, std::span<const int32_t> tokens);
  // Adds a reference to the block; the caller then marks the last one of a chain as used. Null
  // where another block has this key.
  KeptBlock* insert(KeptBlock* parent, const BlockKey& parent_key, const BlockKey& key,
                    std::span<const int32_t> tokens, int32_t block_id);
  // Puts a block of the host's memory, whose parent is in the pool, into the pool's block_id, and
  // adds a reference to that. The caller copies host_bytes() there, or has the bytes there, and
  // then calls leave_host().
  void place(KeptBlock* block, int32_t block_id);
  const std::byte* host_bytes(const KeptBlock& block) { return host_.data(block.host_id); }
  void leave_host(KeptBlock* block);

  // By its key alone: of one whose tokens have been compared.
  KeptBlock* at(const BlockKey& key);
  // The block and all before it are the most recently used.
  void mark_used(KeptBlock* block);

  // Where the state's bytes are to be written; null where the limit allows none.
  std::byte* add_state(KeptBlock* block);
  const std::byte* state(KeptBlock* block);  // used now; CHECK: there is one
  void drop_state(KeptBlock* block);

  // Lets go what exceeds the limits.
  void trim();
  // Lets blocks go from the pool until it has num_blocks free ones; false where it cannot.
  bool make_room(int64_t num_blocks);
  void clear();

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }  // in the pool
  int64_t num_host_blocks() const { return static_cast<int64_t>(host_blocks_.size()); }
  int64_t num_states() const { return states_.num_used(); }
  // Changes whenever blocks that sequences hold may have gone.
  int64_t num_clears() const { return num_clears_; }
  int64_t num_evicted_blocks() const { return num_evicted_blocks_; }
  int64_t num_evicted_states() const { return num_evicted_states_; }

 private:
  bool is_idle(const KeptBlock& block) const;
  // The least recently used block that no sequence holds, to the host's memory where there is room
  // for it; false where there is none.
  bool evict_block();
  bool move_to_host(KeptBlock* block);
  bool evict_host_block();
  void leave_pool(KeptBlock* block);
  void erase(KeptBlock* block);

  BlockPool& pool_;
  int64_t max_blocks_;
  SlabPool host_;
  SlabPool states_;
  std::list<KeptBlock> blocks_;              // in the pool, most recently used first
  std::list<KeptBlock> host_blocks_;         // in the host's memory, likewise
  std::list<KeptBlock*> blocks_with_state_;  // likewise
  std::unordered_map<BlockKey, KeptBlock*, BlockKeyHash> by_key_;
  int64_t num_clears_ = 0;
  int64_t num_evicted_blocks_ = 0;
  int64_t num_evicted_states_ = 0;
};

}  // namespace cachalot::cache
