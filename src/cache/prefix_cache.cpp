#include "cache/prefix_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <span>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "cache/block_key.h"
#include "cache/boundary_state.h"
#include "cache/disk_writer.h"
#include "cache/prefix_index.h"
#include "device/gpu.h"

namespace cachalot::cache {
namespace {

constexpr int64_t kMaxQueuedBytes = int64_t{64} << 20;
// KeptBlock::segment of a block that is not on disk, and of one that will be.
constexpr int64_t kNotOnDisk = -1, kQueued = -2;
constexpr int64_t kMaxPeriod = int64_t{1} << 40;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A whole block of a prompt, as far as it is kept.
struct Link {
  BlockKey parent_key;
  BlockKey key;
  int64_t first_position = 0;
  std::span<const int32_t> tokens;
  KeptBlock* block = nullptr;        // in memory; null: on disk alone
  std::optional<RecordPlace> place;  // on disk, of a block that is not in memory
  std::optional<RecordPlace> state;  // on disk, once it has been looked for
  bool state_was_sought = false;
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
              options.max_host_bytes, options.max_state_bytes) {}

  bool is_zero() const { return options.states.strategy == StateStrategy::zero; }
  // The end of the last block that a prompt's next visit can use.
  int64_t last_boundary(int64_t prompt_tokens) const {
    return std::max<int64_t>(0, prompt_tokens - 1) / layout.block_tokens() * layout.block_tokens();
  }
  bool wants_state(int64_t position, int64_t prompt_tokens) const;
  std::vector<Link> kept_links(std::span<const int32_t> prompt, std::string_view salt);
  // Links up to which a sequence can be restored.
  size_t restorable(std::vector<Link>& links);
  // Adds a reference to the block of each link to `held`, reading what is on disk alone, up to the
  // first that cannot be had.
  void hold(std::vector<Link>& links, std::vector<int32_t>& held);
  // Copies to the GPU those links from `first` on that the host's memory has, and holds them; the
  // first that it does not have, or that there is no room for.
  size_t hold_from_host(std::vector<Link>& links, size_t first, std::vector<int32_t>& held);
  // Null where it cannot be read. Valid until the next call.
  const std::byte* load_state(Link& link);
  RecordHeader header_of(RecordKind kind, const Link& link) const;
  // payload: of the host.
  void write(RecordHeader header, const std::byte* payload) {
    disk->push(std::move(header), {payload, static_cast<size_t>(header.payload_bytes)});
  }
  void write_block(const Link& link);
  void read_to_gpu(std::span<ReadRequest> requests);
  // Takes note of what has been written, or could not be.
  void settle_writes();
  // While a chain has this, its blocks are kept, and written as far as they can be.
  int64_t epoch() const { return index.num_clears() + num_write_faults; }
  void keep_state(const Link& link, const SequenceCache& cache, int64_t prompt_tokens, bool is_end);

  BlockPool& pool;
  const CacheLayout& layout;
  PrefixCacheOptions options;
  PrefixIndex index;
  std::unique_ptr<DiskWriter> disk;  // null: memory alone
  bool disk_refuses = false;         // the last write
  int64_t num_write_faults = 0;      // times that it began to refuse, or ceased to
  CacheIdentity identity;
  std::vector<std::byte> read_state;  // from disk
  std::vector<std::byte> staging;     // a block of a GPU on its way to disk
  PrefixCounters counters;
};

bool PrefixCache::Parts::wants_state(int64_t position, int64_t prompt_tokens) const {
  const StatePolicy& policy = options.states;
  if (policy.strategy == StateStrategy::zero) return false;
  if (policy.strategy == StateStrategy::full) return true;
  return position % policy.period_tokens == 0 ||
         (policy.keeps_ends && position == last_boundary(prompt_tokens));
}

std::vector<Link> PrefixCache::Parts::kept_links(std::span<const int32_t> prompt,
                                                 std::string_view salt) {
  std::vector<Link> links;
  const int64_t unit = layout.block_tokens();
  BlockKey parent_key = root_key(identity, salt);
  for (int64_t end = unit; end <= static_cast<int64_t>(prompt.size()); end += unit) {
    Link link;
    link.parent_key = parent_key;
    link.first_position = end - unit;
    link.tokens = prompt.subspan(static_cast<size_t>(end - unit), static_cast<size_t>(unit));
    link.key = next_key(parent_key, link.tokens);
    link.block = index.find(parent_key, link.key, link.tokens);
    if (link.block == nullptr && disk != nullptr) {
      disk->wait_for(link.key);
      link.place = disk->store()->find(link.key, RecordKind::block);
    }
    if (link.block == nullptr && !link.place) break;
    parent_key = link.key;
    links.push_back(link);
  }
  return links;
}

size_t PrefixCache::Parts::restorable(std::vector<Link>& links) {
  if (is_zero()) return links.size();
  for (size_t count = links.size(); count > 0; --count) {
    Link& link = links[count - 1];
    if (link.block != nullptr && link.block->state_id >= 0) return count;
    if (disk != nullptr && !link.state_was_sought) {
      disk->wait_for(link.key);
      link.state = disk->store()->find(link.key, RecordKind::state);
      link.state_was_sought = true;
    }
    if (link.state) return count;
  }
  return 0;
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

void PrefixCache::Parts::hold(std::vector<Link>& links, std::vector<int32_t>& held) {
  const bool has_bytes = layout.block_bytes() > 0;
  size_t known = 0;  // links in the pool, which come first
  for (; known < links.size() && links[known].block != nullptr; ++known) {
    if (links[known].block->host_id >= 0) break;
    if (known < held.size() || !has_bytes) continue;
    held.push_back(links[known].block->block_id);
    pool.blocks().add_reference(held.back());
  }
  known = hold_from_host(links, known, held);
  if (known < links.size() && links[known].block != nullptr) return links.resize(known);
  std::vector<int32_t> ids;
  std::vector<ReadRequest> requests;
  for (size_t i = known; i < links.size(); ++i) {
    ReadRequest request{header_of(RecordKind::block, links[i]), *links[i].place, {}};
    if (has_bytes) {
      if (!index.make_room(1) || !pool.blocks().allocate(1, ids).ok()) break;
      request.payload = {pool.blocks().data(ids.back()), static_cast<size_t>(layout.block_bytes())};
    }
    requests.push_back(std::move(request));
  }
  if (has_bytes && pool.gpu() != nullptr) {
    read_to_gpu(requests);
  } else if (!requests.empty()) {
    disk->store()->read_all(requests);
  }
  size_t read = 0;
  for (; read < requests.size() && requests[read].is_read; ++read) {
    Link& link = links[known + read];
    KeptBlock* parent = known + read == 0 ? nullptr : links[known + read - 1].block;
    link.block =
        index.insert(parent, link.parent_key, link.key, link.tokens, has_bytes ? ids[read] : -1);
    if (link.block == nullptr) break;  // two texts with one key
    link.block->segment = link.place->segment;
    if (has_bytes) held.push_back(ids[read]);
    ++counters.disk_blocks;
    counters.disk_read_bytes += link.place->num_bytes;
  }
  for (size_t i = read; i < ids.size(); ++i) pool.blocks().release(ids[i]);
  links.resize(known + read);
}

size_t PrefixCache::Parts::hold_from_host(std::vector<Link>& links, size_t first,
                                          std::vector<int32_t>& held) {
  size_t end = first;
  for (; end < links.size() && links[end].block != nullptr; ++end)
    links[end].block->stays_on_host = true;
  std::vector<device::Gpu::Copy> copies;
  size_t placed = first;
  for (; placed < end; ++placed) {
    KeptBlock* block = links[placed].block;
    if (!index.make_room(1) || !pool.blocks().allocate(1, held).ok()) break;
    index.place(block, held.back());
    copies.push_back(
        {pool.blocks().data(held.back()), index.host_bytes(*block), layout.block_bytes()});
  }
  if (!copies.empty()) pool.gpu()->copy_all(copies);
  for (size_t i = first; i < end; ++i) {
    links[i].block->stays_on_host = false;
    if (i < placed) index.leave_host(links[i].block);
  }
  counters.host_blocks += static_cast<int64_t>(placed - first);
  return placed;
}

// Payloads are blocks of the GPU: while some are copied there, the next are read.
void PrefixCache::Parts::read_to_gpu(std::span<ReadRequest> requests) {
  constexpr int64_t kStagingBytes = int64_t{32} << 20;  // of each half
  device::Gpu& gpu = *pool.gpu();
  const int64_t block_bytes = layout.block_bytes();
  const auto group = static_cast<size_t>(std::max<int64_t>(1, kStagingBytes / block_bytes));
  gpu.begin_tables();  // between steps; they give host memory from which copies are fast
  std::byte* halves[2] = {};
  for (std::byte*& half : halves)
    half = gpu.table<std::byte>(static_cast<int64_t>(group) * block_bytes);
  std::vector<std::byte*> blocks;
  for (const ReadRequest& request : requests) blocks.push_back(request.payload.data());
  const auto read = [&](size_t first) {
    if (first >= requests.size()) return;
    const std::span some = requests.subspan(first, std::min(group, requests.size() - first));
    for (size_t i = 0; i < some.size(); ++i) {
      some[i].payload = {halves[first / group % 2] + static_cast<int64_t>(i) * block_bytes,
                         static_cast<size_t>(block_bytes)};
    }
    disk->store()->read_all(some);
  };
  read(0);
  for (size_t first = 0; first < requests.size(); first += group) {
    const std::jthread next([&] { read(first + group); });
    std::vector<device::Gpu::Copy> copies;
    for (size_t i = first; i < std::min(requests.size(), first + group); ++i) {
      if (requests[i].is_read)
        copies.push_back({blocks[i], requests[i].payload.data(), block_bytes});
    }
    gpu.copy_all(copies);
  }
  gpu.begin_tables();
}

void PrefixCache::Parts::write_block(const Link& link) {
  const int32_t id = link.block->block_id;
  const std::byte* payload = id < 0 ? nullptr : pool.blocks().data(id);
  if (payload != nullptr && pool.gpu() != nullptr) {
    staging.resize(static_cast<size_t>(layout.block_bytes()));
    device::copy_bytes(pool.gpu(), staging.data(), payload, layout.block_bytes());
    payload = staging.data();
  }
  write(header_of(RecordKind::block, link), payload);
}

const std::byte* PrefixCache::Parts::load_state(Link& link) {
  if (link.block->state_id >= 0) return index.state(link.block);
  read_state.resize(static_cast<size_t>(boundary_state_bytes(layout)));
  if (!disk->store()->read(header_of(RecordKind::state, link), *link.state, read_state)) {
    link.state.reset();
    return nullptr;
  }
  counters.disk_read_bytes += link.state->num_bytes;
  if (std::byte* kept = index.add_state(link.block); kept != nullptr)
    std::memcpy(kept, read_state.data(), read_state.size());
  return read_state.data();
}

void PrefixCache::Parts::settle_writes() {
  if (disk == nullptr) return;
  for (const DiskWriter::Written& one : disk->take_written()) {
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

void PrefixCache::Parts::keep_state(const Link& link, const SequenceCache& cache,
                                    int64_t prompt_tokens, bool is_end) {
  KeptBlock* block = link.block;
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
    Result<std::unique_ptr<DiskStore>> disk =
        DiskStore::open({options.directory, options.max_disk_bytes, options.disk_segment_bytes});
    if (disk) {
      cache->parts_->disk = std::make_unique<DiskWriter>(*std::move(disk), kMaxQueuedBytes);
    } else {
      log_warning("prefix cache: " + disk.error().message() + "; nothing is kept on disk");
    }
  }
  cache->set_weights_version(options.weights_version);
  return cache;
}

Result<PrefixHit> PrefixCache::find(std::span<const int32_t> prompt, std::string_view salt) {
  Parts& p = *parts_;
  p.settle_writes();
  const int64_t unit = p.layout.block_tokens();
  std::vector<Link> links = p.kept_links(prompt, salt);
  const auto matched_tokens = static_cast<int64_t>(links.size()) * unit;
  const int64_t disk_bytes = p.counters.disk_read_bytes, disk_blocks = p.counters.disk_blocks;

  // As far as there is a state, or one that can be made; less where the disk fails.
  std::vector<int32_t> held;
  const std::byte* state = nullptr;
  do {
    links.resize(p.restorable(links));
    const size_t wanted = links.size();
    p.hold(links, held);
    if (links.size() == wanted && wanted > 0 && !p.is_zero()) state = p.load_state(links.back());
  } while (!links.empty() && state == nullptr && !p.is_zero());
  if (p.disk != nullptr) p.disk->store()->close_files();
  for (; held.size() > links.size(); held.pop_back()) p.pool.blocks().release(held.back());

  const auto num_tokens = static_cast<int64_t>(links.size()) * unit;
  CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence,
                            SequenceCache::attach(p.pool, std::move(held), num_tokens));
  PrefixHit hit{std::move(sequence), num_tokens, matched_tokens};
  ++p.counters.lookups;
  p.counters.recomputed_tokens += matched_tokens - num_tokens;
  if (links.empty()) return hit;

  p.index.mark_used(links.back().block);
  hit.cache.set_kept_chain({static_cast<int64_t>(links.size()), links.back().key, p.epoch()});
  if (p.disk != nullptr) {
    std::set<int64_t> segments;
    for (const Link& link : links) segments.insert(link.block->segment);
    for (const int64_t segment : segments) p.disk->store()->mark_used(segment);
  }
  if (p.is_zero()) {
    hit.rebuild_from =
        std::max<int64_t>(0, num_tokens - rebuild_rows(p.layout, p.options.num_layers));
  } else {
    hit.cache.set_boundary_state(state);
  }
  ++p.counters.hits;
  if (hit.matched_tokens < static_cast<int64_t>(prompt.size()) / unit * unit)
    ++p.counters.partial_hits;
  if (p.counters.disk_read_bytes > disk_bytes) ++p.counters.disk_hits;
  p.counters.reused_tokens += num_tokens;
  p.counters.recomputed_tokens += num_tokens - hit.rebuild_from;
  p.counters.memory_blocks +=
      static_cast<int64_t>(links.size()) - (p.counters.disk_blocks - disk_blocks);
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
    link.block = p.index.find(link.parent_key, link.key, link.tokens);
    if (link.block == nullptr) {
      link.block = p.index.insert(parent, link.parent_key, link.key, link.tokens, id);
      if (link.block == nullptr) return;  // two texts with one key: the first stays
      ++p.counters.stored_blocks;
    } else if (link.block->host_id >= 0) {  // it has been computed anew
      p.index.place(link.block, id);
      p.index.leave_host(link.block);
    } else if (link.block->block_id != id) {
      cache.share_block(i, link.block->block_id);
    }
    if (writes && link.block->segment == kNotOnDisk) {
      p.write_block(link);
      link.block->segment = kQueued;
      writes = !p.disk_refuses;  // then one shows whether it still does
    }
    parent = link.block;
  }
  if (parent == nullptr) return;
  cache.set_kept_chain({num_blocks, parent->key, p.epoch()});
  p.index.mark_used(parent);
  p.keep_state(link, cache, prompt_tokens, is_end);
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
