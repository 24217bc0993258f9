// The inside of a prefix cache: prefix_cache.cpp finds in memory and stores, prefix_search.cpp
// brings what the disk alone has. Internal to cache/.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "cache/block_key.h"
#include "cache/disk_thread.h"
#include "cache/prefix_cache.h"
#include "cache/prefix_index.h"
#include "device/buffer.h"

namespace cachalot::cache {

// KeptBlock::segment of a block that is not on disk, and of one that will be.
inline constexpr int64_t kNotOnDisk = -1, kQueued = -2;

// A whole block of a text.
struct Link {
  BlockKey parent_key;
  BlockKey key;
  int64_t first_position = 0;
  std::span<const int32_t> tokens;
};

// A text that is looked for. What memory has of it is asked anew whenever it is needed: between
// steps it may have gone, or have come.
struct PrefixSearch {
  enum class Stage { looking_up, reading, found };

  std::vector<int32_t> tokens;
  std::vector<Link> links;
  Stage stage = Stage::looking_up;
  struct Job {
    int64_t number;  // of the disk's thread
    size_t end;      // of `reads`, behind those that it reads
  };
  std::deque<Job> jobs;     // that nothing has been made of yet; not empty before `found`
  bool is_dropped = false;  // nobody waits for it
  // Links that disk may give, and up to which a state may come from there: fewer once one has
  // failed.
  size_t most_links = 0, most_state_links = 0;
  size_t num_matched = 0;  // links that are kept

  // Written by the jobs.
  size_t num_known = 0;   // links that memory had before the first of `places`
  size_t num_wanted = 0;  // links up to the last state that there is
  std::vector<RecordPlace> places;
  std::optional<RecordPlace> state_place;  // behind num_wanted links; none: in memory
  RecordHeader state_header;
  std::vector<ReadRequest> reads;
  std::vector<std::byte> state;
  bool state_is_read = false;

  // While they are read: blocks that are read into, and those before them.
  std::vector<int32_t> filled, held;
  size_t num_begun = 0, num_placed = 0;  // of `reads`: that have a job; that are in their blocks
  size_t num_state_links = 0;            // `state` is that behind them
  int64_t num_blocks_read = 0, num_bytes_read = 0;
};

struct PrefixCache::Parts {
  Parts(BlockPool& the_pool, const PrefixCacheOptions& the_options)
      : pool(the_pool),
        layout(pool.layout()),
        options(the_options),
        index(pool,
              options.max_block_bytes > 0 ? options.max_block_bytes
                                          : pool.blocks().max_items() * layout.block_bytes(),
              options.max_host_bytes, options.max_state_bytes) {}
  ~Parts() {
    disk.reset();  // its jobs use the searches
    for (auto& [id, search] : searches) release(*search);
  }

  bool is_staged() const { return staging.size() > 0; }
  bool is_zero() const { return options.states.strategy == StateStrategy::zero; }
  // The end of the last block that a prompt's next visit can use.
  int64_t last_boundary(int64_t prompt_tokens) const {
    return std::max<int64_t>(0, prompt_tokens - 1) / layout.block_tokens() * layout.block_tokens();
  }
  Status open_disk();
  bool wants_state(int64_t position, int64_t prompt_tokens) const;
  RecordHeader header_of(RecordKind kind, const Link& link) const;
  // payload: of the host.
  void write(RecordHeader header, const std::byte* payload) {
    disk->push(std::move(header), {payload, static_cast<size_t>(header.payload_bytes)});
  }
  void write_block(const Link& link, const KeptBlock& block);
  // Takes note of what has been written, or could not be.
  void settle_writes();
  // While a chain has this, its blocks are kept, and written as far as they can be.
  int64_t epoch() const { return index.num_clears() + num_write_faults; }
  void keep_state(const Link& link, KeptBlock* block, const SequenceCache& cache,
                  int64_t prompt_tokens, bool is_end);

  // Of the links, those in memory from the first on: in the pool or, behind those, in the host's.
  std::vector<KeptBlock*> in_memory(std::span<const Link> links);
  // Adds a reference to the block of each to `held`, whose blocks are the first of them; those in
  // the host's memory are copied to the pool. As many are left as there is room for.
  void hold(std::vector<KeptBlock*>& blocks, std::vector<int32_t>& held);

  // prefix_search.cpp
  std::unique_ptr<PrefixSearch> begin_search(std::span<const int32_t> tokens,
                                             std::string_view salt);
  // As far as it goes without waiting; true: it is at its end.
  bool advance(PrefixSearch& search);
  void advance_all();
  void wait_and_advance(PrefixSearch& search);  // at least one turn
  void look_up(PrefixSearch& search);
  void read(PrefixSearch& search);
  void begin_reads(PrefixSearch& search);
  void place_reads(PrefixSearch& search);
  void take_read(PrefixSearch& search);
  void release(PrefixSearch& search);  // the blocks that it holds

  BlockPool& pool;
  const CacheLayout& layout;
  PrefixCacheOptions options;
  PrefixIndex index;
  std::unique_ptr<DiskThread> disk;  // null: memory alone
  bool disk_refuses = false;         // the last write
  int64_t num_write_faults = 0;      // times that it began to refuse, or ceased to
  CacheIdentity identity;
  std::vector<std::byte> written;         // a block of a GPU on its way to disk
  device::Buffer staging;                 // blocks on their way from disk to a GPU
  PrefixSearch* staging_owner = nullptr;  // who reads through it; the others wait
  PrefixCounters counters;
  std::map<SearchId, std::unique_ptr<PrefixSearch>> searches;
  SearchId next_search_id = 0;
};

}  // namespace cachalot::cache
