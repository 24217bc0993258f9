#include "cache/block_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"

namespace cachalot::cache {
namespace {
// Large enough that growing is rare, small enough that a short chat does not touch much memory.
constexpr int64_t kSlabBytes = int64_t{1} << 24;
constexpr int64_t kMaxItems = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxPoolBytes = int64_t{1} << 60;

int64_t slab_items(int64_t item_bytes) {
  return std::max<int64_t>(1, kSlabBytes / std::max<int64_t>(1, item_bytes));
}

Status check_limit(const char* what, int64_t limit, int64_t item_bytes) {
  const int64_t most =
      item_bytes == 0 ? kMaxItems : std::min(kMaxItems, kMaxPoolBytes / item_bytes);
  if (limit >= 0 && limit <= most) return {};
  return invalid_argument(
      fmt::format("cache pool: {}: expected 0 to {}, found {}", what, most, limit));
}
}  // namespace

Result<PoolLimits> limits_for_bytes(const CacheLayout& layout, int64_t max_bytes,
                                    int64_t max_sequences) {
  CACHALOT_RETURN_IF_ERROR(check_limit("max_sequences", max_sequences, layout.state_bytes()));
  const int64_t for_blocks = max_bytes - max_sequences * layout.state_bytes();
  if (for_blocks < layout.block_bytes()) {
    return resource_exhausted(fmt::format(
        "cache pool: expected at least {} bytes for {} states and one block, found {}",
        max_sequences * layout.state_bytes() + layout.block_bytes(), max_sequences, max_bytes));
  }
  if (layout.block_bytes() == 0) return PoolLimits{0, max_sequences};
  const int64_t max_blocks = std::min(for_blocks, kMaxPoolBytes) / layout.block_bytes();
  return PoolLimits{std::min(max_blocks, kMaxItems), max_sequences};
}

Result<std::unique_ptr<BlockPool>> BlockPool::create(CacheLayout layout, PoolLimits limits,
                                                     device::Gpu* gpu) {
  CACHALOT_RETURN_IF_ERROR(check_limit("max_blocks", limits.max_blocks, layout.block_bytes()));
  CACHALOT_RETURN_IF_ERROR(
      check_limit("max_sequences", limits.max_sequences, layout.state_bytes()));
  return std::unique_ptr<BlockPool>(new BlockPool(std::move(layout), limits, gpu));
}

BlockPool::BlockPool(CacheLayout layout, PoolLimits limits, device::Gpu* gpu)
    : layout_(std::move(layout)),
      blocks_("KV blocks", layout_.block_bytes(), limits.max_blocks,
              slab_items(layout_.block_bytes()), gpu),
      states_("sequence states", layout_.state_bytes(), limits.max_sequences,
              slab_items(layout_.state_bytes()), gpu) {}

BlockPool::~BlockPool() { CACHALOT_CHECK(blocks_.num_used() == 0 && states_.num_used() == 0); }

}  // namespace cachalot::cache
