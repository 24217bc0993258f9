#include "cache/prefix_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "cache/block_key.h"
#include "cache/boundary_state.h"
#include "cache/prefix_parts.h"
#include "device/gpu.h"

namespace cachalot::cache {
namespace {

constexpr int64_t kMaxQueuedBytes = int64_t{64} << 20;
constexpr int64_t kMaxPeriod = int64_t{1} << 40;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

bool PrefixCache::Parts::wants_state(int64_t position, int64_t prompt_tokens) const {
  const StatePolicy& policy = options.states;
  if (policy.strategy == StateStrategy::zero) return false;
  if (policy.strategy == StateStrategy::full) return true;
  return position % policy.period_tokens == 0 ||
         (policy.keeps_ends && position == last_boundary(prompt_tokens));
}

std::vector<KeptBlock*> PrefixCache::Parts::in_memory(std::span<const Link> links) {
  std::vector<KeptBlock*> blocks;
  for (const Link& link : links) {
    KeptBlock* block = index.find(link.parent_key, link.key, link.tokens);
    if (block == nullptr) break;
    blocks.push_back(block);
  }
  return blocks;
}

RecordHeader PrefixCache::Parts::header_of(RecordKind kind, const Link& link) const {
  return {.kind = kind,
          .identity = identity,
          .parent = link.parent_key,
          .key = link.key,
          .first_position = link.first_position,
          .tokens = {link.tokens.begin(), link.tokens.end()},
          .payload_bytes =
              kind == RecordKind::block ? layout.block_bytes() : boundary_state_bytes(layout)};
}

void PrefixCache::Parts::hold(std::vector<KeptBlock*>& blocks, std::vector<int32_t>& held) {
  if (layout.block_bytes() == 0) return;
  size_t first = 0;  // those in the pool come first
  for (; first < blocks.size() && blocks[first]->host_id < 0; ++first) {
    if (first < held.size()) continue;
    held.push_back(blocks[first]->block_id);
    pool.blocks().add_reference(held.back());
  }
  for (size_t i = first; i < blocks.size(); ++i) blocks[i]->stays_on_host = true;
  std::vector<device::Gpu::Copy> copies;
  size_t placed = first;
  for (; placed < blocks.size(); ++placed) {
    KeptBlock* block = blocks[placed];
    if (!index.make_room(1) || !pool.blocks().allocate(1, held).ok()) break;
    index.place(block, held.back());
    copies.push_back(
        {pool.blocks().data(held.back()), index.host_bytes(*block), layout.block_bytes()});
  }
  if (!copies.empty()) pool.gpu()->copy_all(copies);
  for (size_t i = first; i < blocks.size(); ++i) {
    blocks[i]->stays_on_host = false;
    if (i < placed) index.leave_host(blocks[i]);
  }
  counters.host_blocks += static_cast<int64_t>(placed - first);
  blocks.resize(placed);
}

void PrefixCache::Parts::write_block(const Link& link, const KeptBlock& block) {
  const int32_t id = block.block_id;
  const std::byte* payload = id < 0 ? nullptr : pool.blocks().data(id);
  if (payload != nullptr && pool.gpu() != nullptr) {
    written.resize(static_cast<size_t>(layout.block_bytes()));
    device::copy_bytes(pool.gpu(), written.data(), payload, layout.block_bytes());
    payload = written.data();
  }
  write(header_of(RecordKind::block, link), payload);
}

Status PrefixCache::Parts::open_disk() {
  CACHALOT_ASSIGN_OR_RETURN(
      std::unique_ptr<DiskStore> store,
      DiskStore::open({options.directory, options.max_disk_bytes, options.disk_segment_bytes}));
  if (const int64_t block = layout.block_bytes(); pool.gpu() != nullptr && block > 0) {
    const int64_t bytes = std::max(block, options.staging_bytes / block * block);
    CACHALOT_ASSIGN_OR_RETURN(staging, device::Buffer::create_pinned(bytes, pool.gpu()));
  }
  disk = std::make_unique<DiskThread>(std::move(store), kMaxQueuedBytes, options.on_disk_news);
  return {};
}

void PrefixCache::Parts::settle_writes() {
  if (disk == nullptr) return;
  for (const DiskThread::Written& one : disk->take_written()) {
    if (!one.status.ok() && counters.failed_writes++ == 0)
      log_warning("prefix cache: " + one.status.message());
    if (disk_refuses != (one.segment < 0)) {
      disk_refuses = one.segment < 0;
      ++num_write_faults;
    }
    KeptBlock* block = one.kind == RecordKind::block ? index.at(one.key) : nullptr;
    if (block != nullptr && block->segment == kQueued) block->segment = one.segment;
  }
}

void PrefixCache::Parts::keep_state(const Link& link, KeptBlock* block, const SequenceCache& cache,
                                    int64_t prompt_tokens, bool is_end) {
  const int64_t position = link.first_position + layout.block_tokens();
  const bool is_wanted = wants_state(position, prompt_tokens);
  // An answer's last block is known when the answer is over: until then each is kept as if it were.
  const bool is_answer = options.states.strategy == StateStrategy::periodic &&
                         options.states.keeps_ends && position > last_boundary(prompt_tokens);
  if (!is_wanted && !is_answer) return;
  if (block->state_id < 0 && position >= cache.min_rewind_tokens()) {
    std::byte* state = index.add_state(block);
    if (state == nullptr) return;
    cache.copy_boundary_state(position, state);
    block->is_passing = true;
    if (block->parent != nullptr && block->parent->is_passing) index.drop_state(block->parent);
  }
  if (block->is_passing && (is_wanted || is_end)) {
    block->is_passing = false;
    ++counters.stored_states;
    counters.stored_state_bytes += boundary_state_bytes(layout);
    if (block->segment != kNotOnDisk) write(header_of(RecordKind::state, link), index.state(block));
  }
}

PrefixCache::PrefixCache(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
PrefixCache::~PrefixCache() = default;

Result<std::unique_ptr<PrefixCache>> PrefixCache::create(BlockPool& pool,
                                                         const PrefixCacheOptions& given) {
  PrefixCacheOptions options = given;
  if (options.states.period_tokens < 1 || options.states.period_tokens > kMaxPeriod) {
    return invalid_argument(fmt::format("prefix cache: period_tokens: expected 1 to {}, found {}",
                                        kMaxPeriod, options.states.period_tokens));
  }
  if (options.num_layers < 1 || options.num_layers > pool.layout().num_layers()) {
    return invalid_argument(fmt::format("prefix cache: num_layers: expected 1 to {}, found {}",
                                        pool.layout().num_layers(), options.num_layers));
  }
  options.states.period_tokens =
      round_up(options.states.period_tokens, pool.layout().block_tokens());
  std::unique_ptr<PrefixCache> cache(new PrefixCache(std::make_unique<Parts>(pool, options)));
  if (!options.directory.empty() && options.max_disk_bytes > 0) {
    if (const Status opened = cache->parts_->open_disk(); !opened.ok())
      log_warning("prefix cache: " + opened.message() + "; nothing is kept on disk");
  }
  cache->set_weights_version(options.weights_version);
  return cache;
}

SearchId PrefixCache::begin_find(std::span<const int32_t> tokens, std::string_view salt) {
  Parts& p = *parts_;
  const SearchId id = p.next_search_id++;
  p.searches.emplace(id, p.begin_search(tokens, salt));
  return id;
}

void PrefixCache::advance() { parts_->advance_all(); }

bool PrefixCache::is_found(SearchId id) const {
  return parts_->searches.at(id)->stage == PrefixSearch::Stage::found;
}

void PrefixCache::wait_for_reads() {
  Parts& p = *parts_;
  for (auto& [id, search] : p.searches) {
    while (search->stage == PrefixSearch::Stage::reading) {
      p.wait_and_advance(*search);
    }
  }
}

void PrefixCache::drop_find(SearchId id) { parts_->searches.at(id)->is_dropped = true; }

Result<PrefixHit> PrefixCache::find(std::span<const int32_t> tokens, std::string_view salt) {
  return end_find(begin_find(tokens, salt));
}

Result<PrefixHit> PrefixCache::end_find(SearchId id) {
  Parts& p = *parts_;
  PrefixSearch& search = *p.searches.at(id);
  while (!p.advance(search)) p.wait_and_advance(search);
  const std::unique_ptr<PrefixSearch> owned = std::move(p.searches.extract(id).mapped());
  p.settle_writes();
  const int64_t unit = p.layout.block_tokens();
  std::vector<KeptBlock*> blocks = p.in_memory(search.links);
  const auto matched_tokens =
      static_cast<int64_t>(std::max(blocks.size(), search.num_matched)) * unit;
  // As far as there is a state, or one that can be made; less where the pool has no room.
  const auto has_state = [&] {
    return p.is_zero() || blocks.back()->state_id >= 0 || blocks.size() == search.num_state_links;
  };
  std::vector<int32_t> held;
  size_t wanted = 0;
  do {
    while (!blocks.empty() && !has_state()) blocks.pop_back();
    wanted = blocks.size();
    p.hold(blocks, held);
  } while (blocks.size() < wanted);
  for (; held.size() > blocks.size(); held.pop_back()) p.pool.blocks().release(held.back());
  const auto num_tokens = static_cast<int64_t>(blocks.size()) * unit;
  CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence,
                            SequenceCache::attach(p.pool, std::move(held), num_tokens));
  PrefixHit hit{std::move(sequence), num_tokens, matched_tokens};
  ++p.counters.lookups;
  p.counters.disk_blocks += search.num_blocks_read;
  p.counters.disk_read_bytes += search.num_bytes_read;
  p.counters.recomputed_tokens += matched_tokens - num_tokens;
  if (blocks.empty()) return hit;

  KeptBlock* last = blocks.back();
  p.index.mark_used(last);
  hit.cache.set_kept_chain({static_cast<int64_t>(blocks.size()), last->key, p.epoch()});
  if (p.disk != nullptr) {
    std::set<int64_t> segments;
    for (const KeptBlock* block : blocks) segments.insert(block->segment);
    p.disk->run([segments](DiskStore& store) {
      for (const int64_t segment : segments) store.mark_used(segment);
    });
  }
  if (p.is_zero()) {
    hit.rebuild_from =
        std::max<int64_t>(0, num_tokens - rebuild_rows(p.layout, p.options.num_layers));
  } else {
    hit.cache.set_boundary_state(last->state_id >= 0 ? p.index.state(last) : search.state.data());
  }
  ++p.counters.hits;
  if (matched_tokens < static_cast<int64_t>(search.tokens.size())) ++p.counters.partial_hits;
  if (search.num_bytes_read > 0) ++p.counters.disk_hits;
  p.counters.reused_tokens += num_tokens;
  p.counters.recomputed_tokens += num_tokens - hit.rebuild_from;
  p.counters.memory_blocks +=
      std::max<int64_t>(0, static_cast<int64_t>(blocks.size()) - search.num_blocks_read);
  return hit;
}

int64_t PrefixCache::next_stop(int64_t position, int64_t prompt_tokens) const {
  const Parts& p = *parts_;
  const StatePolicy& policy = p.options.states;
  int64_t stop = prompt_tokens;
  const auto at = [&](int64_t candidate) {
    if (candidate > position) stop = std::min(stop, candidate);
  };
  if (policy.strategy == StateStrategy::zero) return stop;
  const int64_t period =
      policy.strategy == StateStrategy::full ? p.layout.block_tokens() : policy.period_tokens;
  at((position / period + 1) * period);
  if (policy.keeps_ends) at(p.last_boundary(prompt_tokens));
  return stop;
}

void PrefixCache::store(std::span<const int32_t> tokens, SequenceCache& cache,
                        int64_t prompt_tokens, bool is_end, std::string_view salt) {
  Parts& p = *parts_;
  CACHALOT_CHECK(static_cast<int64_t>(tokens.size()) >= cache.num_tokens());
  const int64_t unit = p.layout.block_tokens();
  p.settle_writes();
  KeptBlock* parent = nullptr;
  Link link;
  link.key = root_key(p.identity, salt);
  // Its blocks are those that the sequence holds: they have not gone from the cache.
  const KeptChain& known = cache.kept_chain();
  int64_t first = 0;
  if (known.num_blocks > 0 && known.epoch == p.epoch() && p.layout.block_bytes() > 0) {
    first = known.num_blocks - 1;
    parent = p.index.at(known.key)->parent;
    if (parent != nullptr) link.key = parent->key;
  }
  bool writes = p.disk != nullptr;
  const int64_t num_blocks = cache.num_tokens() / unit;
  for (int64_t i = first; i < num_blocks; ++i) {
    link.parent_key = link.key;
    link.first_position = i * unit;
    link.tokens = tokens.subspan(static_cast<size_t>(i * unit), static_cast<size_t>(unit));
    link.key = next_key(link.parent_key, link.tokens);
    const int32_t id = p.layout.block_bytes() == 0 ? -1 : cache.block_ids()[i];
    KeptBlock* block = p.index.find(link.parent_key, link.key, link.tokens);
    if (block == nullptr) {
      block = p.index.insert(parent, link.parent_key, link.key, link.tokens, id);
      if (block == nullptr) return;  // two texts with one key: the first stays
      ++p.counters.stored_blocks;
    } else if (block->host_id >= 0) {  // it has been computed anew
      p.index.place(block, id);
      p.index.leave_host(block);
    } else if (block->block_id != id) {
      cache.share_block(i, block->block_id);
    }
    if (writes && block->segment == kNotOnDisk) {
      p.write_block(link, *block);
      block->segment = kQueued;
      writes = !p.disk_refuses;  // then one shows whether it still does
    }
    parent = block;
  }
  if (parent == nullptr) return;
  cache.set_kept_chain({num_blocks, parent->key, p.epoch()});
  p.index.mark_used(parent);
  p.keep_state(link, parent, cache, prompt_tokens, is_end);
  p.index.trim();
}

bool PrefixCache::make_room(int64_t num_blocks) { return parts_->index.make_room(num_blocks); }
int64_t PrefixCache::num_kept_blocks() const { return parts_->index.num_blocks(); }
int64_t PrefixCache::num_host_blocks() const { return parts_->index.num_host_blocks(); }
int64_t PrefixCache::num_idle_blocks() const { return parts_->pool.blocks().num_idle(); }

int64_t PrefixCache::num_own_blocks(const SequenceCache& cache) const {
  const SlabPool& blocks = parts_->pool.blocks();
  return std::count_if(cache.block_ids().begin(), cache.block_ids().end(), [&](int32_t id) {
    return blocks.num_references(id) == (blocks.is_kept(id) ? 2 : 1);
  });
}

void PrefixCache::set_weights_version(uint64_t version) {
  Parts& p = *parts_;
  for (auto& [id, search] : p.searches) search->is_dropped = true;
  p.index.clear();
  p.options.weights_version = version;
  p.identity = {p.layout.fingerprint(), p.layout.hash(), version, p.options.position_base};
}

void PrefixCache::clear() { parts_->index.clear(); }

void PrefixCache::flush() {
  if (parts_->disk == nullptr) return;
  parts_->disk->wait_for_all();
  parts_->settle_writes();
}

PrefixCounters PrefixCache::counters() const {
  PrefixCounters counters = parts_->counters;
  counters.evicted_blocks = parts_->index.num_evicted_blocks();
  counters.evicted_states = parts_->index.num_evicted_states();
  if (parts_->disk != nullptr) {
    counters.disk_written_bytes = parts_->disk->num_written_bytes();
    counters.damaged_records = parts_->disk->num_damaged();
  }
  return counters;
}

}  // namespace cachalot::cache
