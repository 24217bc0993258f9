// What prompts have in common runs once: whole blocks are kept by content, in the pool, where that
// is a GPU's in the host's memory too, and, where a directory is given, on disk; a new prompt
// begins behind those that it shares.
// Source  reference/infrastructure 8.2.
//
// Use     begin   find(): a sequence that holds the first tokens of a prompt. Where rebuild_from is
//                 below their number, Runner::rebuild_state() makes its state before anything else
//                 runs. begin_find() and end_find() are its two halves: what disk alone has comes
//                 into memory between them, and the owner does other things meanwhile.
//         prefill no piece of a prompt goes beyond next_stop(): there the state is taken.
//         after   every step of the sequence that has crossed a block, and at the end of the
//                 request: store(). The sequence must be at rest: no step runs on it.
//         no room make_room() before reserve(): blocks that nothing but the cache holds go first.
//         weights set_weights_version() between steps: what was kept is found no more.
// Exact   a sequence goes on from a hit with the bits it has without one. Every token of a hit is
//         compared with the prompt's; a key alone is never believed. A block that a sequence has
//         computed anew and that is kept already gives way to the kept one, which has its bits.
// Salt    what is stored under one is found under it alone; empty: none.
// Disk    a thread of its own writes and reads; what was stored is found, and is there after the
//         end. store() waits where too much is to be written. On their way to a GPU blocks pass
//         through pinned memory, as many at a time as that has room for.
// Errors  find() fails only where the pool has no state; what goes wrong on disk is a miss, a
//         counter and a line in the log.
// Threads the pool's owner. Owner: borrows the pool, and goes before it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cache/sequence_cache.h"
#include "cache/state_policy.h"

namespace cachalot::cache {

struct PrefixCacheOptions {
  StatePolicy states;
  int64_t num_layers = 0;  // decoder layers, MTP blocks apart: how far back a zero state begins
  int64_t max_block_bytes = 0;  // of kept blocks, of the pool's; 0: all of the pool
  int64_t max_host_bytes = 0;   // of blocks that have gone from a GPU's pool, in pinned memory
  int64_t max_state_bytes = int64_t{256} << 20;
  uint64_t weights_version = 0;
  int64_t position_base = 0;                   // of the first token; rows of another one are others
  std::string directory;                       // empty: memory alone
  int64_t max_disk_bytes = 0;                  // of segment files
  int64_t disk_segment_bytes = 0;              // DiskStoreOptions::segment_bytes
  int64_t staging_bytes = int64_t{128} << 20;  // of blocks on their way from disk to a GPU
  // Called on the disk's thread when advance() may go on; may be empty.
  std::function<void()> on_disk_news;
};

using SearchId = int64_t;

struct PrefixHit {
  SequenceCache cache;         // of whole blocks, shared
  int64_t rebuild_from = 0;    // rows from here to num_tokens() make the state; equal: it is there
  int64_t matched_tokens = 0;  // what kept blocks reach to; the rest up to there runs again
};

// Since the start. Tokens and bytes are of hits.
struct PrefixCounters {
  int64_t lookups = 0;
  int64_t hits = 0;          // with at least one block
  int64_t partial_hits = 0;  // that kept blocks of the prompt do not reach the end of
  int64_t disk_hits = 0;     // with at least one block or state from disk
  int64_t reused_tokens = 0;
  int64_t recomputed_tokens = 0;  // matched, and yet run again: after the last state, or to make it
  int64_t memory_blocks = 0;
  int64_t host_blocks = 0;  // of those: copied from the host's memory to the GPU's
  int64_t disk_blocks = 0;
  int64_t disk_read_bytes = 0;
  int64_t disk_written_bytes = 0;
  int64_t stored_blocks = 0;
  int64_t stored_states = 0;
  int64_t stored_state_bytes = 0;
  int64_t evicted_blocks = 0;
  int64_t evicted_states = 0;
  int64_t damaged_records = 0;  // found on disk, refused and forgotten
  int64_t failed_writes = 0;
};

class PrefixCache {
 public:
  // Without a usable directory there is a warning and no disk tier.
  // invalid_argument for options out of range.
  static Result<std::unique_ptr<PrefixCache>> create(BlockPool& pool,
                                                     const PrefixCacheOptions& options);
  ~PrefixCache();

  // The longest beginning of `tokens` that can be gone on from, perhaps all of them (the last token
  // of a prompt runs for its logits, and is left out here); an empty sequence where nothing is
  // kept. resource_exhausted where the pool has no free state.
  Result<PrefixHit> find(std::span<const int32_t> tokens, std::string_view salt = {});

  // find() without waiting: begun, moved on by advance() until it is found, and ended (an end
  // before that waits) or dropped. advance() alone takes blocks to read into: they are neither free
  // nor idle meanwhile. What has been read stays in memory as long as there is room. A search that
  // set_weights_version() meets finds nothing.
  SearchId begin_find(std::span<const int32_t> tokens, std::string_view salt = {});
  void advance();
  bool is_found(SearchId id) const;
  Result<PrefixHit> end_find(SearchId id);
  void drop_find(SearchId id);
  // Until no block is being read into.
  void wait_for_reads();

  // The last position to which a piece that begins at `position` may go, of a prompt that ends at
  // prompt_tokens: above position, at most prompt_tokens.
  int64_t next_stop(int64_t position, int64_t prompt_tokens) const;

  // Keeps the whole blocks of the sequence, whose ids are tokens, and the state at the last of them
  // where the policy wants it and the sequence has gone no further than the layout's rewind_slack.
  // is_end: the request is over.
  void store(std::span<const int32_t> tokens, SequenceCache& cache, int64_t prompt_tokens,
             bool is_end, std::string_view salt = {});

  // Gives blocks back, the least recently used first, until num_blocks are free in the pool; false
  // where sequences hold the rest.
  bool make_room(int64_t num_blocks);
  int64_t num_kept_blocks() const;  // in the pool
  int64_t num_host_blocks() const;  // in the host's memory, beside a GPU's pool
  int64_t num_idle_blocks() const;  // that no sequence holds: what make_room() can give back
  // Of the sequence's blocks, those that no other one has a part in: free or idle without it.
  int64_t num_own_blocks(const SequenceCache& cache) const;

  void set_weights_version(uint64_t version);
  // Forgets what memory keeps; the disk stays.
  void clear();

  // What has been stored is on disk, or has failed to be.
  void flush();
  PrefixCounters counters() const;  // of writes: what has come of them so far

 private:
  struct Parts;
  explicit PrefixCache(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace cachalot::cache
