#include "cache/prefix_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "cache/block_key.h"
#include "cache/boundary_state.h"
#include "cache/prefix_index.h"

namespace cachalot::cache {
namespace {

constexpr int64_t kMaxPeriod = int64_t{1} << 40;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A whole block of a prompt, as far as it is kept.
struct Link {
  BlockKey parent_key;
  BlockKey key;
  std::span<const int32_t> tokens;
  KeptBlock* block;
};

}  // namespace

struct PrefixCache::Parts {
  Parts(BlockPool& the_pool, const PrefixCacheOptions& the_options)
      : pool(the_pool),
        layout(pool.layout()),
        options(the_options),
        index(pool,
              options.max_block_bytes > 0 ? options.max_block_bytes
                                          : pool.blocks().max_items() * layout.block_bytes(),
              options.max_state_bytes) {}

  bool is_zero() const { return options.states.strategy == StateStrategy::zero; }
  // The end of the last block that a prompt's next visit can use.
  int64_t last_boundary(int64_t prompt_tokens) const {
    return std::max<int64_t>(0, prompt_tokens - 1) / layout.block_tokens() * layout.block_tokens();
  }
  bool wants_state(int64_t position, int64_t prompt_tokens) const;
  std::vector<Link> kept_links(std::span<const int32_t> prompt);
  // Links up to which a sequence can be restored.
  size_t restorable(const std::vector<Link>& links) const;
  void keep_state(KeptBlock* block, const SequenceCache& cache, int64_t prompt_tokens, bool is_end);

  BlockPool& pool;
  const CacheLayout& layout;
  PrefixCacheOptions options;
  PrefixIndex index;
  BlockKey root;
  PrefixCounters counters;
};

bool PrefixCache::Parts::wants_state(int64_t position, int64_t prompt_tokens) const {
  const StatePolicy& policy = options.states;
  if (policy.strategy == StateStrategy::zero) return false;
  if (policy.strategy == StateStrategy::full) return true;
  return position % policy.period_tokens == 0 ||
         (policy.keeps_ends && position == last_boundary(prompt_tokens));
}

std::vector<Link> PrefixCache::Parts::kept_links(std::span<const int32_t> prompt) {
  std::vector<Link> links;
  const int64_t unit = layout.block_tokens();
  BlockKey parent_key = root;
  for (int64_t end = unit; end < static_cast<int64_t>(prompt.size()); end += unit) {
    const auto tokens = prompt.subspan(static_cast<size_t>(end - unit), static_cast<size_t>(unit));
    const BlockKey key = next_key(parent_key, tokens);
    KeptBlock* block = index.find(parent_key, key, tokens);
    if (block == nullptr) break;
    links.push_back({parent_key, key, tokens, block});
    parent_key = key;
  }
  return links;
}

size_t PrefixCache::Parts::restorable(const std::vector<Link>& links) const {
  size_t count = links.size();
  if (is_zero()) return count;
  while (count > 0 && links[count - 1].block->state_id < 0) --count;
  return count;
}

void PrefixCache::Parts::keep_state(KeptBlock* block, const SequenceCache& cache,
                                    int64_t prompt_tokens, bool is_end) {
  const int64_t position = cache.num_tokens() / layout.block_tokens() * layout.block_tokens();
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
  cache->set_weights_version(options.weights_version);
  return cache;
}

Result<PrefixHit> PrefixCache::find(std::span<const int32_t> prompt) {
  Parts& p = *parts_;
  const std::vector<Link> links = p.kept_links(prompt);
  const size_t usable = p.restorable(links);
  const int64_t unit = p.layout.block_tokens();
  const auto num_tokens = static_cast<int64_t>(usable) * unit;

  std::vector<int32_t> ids;
  for (size_t i = 0; i < usable && p.layout.block_bytes() > 0; ++i) {
    p.pool.blocks().add_reference(links[i].block->block_id);
    ids.push_back(links[i].block->block_id);
  }
  CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence,
                            SequenceCache::attach(p.pool, std::move(ids), num_tokens));
  PrefixHit hit{std::move(sequence), num_tokens, static_cast<int64_t>(links.size()) * unit};
  ++p.counters.lookups;
  if (usable == 0) return hit;

  KeptBlock* last = links[usable - 1].block;
  p.index.mark_used(last);
  if (p.is_zero()) {
    hit.rebuild_from =
        std::max<int64_t>(0, num_tokens - rebuild_rows(p.layout, p.options.num_layers));
  } else {
    hit.cache.set_boundary_state(p.index.state(last));
  }
  ++p.counters.hits;
  if (hit.matched_tokens < p.last_boundary(static_cast<int64_t>(prompt.size())))
    ++p.counters.partial_hits;
  p.counters.reused_tokens += num_tokens;
  p.counters.recomputed_tokens += hit.matched_tokens - hit.rebuild_from;
  p.counters.memory_blocks += static_cast<int64_t>(usable);
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
                        int64_t prompt_tokens, bool is_end) {
  Parts& p = *parts_;
  CACHALOT_CHECK(static_cast<int64_t>(tokens.size()) >= cache.num_tokens());
  const int64_t unit = p.layout.block_tokens();
  KeptBlock* parent = nullptr;
  BlockKey parent_key = p.root;
  for (int64_t i = 0; i < cache.num_tokens() / unit; ++i) {
    const auto of_block = tokens.subspan(static_cast<size_t>(i * unit), static_cast<size_t>(unit));
    const BlockKey key = next_key(parent_key, of_block);
    const int32_t id = p.layout.block_bytes() == 0 ? -1 : cache.block_ids()[i];
    KeptBlock* block = p.index.find(parent_key, key, of_block);
    if (block == nullptr) {
      block = p.index.insert(parent, parent_key, key, of_block, id);
      if (block == nullptr) return;  // two texts with one key: the first stays
      ++p.counters.stored_blocks;
    } else if (block->block_id != id) {
      cache.share_block(i, block->block_id);
    }
    parent = block;
    parent_key = key;
  }
  if (parent == nullptr) return;
  p.index.mark_used(parent);
  p.keep_state(parent, cache, prompt_tokens, is_end);
  p.index.trim();
}

bool PrefixCache::make_room(int64_t num_blocks) { return parts_->index.make_room(num_blocks); }
int64_t PrefixCache::num_kept_blocks() const { return parts_->index.num_blocks(); }

void PrefixCache::set_weights_version(uint64_t version) {
  Parts& p = *parts_;
  p.index.clear();
  p.options.weights_version = version;
  p.root = root_key({p.layout.fingerprint(), p.layout.hash(), version, p.options.position_base});
}

void PrefixCache::clear() { parts_->index.clear(); }

PrefixCounters PrefixCache::counters() const {
  PrefixCounters counters = parts_->counters;
  counters.evicted_blocks = parts_->index.num_evicted_blocks();
  counters.evicted_states = parts_->index.num_evicted_states();
  return counters;
}

}  // namespace cachalot::cache
