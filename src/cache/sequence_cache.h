// The cache of one sequence: how many tokens it holds, and where the attention ops find and put its
// rows.
// Source  reference/infrastructure 8.1, reference/forward 3.5, 5.3.
//
// Use     reserve(num_tokens() + n); the forward pass writes the rows of n positions through
//         views(); advance(n). Rows written must be advanced over, those of rejected drafts too:
//         advance, then rewind. A forward pass abandoned half-way has overwritten ring rows without
//         that; where n is above the rewind slack only clear() helps then.
// State   a ring slot is position mod capacity, so a sequence starts without clearing, and
//         rewinding by at most rewind_slack moves num_tokens() and nothing else: the rows needed
//         before it are still there. Entries from floor(num_tokens / ratio) on are dead until they
//         are written again. Nothing dead or from an earlier owner of the memory may be read, nor
//         is it saved.
// Blocks  one wholly below num_tokens() is immutable and shared by forks. The block that holds
//         position num_tokens() belongs to one sequence before it is written: fork() copies it, and
//         reserve() copies a shared one after a rewind into it.
// Owner   borrows the pool; move-only; gives its memory back when destroyed.
// Threads the pool's owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "cache/block_key.h"
#include "cache/block_pool.h"
#include "cache/byte_source.h"
#include "tensor/rows.h"

namespace cachalot::cache {

struct RestoredSequence;

// Of a sequence's first whole blocks: that a prefix cache keeps them (prefix_cache.h).
struct KeptChain {
  int64_t num_blocks = 0;
  BlockKey key;       // of the last
  int64_t epoch = 0;  // while the cache's is this one, they are there
};

class SequenceCache {
 public:
  // An empty sequence: takes a state, no blocks. resource_exhausted where no state is free.
  static Result<SequenceCache> create(BlockPool& pool);
  // A sequence at the end of whole blocks that others have filled; takes over one reference to
  // each, which it gives back where it fails. The rings hold zeros: set_boundary_state(), or rows
  // written through views(), make them those of the last tokens; rewind() accepts 0 alone until
  // more than the rewind slack has been advanced over.
  static Result<SequenceCache> attach(BlockPool& pool, std::vector<int32_t> block_ids,
                                      int64_t num_tokens);
  SequenceCache(SequenceCache&& other) noexcept;
  SequenceCache& operator=(SequenceCache&& other) noexcept;
  ~SequenceCache();

  int64_t num_tokens() const { return num_tokens_; }
  // rewind() accepts [min_rewind_tokens(), num_tokens()] and 0.
  int64_t min_rewind_tokens() const;
  int64_t num_blocks() const { return static_cast<int64_t>(block_ids_.size()); }
  // Pool ids of the blocks, in order of position.
  std::span<const int32_t> block_ids() const { return block_ids_; }
  // Of them, those that lie wholly below num_tokens(): what a fork shares.
  int64_t num_whole_blocks() const {
    return layout().block_bytes() == 0 ? 0 : num_tokens_ / layout().block_tokens();
  }
  // Those that no other sequence has a part in: what destroying this one would free.
  int64_t num_own_blocks() const;
  // Whether the block that holds position num_tokens() is shared: the next reserve() copies it.
  bool copies_before_write() const;
  const CacheLayout& layout() const { return pool_->layout(); }

  // Makes positions [this->num_tokens(), num_tokens) writable. Called before every write, after
  // fork and rewind too. resource_exhausted where too few blocks are free; nothing has changed
  // then.
  Status reserve(int64_t num_tokens);

  // The rows of the next n positions, reserved before, have been written in every layer.
  void advance(int64_t n);

  // Streams that the layer lacks are empty. Valid until the next reserve, rewind, clear or move.
  tensor::LayerRows views(int64_t layer_idx) { return make_views(layer_idx); }

  // A second sequence with the same tokens: whole blocks shared, the rest copied. Reservations are
  // not.
  Result<SequenceCache> fork() const;

  // The positions up to num_tokens get the rows of the whole blocks, over and over, in blocks of
  // their own: a long sequence of valid rows for measurements. There is a whole block.
  // resource_exhausted.
  Status repeat_blocks(int64_t num_tokens);

  // Forgets the positions from num_tokens on. invalid_argument outside what min_rewind_tokens()
  // allows.
  Status rewind(int64_t num_tokens);

  // Forgets all and gives the blocks back; the state stays.
  void clear();

  // The rows that a sequence at a block's end goes on from (boundary_state.h), copied out.
  // position: a multiple of block_tokens in [min_rewind_tokens(), num_tokens()].
  void copy_boundary_state(int64_t position, std::byte* out) const;
  // Those of num_tokens(), right after attach().
  void set_boundary_state(const std::byte* bytes);

  // A block wholly below num_tokens() gives way to the pool's block `id`, which holds the same rows
  // and gets a reference.
  void share_block(int64_t block_idx, int32_t id);

  // What the prefix cache remembers here. Gone with the blocks: by a rewind into them, or clear().
  const KeptChain& kept_chain() const { return kept_chain_; }
  void set_kept_chain(const KeptChain& chain) { kept_chain_ = chain; }

  // Writes the live rows; docs/formats/cache_file.md. token_ids: empty, or the ids of all
  // num_tokens() tokens. The file at path is replaced as a whole or stays as it was.
  Status save(const std::string& path, std::span<const int32_t> token_ids = {}) const;
  Status save_to(Sink& sink, std::span<const int32_t> token_ids = {}) const;

  // What save() wrote, bit for bit, rewinding included. prompt: where given, the saved ids must be
  // its first ones. data_loss for a damaged file, invalid_argument for one of another model,
  // layout, version or text, resource_exhausted where the pool lacks room; the message names the
  // file, what was expected and what was found, and the pool is as before.
  static Result<RestoredSequence> restore(BlockPool& pool, const std::string& path,
                                          std::optional<std::span<const int32_t>> prompt = {});
  static Result<RestoredSequence> restore_from(BlockPool& pool, ByteSource& source,
                                               const std::string& name,
                                               std::optional<std::span<const int32_t>> prompt = {});

 private:
  SequenceCache(BlockPool& pool, int32_t state_id);
  tensor::LayerRows make_views(int64_t layer_idx) const;
  // Makes blocks_of_layers_ follow block_ids_ from block_idx on.
  void place_blocks(size_t block_idx);
  void release_all();
  // fn(first row in its ring, first row in `state`, their bytes) for the runs of rows, one beside
  // the other in both, of a state at `position`.
  template <typename Fn>
  void for_each_boundary_run(int64_t position, std::byte* state, Fn&& fn) const;

  BlockPool* pool_;
  int32_t state_id_;  // -1 once moved from
  std::vector<int32_t> block_ids_;
  // Where each block's entry rows (2i) and index rows (2i + 1) of layer i start: what RowBlocks
  // points to.
  std::vector<std::vector<std::byte*>> stream_blocks_;
  int64_t num_tokens_ = 0;
  // one past the highest position in the rings; at most num_tokens_ + rewind_slack
  int64_t ring_end_ = 0;
  KeptChain kept_chain_;
};

struct RestoredSequence {
  SequenceCache cache;
  std::vector<int32_t> token_ids;  // as given to save()
};

}  // namespace cachalot::cache
