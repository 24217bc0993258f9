#include "cache/prefix_index.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "cache/boundary_state.h"
#include "device/gpu.h"

namespace cachalot::cache {
namespace {
constexpr int64_t kStateSlabBytes = int64_t{1} << 24, kHostSlabBytes = int64_t{1} << 26;
// Of nodes without bytes, which a layout without compressed rows has.
constexpr int64_t kMaxEmptyBlocks = int64_t{1} << 20;

int64_t max_items(int64_t max_bytes, int64_t item_bytes) {
  return std::clamp<int64_t>(max_bytes / std::max<int64_t>(1, item_bytes), 0,
                             std::numeric_limits<int32_t>::max());
}
}  // namespace

PrefixIndex::PrefixIndex(BlockPool& pool, int64_t max_block_bytes, int64_t max_host_bytes,
                         int64_t max_state_bytes)
    : pool_(pool),
      max_blocks_(pool.layout().block_bytes() == 0
                      ? kMaxEmptyBlocks
                      : max_items(max_block_bytes, pool.layout().block_bytes())),
      host_("blocks of kept prefixes", pool.layout().block_bytes(),
            pool.gpu() == nullptr || pool.layout().block_bytes() == 0
                ? 0
                : max_items(max_host_bytes, pool.layout().block_bytes()),
            kHostSlabBytes / std::max<int64_t>(1, pool.layout().block_bytes()), pool.gpu(), true),
      states_("states of kept prefixes", boundary_state_bytes(pool.layout()),
              max_items(max_state_bytes, boundary_state_bytes(pool.layout())),
              kStateSlabBytes / std::max<int64_t>(1, boundary_state_bytes(pool.layout())),
              pool.gpu(), true) {}

KeptBlock* PrefixIndex::find(const BlockKey& parent_key, const BlockKey& key,
                             std::span<const int32_t> tokens) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return nullptr;
  KeptBlock* block = found->second;
  const bool is_same =
      block->parent_key == parent_key &&
      std::equal(block->tokens.begin(), block->tokens.end(), tokens.begin(), tokens.end());
  return is_same ? block : nullptr;
}

KeptBlock* PrefixIndex::insert(KeptBlock* parent, const BlockKey& parent_key, const BlockKey& key,
                               std::span<const int32_t> tokens, int32_t block_id) {
  if (by_key_.contains(key)) return nullptr;
  KeptBlock* block = &blocks_.emplace_front();
  block->key = key;
  block->parent = parent;
  block->parent_key = parent_key;
  block->tokens.assign(tokens.begin(), tokens.end());
  block->block_id = block_id;
  block->place = blocks_.begin();
  by_key_.emplace(key, block);
  if (block_id >= 0) {
    pool_.blocks().add_reference(block_id);
    pool_.blocks().set_kept(block_id, true);
  }
  if (parent != nullptr) {
    ++parent->num_children;
    ++parent->num_in_pool;
  }
  return block;
}

void PrefixIndex::place(KeptBlock* block, int32_t block_id) {
  CACHALOT_CHECK(block->host_id >= 0 && block->block_id < 0);
  block->block_id = block_id;
  pool_.blocks().add_reference(block_id);
  pool_.blocks().set_kept(block_id, true);
  if (block->parent != nullptr) ++block->parent->num_in_pool;
  blocks_.splice(blocks_.begin(), host_blocks_, block->place);
}

void PrefixIndex::leave_host(KeptBlock* block) {
  host_.release(block->host_id);
  block->host_id = -1;
}

// Its list is the caller's to change.
void PrefixIndex::leave_pool(KeptBlock* block) {
  if (block->block_id >= 0) {
    pool_.blocks().set_kept(block->block_id, false);
    pool_.blocks().release(block->block_id);
    block->block_id = -1;
  }
  if (block->parent != nullptr) --block->parent->num_in_pool;
}

KeptBlock* PrefixIndex::at(const BlockKey& key) {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : found->second;
}

void PrefixIndex::mark_used(KeptBlock* block) {
  for (; block != nullptr; block = block->parent)
    blocks_.splice(blocks_.begin(), blocks_, block->place);
}

std::byte* PrefixIndex::add_state(KeptBlock* block) {
  CACHALOT_CHECK(block->state_id < 0);
  if (states_.num_free() == 0 && !blocks_with_state_.empty()) {
    drop_state(blocks_with_state_.back());
    ++num_evicted_states_;
  }
  std::vector<int32_t> id;
  if (!states_.allocate(1, id).ok()) return nullptr;
  block->state_id = id[0];
  blocks_with_state_.push_front(block);
  block->state_place = blocks_with_state_.begin();
  return states_.data(block->state_id);
}

const std::byte* PrefixIndex::state(KeptBlock* block) {
  CACHALOT_CHECK(block->state_id >= 0);
  blocks_with_state_.splice(blocks_with_state_.begin(), blocks_with_state_, block->state_place);
  return states_.data(block->state_id);
}

void PrefixIndex::drop_state(KeptBlock* block) {
  states_.release(block->state_id);
  blocks_with_state_.erase(block->state_place);
  block->state_id = -1;
  block->is_passing = false;
}

void PrefixIndex::erase(KeptBlock* block) {
  CACHALOT_CHECK(block->num_children == 0);
  if (block->state_id >= 0) drop_state(block);
  if (block->parent != nullptr) --block->parent->num_children;
  by_key_.erase(block->key);
  if (block->host_id >= 0) {
    leave_host(block);
    host_blocks_.erase(block->place);
  } else {
    leave_pool(block);
    blocks_.erase(block->place);
  }
}

bool PrefixIndex::is_idle(const KeptBlock& block) const {
  return block.block_id < 0 || pool_.blocks().num_references(block.block_id) == 1;
}

bool PrefixIndex::evict_block() {
  for (auto it = blocks_.rbegin(); it != blocks_.rend(); ++it) {
    if (!is_idle(*it) || it->num_in_pool > 0) continue;
    if (move_to_host(&*it)) return true;
    if (it->num_children > 0) continue;
    erase(&*it);
    ++num_evicted_blocks_;
    return true;
  }
  return false;
}

bool PrefixIndex::move_to_host(KeptBlock* block) {
  if (block->block_id < 0 || host_.max_items() == 0) return false;
  std::vector<int32_t> id;
  while (!host_.allocate(1, id).ok()) {
    if (!evict_host_block()) return false;
  }
  device::copy_bytes(pool_.gpu(), host_.data(id[0]), pool_.blocks().data(block->block_id),
                     host_.item_bytes());
  block->host_id = id[0];
  leave_pool(block);
  host_blocks_.splice(host_blocks_.begin(), blocks_, block->place);
  return true;
}

bool PrefixIndex::evict_host_block() {
  for (auto it = host_blocks_.rbegin(); it != host_blocks_.rend(); ++it) {
    if (it->stays_on_host || it->num_children > 0) continue;
    erase(&*it);
    ++num_evicted_blocks_;
    return true;
  }
  return false;
}

void PrefixIndex::trim() {
  while (num_blocks() > max_blocks_ && evict_block()) {
  }
}

bool PrefixIndex::make_room(int64_t num_blocks) {
  while (pool_.blocks().num_free() < num_blocks) {
    if (!evict_block()) return false;
  }
  return true;
}

void PrefixIndex::clear() {
  ++num_clears_;
  // A block's parent has been used no earlier: it lies further to the front.
  while (!host_blocks_.empty()) erase(&host_blocks_.back());
  while (!blocks_.empty()) erase(&blocks_.back());
}

}  // namespace cachalot::cache
