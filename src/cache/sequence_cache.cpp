#include "cache/sequence_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "cache/boundary_state.h"
#include "device/gpu.h"

namespace cachalot::cache {
namespace {
constexpr size_t kReservedBlocks = 16;  // a longer sequence's tables grow by doubling
}

Result<SequenceCache> SequenceCache::create(BlockPool& pool) {
  std::vector<int32_t> state;
  CACHALOT_RETURN_IF_ERROR(pool.states().allocate(1, state));
  return SequenceCache(pool, state[0]);
}

Result<SequenceCache> SequenceCache::attach(BlockPool& pool, std::vector<int32_t> block_ids,
                                            int64_t num_tokens) {
  const CacheLayout& layout = pool.layout();
  CACHALOT_CHECK(num_tokens % layout.block_tokens() == 0 &&
                 layout.num_blocks(num_tokens) == static_cast<int64_t>(block_ids.size()));
  Result<SequenceCache> sequence = create(pool);
  if (!sequence) {
    for (const int32_t id : block_ids) pool.blocks().release(id);
    return sequence;
  }
  sequence->block_ids_ = std::move(block_ids);
  sequence->place_blocks(0);
  device::clear_bytes(pool.gpu(), pool.states().data(sequence->state_id_), layout.state_bytes());
  sequence->num_tokens_ = num_tokens;
  // Of the rings' slack nothing is there, as if the sequence had stepped back over all of it.
  sequence->ring_end_ = num_tokens == 0 ? 0 : num_tokens + layout.rewind_slack();
  return sequence;
}

SequenceCache::SequenceCache(BlockPool& pool, int32_t state_id)
    : pool_(&pool), state_id_(state_id), stream_blocks_(2 * pool.layout().num_layers()) {
  block_ids_.reserve(kReservedBlocks);
  for (std::vector<std::byte*>& places : stream_blocks_) places.reserve(kReservedBlocks);
}

SequenceCache::SequenceCache(SequenceCache&& other) noexcept
    : pool_(other.pool_),
      state_id_(std::exchange(other.state_id_, -1)),
      block_ids_(std::move(other.block_ids_)),
      stream_blocks_(std::move(other.stream_blocks_)),
      num_tokens_(other.num_tokens_),
      ring_end_(other.ring_end_),
      kept_chain_(other.kept_chain_) {
  other.block_ids_.clear();
}

SequenceCache& SequenceCache::operator=(SequenceCache&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(state_id_, other.state_id_);
  std::swap(block_ids_, other.block_ids_);
  std::swap(stream_blocks_, other.stream_blocks_);
  std::swap(num_tokens_, other.num_tokens_);
  std::swap(ring_end_, other.ring_end_);
  std::swap(kept_chain_, other.kept_chain_);
  return *this;
}

SequenceCache::~SequenceCache() { release_all(); }

void SequenceCache::release_all() {
  for (const int32_t id : block_ids_) pool_->blocks().release(id);
  if (state_id_ >= 0) pool_->states().release(state_id_);
}

int64_t SequenceCache::min_rewind_tokens() const {
  return std::max<int64_t>(0, ring_end_ - layout().rewind_slack());
}

int64_t SequenceCache::num_own_blocks() const {
  return std::count_if(block_ids_.begin(), block_ids_.end(),
                       [&](int32_t id) { return pool_->blocks().num_references(id) == 1; });
}

bool SequenceCache::copies_before_write() const {
  const int64_t next = num_tokens_ / layout().block_tokens();
  return next < num_blocks() && pool_->blocks().num_references(block_ids_[next]) > 1;
}

Status SequenceCache::reserve(int64_t num_tokens) {
  CACHALOT_CHECK(num_tokens >= 0);
  if (num_tokens <= num_tokens_) return {};
  SlabPool& blocks = pool_->blocks();
  const int64_t needed = layout().num_blocks(num_tokens);
  if (needed > blocks.max_items()) {  // before the table grows: num_tokens may be anything
    return resource_exhausted(
        fmt::format("KV blocks: needed {} for {} tokens of {} a block, limit {}", needed,
                    num_tokens, layout().block_tokens(), blocks.max_items()));
  }
  const int64_t first_written = num_tokens_ / layout().block_tokens();
  std::vector<int64_t> shared;
  for (int64_t i = first_written; i < std::min(needed, num_blocks()); ++i) {
    if (blocks.num_references(block_ids_[i]) > 1) shared.push_back(i);
  }
  const int64_t num_new = std::max<int64_t>(0, needed - num_blocks());
  if (shared.empty()) {
    const size_t before = block_ids_.size();
    CACHALOT_RETURN_IF_ERROR(blocks.allocate(num_new, block_ids_));
    place_blocks(before);
    return {};
  }
  std::vector<int32_t> fresh;
  CACHALOT_RETURN_IF_ERROR(blocks.allocate(static_cast<int64_t>(shared.size()) + num_new, fresh));
  const auto changed_from = static_cast<size_t>(shared[0]);
  for (size_t i = 0; i < shared.size(); ++i) {
    int32_t& id = block_ids_[shared[i]];
    // Only the first can hold live rows; the later ones are dead as a whole.
    if (shared[i] == first_written) {
      device::copy_bytes(pool_->gpu(), blocks.data(fresh[i]), blocks.data(id), blocks.item_bytes());
    }
    blocks.release(id);
    id = fresh[i];
  }
  block_ids_.insert(block_ids_.end(), fresh.begin() + static_cast<int64_t>(shared.size()),
                    fresh.end());
  place_blocks(changed_from);
  return {};
}

Status SequenceCache::repeat_blocks(int64_t num_tokens) {
  const int64_t num_whole = num_whole_blocks();
  CACHALOT_CHECK(num_whole > 0);
  CACHALOT_RETURN_IF_ERROR(reserve(num_tokens));
  SlabPool& blocks = pool_->blocks();
  for (int64_t i = num_whole; i < num_blocks(); ++i) {
    device::copy_bytes(pool_->gpu(), blocks.data(block_ids_[i]),
                       blocks.data(block_ids_[i % num_whole]), blocks.item_bytes());
  }
  if (num_tokens > num_tokens_) advance(num_tokens - num_tokens_);
  return {};
}

void SequenceCache::place_blocks(size_t block_idx) {
  for (int64_t layer = 0; layer < layout().num_layers(); ++layer) {
    const LayerStreams& streams = layout().layer(layer);
    const LayerOffsets& at = layout().offsets(layer);
    const auto place = [&](const tensor::RowLayout& row, int64_t offset,
                           std::vector<std::byte*>& places) {
      if (row.row_bytes() == 0) return;
      places.resize(block_ids_.size());
      for (size_t i = block_idx; i < block_ids_.size(); ++i) {
        places[i] = pool_->blocks().data(block_ids_[i]) + offset;
      }
    };
    place(streams.entry, at.entry, stream_blocks_[2 * layer]);
    place(streams.index_key, at.index_key, stream_blocks_[2 * layer + 1]);
  }
}

void SequenceCache::advance(int64_t n) {
  CACHALOT_CHECK(n >= 0);
  if (n == 0) return;
  const int64_t end = layout().num_blocks(num_tokens_ + n);
  CACHALOT_CHECK_MSG(end <= num_blocks(), fmt::format("advance to {} tokens with {} blocks",
                                                      num_tokens_ + n, num_blocks()));
  for (int64_t i = num_tokens_ / layout().block_tokens(); i < end; ++i) {
    CACHALOT_CHECK(pool_->blocks().num_references(block_ids_[i]) == 1);
  }
  num_tokens_ += n;
  ring_end_ = std::max(ring_end_, num_tokens_);
}

tensor::LayerRows SequenceCache::make_views(int64_t layer_idx) const {
  CACHALOT_CHECK(layer_idx >= 0 && layer_idx < layout().num_layers());
  const LayerStreams& streams = layout().layer(layer_idx);
  const LayerOffsets& at = layout().offsets(layer_idx);
  std::byte* state = pool_->states().data(state_id_);
  const auto ring = [&](const tensor::RowLayout& row, int64_t capacity, int64_t offset) {
    return row.row_bytes() == 0 ? tensor::RowRing{}
                                : tensor::RowRing{state + offset, capacity, row};
  };
  const auto blocks = [&](const tensor::RowLayout& row, const std::vector<std::byte*>& places) {
    return row.row_bytes() == 0
               ? tensor::RowBlocks{}
               : tensor::RowBlocks{places.data(), layout().rows_per_block(layer_idx), row};
  };
  return {.window = ring(streams.window, streams.window_capacity, at.window),
          .entries = blocks(streams.entry, stream_blocks_[2 * layer_idx]),
          .tail = ring(streams.tail, streams.tail_capacity, at.tail),
          .index_keys = blocks(streams.index_key, stream_blocks_[2 * layer_idx + 1]),
          .index_tail = ring(streams.index_tail, streams.index_tail_capacity, at.index_tail)};
}

Result<SequenceCache> SequenceCache::fork() const {
  CACHALOT_ASSIGN_OR_RETURN(SequenceCache copy, create(*pool_));
  SlabPool& blocks = pool_->blocks();
  const int64_t used = layout().num_blocks(num_tokens_);
  const int64_t whole = num_whole_blocks();
  std::vector<int32_t> partial;
  CACHALOT_RETURN_IF_ERROR(blocks.allocate(used - whole, partial));
  copy.block_ids_.assign(block_ids_.begin(), block_ids_.begin() + whole);
  for (const int32_t id : copy.block_ids_) blocks.add_reference(id);
  for (const int32_t id : partial) {
    device::copy_bytes(pool_->gpu(), blocks.data(id), blocks.data(block_ids_[whole]),
                       blocks.item_bytes());
    copy.block_ids_.push_back(id);
  }
  copy.place_blocks(0);
  device::copy_bytes(pool_->gpu(), pool_->states().data(copy.state_id_),
                     pool_->states().data(state_id_), layout().state_bytes());
  copy.num_tokens_ = num_tokens_;
  copy.ring_end_ = ring_end_;
  copy.kept_chain_ = kept_chain_;
  return copy;
}

Status SequenceCache::rewind(int64_t num_tokens) {
  if (num_tokens == 0) {
    clear();
    return {};
  }
  if (num_tokens < min_rewind_tokens() || num_tokens > num_tokens_) {
    return invalid_argument(
        fmt::format("rewind: expected 0 or {} to {} tokens (slack {}), found {}",
                    min_rewind_tokens(), num_tokens_, layout().rewind_slack(), num_tokens));
  }
  if (num_tokens < kept_chain_.num_blocks * layout().block_tokens()) {
    kept_chain_ = {};
  }
  num_tokens_ = num_tokens;
  return {};
}

void SequenceCache::clear() {
  for (const int32_t id : block_ids_) pool_->blocks().release(id);
  block_ids_.clear();
  for (std::vector<std::byte*>& places : stream_blocks_) places.clear();
  num_tokens_ = 0;
  ring_end_ = 0;
  kept_chain_ = {};
}

template <typename Fn>
void SequenceCache::for_each_boundary_run(int64_t position, std::byte* state, Fn&& fn) const {
  for (const BoundaryRing& kept : boundary_rings(layout())) {
    const tensor::RowRing ring = tensor::ring_of(make_views(kept.layer_idx), kept.kind);
    std::byte* const base = state + kept.offset;
    const tensor::RowBlocks rows{&base, kept.num_rows, ring.layout};
    const int64_t first = position - kept.num_rows;
    for (int64_t p = std::max<int64_t>(0, first), n = 0; p < position; p += n) {
      n = std::min(position - p, ring.capacity - p % ring.capacity);
      fn(ring.row(p), rows.row(p - first),
         tensor::RowLayout{n * ring.layout.data_bytes, n * ring.layout.scale_bytes});
    }
  }
}

void SequenceCache::copy_boundary_state(int64_t position, std::byte* out) const {
  CACHALOT_CHECK(position % layout().block_tokens() == 0 && position >= min_rewind_tokens() &&
                 position <= num_tokens_);
  std::memset(out, 0, static_cast<size_t>(boundary_state_bytes(layout())));
  std::vector<device::Gpu::Copy> copies;
  for_each_boundary_run(position, out,
                        [&](tensor::RowRef row, tensor::RowRef kept, const tensor::RowLayout& run) {
                          copies.push_back({kept.data, row.data, run.data_bytes});
                          copies.push_back({kept.scale, row.scale, run.scale_bytes});
                        });
  device::copy_all(pool_->gpu(), copies);
}

void SequenceCache::set_boundary_state(const std::byte* bytes) {
  CACHALOT_CHECK(num_tokens_ % layout().block_tokens() == 0);
  std::vector<device::Gpu::Copy> copies;
  for_each_boundary_run(num_tokens_, const_cast<std::byte*>(bytes),
                        [&](tensor::RowRef row, tensor::RowRef kept, const tensor::RowLayout& run) {
                          copies.push_back({row.data, kept.data, run.data_bytes});
                          copies.push_back({row.scale, kept.scale, run.scale_bytes});
                        });
  device::copy_all(pool_->gpu(), copies);
}

void SequenceCache::share_block(int64_t block_idx, int32_t id) {
  CACHALOT_CHECK((block_idx + 1) * layout().block_tokens() <= num_tokens_);
  int32_t& own = block_ids_[block_idx];
  pool_->blocks().add_reference(id);
  pool_->blocks().release(own);
  own = id;
  place_blocks(static_cast<size_t>(block_idx));
}

}  // namespace cachalot::cache
