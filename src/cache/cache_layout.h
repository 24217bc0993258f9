// Which rows the cache keeps for each layer, and where they lie: in a sequence's state and in a
// block.
// Source  reference/infrastructure 8.1, reference/forward 3.5, 3.10, 8.1.
//
// State   per layer three rings (window rows, the main compressor's tail, the indexer's tail), each
//         starting on a 64-byte line; position p in slot p mod capacity.
// Block   block_tokens positions: per layer its block_tokens / ratio entry rows, then as many index
//         rows, each group starting on a 64-byte line. A group of n rows is n data parts, then n
//         scale parts (tensor/rows.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "tensor/rows.h"

namespace cachalot::cache {

// The streams of one layer. A stream with a row of 0 bytes does not exist.
struct LayerStreams {
  tensor::RowLayout window = {};
  int64_t window_capacity = 0;  // positions a query looks back over, plus rewind_slack
  int64_t ratio = 0;            // positions per compressed row; 0: the layer keeps none
  tensor::RowLayout entry = {};
  tensor::RowLayout index_key = {};
  tensor::RowLayout tail = {};  // projections of tokens that no finished entry holds
  int64_t tail_capacity = 0;
  tensor::RowLayout index_tail = {};
  int64_t index_tail_capacity = 0;
};

// Byte offsets of a layer's streams; of one that does not exist, the place where it would start.
struct LayerOffsets {
  int64_t window = 0;  // in the state
  int64_t tail = 0;
  int64_t index_tail = 0;
  int64_t entry = 0;  // in a block
  int64_t index_key = 0;
};

// Immutable once made; cheap to copy beside what it describes.
class CacheLayout {
 public:
  // layers: decoder layers, then MTP blocks. block_tokens is a multiple of every ratio.
  // rewind_slack: how far a sequence may step back; every capacity is larger. fingerprint: of the
  // model and the precision whose rows these are, chosen by the caller; a saved cache carries it.
  static Result<CacheLayout> create(std::vector<LayerStreams> layers, int64_t block_tokens,
                                    int64_t rewind_slack, uint64_t fingerprint);

  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  const LayerStreams& layer(int64_t layer_idx) const { return layers_[layer_idx]; }
  const LayerOffsets& offsets(int64_t layer_idx) const { return offsets_[layer_idx]; }
  int64_t block_tokens() const { return block_tokens_; }
  int64_t rewind_slack() const { return rewind_slack_; }
  uint64_t fingerprint() const { return fingerprint_; }
  // XXH3-64 of everything that decides where a byte lies; docs/formats/cache_file.md.
  uint64_t hash() const;

  // Blocks that positions [0, num_tokens) need: 0 where no layer keeps compressed rows.
  int64_t num_blocks(int64_t num_tokens) const {
    return block_bytes_ == 0 ? 0 : num_tokens / block_tokens_ + (num_tokens % block_tokens_ != 0);
  }
  int64_t rows_per_block(int64_t layer_idx) const {
    return layers_[layer_idx].ratio == 0 ? 0 : block_tokens_ / layers_[layer_idx].ratio;
  }

  int64_t block_bytes() const { return block_bytes_; }          // with padding
  int64_t block_row_bytes() const { return block_row_bytes_; }  // rows alone: the information size
  int64_t block_padding_bytes() const { return block_bytes_ - block_row_bytes_; }
  int64_t state_bytes() const { return state_bytes_; }  // with padding; the same at every length
  int64_t state_row_bytes() const { return state_row_bytes_; }

  // Growth per token of context, the state apart: exact where the ratios are powers of two.
  double bytes_per_token() const {
    return static_cast<double>(block_row_bytes_) / static_cast<double>(block_tokens_);
  }
  double padding_bytes_per_token() const {
    return static_cast<double>(block_padding_bytes()) / static_cast<double>(block_tokens_);
  }

 private:
  CacheLayout() = default;
  void place_streams();

  std::vector<LayerStreams> layers_;
  std::vector<LayerOffsets> offsets_;
  int64_t block_tokens_ = 0;
  int64_t rewind_slack_ = 0;
  uint64_t fingerprint_ = 0;
  int64_t block_bytes_ = 0;
  int64_t block_row_bytes_ = 0;
  int64_t state_bytes_ = 0;
  int64_t state_row_bytes_ = 0;
};

}  // namespace cachalot::cache
