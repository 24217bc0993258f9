#include "cache/cache_layout.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <utility>

namespace cachalot::cache {
namespace {
constexpr int64_t kLineBytes = 64;
// Bounds that keep every size below 2^62: 2^10 layers of 3 rings of 2^20 rows of 2^20 bytes.
constexpr int64_t kMaxLayers = int64_t{1} << 10;
constexpr int64_t kMaxRowBytes = int64_t{1} << 20;
constexpr int64_t kMaxRows = int64_t{1} << 20;

int64_t round_up_to_line(int64_t bytes) {
  return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
}

Status check_row(int64_t layer_idx, const char* stream, const tensor::RowLayout& row) {
  for (const int64_t bytes : {row.data_bytes, row.scale_bytes}) {
    if (bytes < 0 || bytes > kMaxRowBytes / 2) {
      return invalid_argument(
          fmt::format("cache layout: layer {}: {}: expected row parts of 0 to {} bytes, found {}",
                      layer_idx, stream, kMaxRowBytes / 2, bytes));
    }
  }
  return {};
}

Status check_ring(int64_t layer_idx, const char* stream, const tensor::RowLayout& row,
                  int64_t capacity, int64_t rewind_slack) {
  CACHALOT_RETURN_IF_ERROR(check_row(layer_idx, stream, row));
  if (row.row_bytes() == 0) {
    if (capacity == 0) return {};
    return invalid_argument(
        fmt::format("cache layout: layer {}: {}: expected capacity 0 for rows of 0 bytes, found {}",
                    layer_idx, stream, capacity));
  }
  if (capacity <= rewind_slack || capacity > kMaxRows) {
    return invalid_argument(
        fmt::format("cache layout: layer {}: {}: expected a capacity above the rewind slack of {} "
                    "and at most {}, found {}",
                    layer_idx, stream, rewind_slack, kMaxRows, capacity));
  }
  return {};
}

Status check_layer(int64_t layer_idx, const LayerStreams& layer, int64_t block_tokens,
                   int64_t rewind_slack) {
  CACHALOT_RETURN_IF_ERROR(
      check_ring(layer_idx, "window", layer.window, layer.window_capacity, rewind_slack));
  CACHALOT_RETURN_IF_ERROR(
      check_ring(layer_idx, "tail", layer.tail, layer.tail_capacity, rewind_slack));
  CACHALOT_RETURN_IF_ERROR(check_ring(layer_idx, "index tail", layer.index_tail,
                                      layer.index_tail_capacity, rewind_slack));
  CACHALOT_RETURN_IF_ERROR(check_row(layer_idx, "entry", layer.entry));
  CACHALOT_RETURN_IF_ERROR(check_row(layer_idx, "index key", layer.index_key));
  if (layer.ratio < 0 || (layer.ratio > 0 && block_tokens % layer.ratio != 0)) {
    return invalid_argument(fmt::format(
        "cache layout: layer {}: expected a ratio that divides block_tokens {}, found {}",
        layer_idx, block_tokens, layer.ratio));
  }
  const bool has_rows = layer.entry.row_bytes() + layer.index_key.row_bytes() > 0;
  if (has_rows != (layer.ratio > 0)) {
    return invalid_argument(
        fmt::format("cache layout: layer {}: expected compressed rows exactly where the ratio is "
                    "positive, found ratio {} "
                    "with entry rows of {} and index rows of {} bytes",
                    layer_idx, layer.ratio, layer.entry.row_bytes(), layer.index_key.row_bytes()));
  }
  return {};
}
}  // namespace

Result<CacheLayout> CacheLayout::create(std::vector<LayerStreams> layers, int64_t block_tokens,
                                        int64_t rewind_slack, uint64_t fingerprint) {
  if (layers.empty() || static_cast<int64_t>(layers.size()) > kMaxLayers) {
    return invalid_argument(
        fmt::format("cache layout: expected 1 to {} layers, found {}", kMaxLayers, layers.size()));
  }
  if (block_tokens < 1 || block_tokens > kMaxRows) {
    return invalid_argument(fmt::format("cache layout: expected block_tokens of 1 to {}, found {}",
                                        kMaxRows, block_tokens));
  }
  if (rewind_slack < 0 || rewind_slack >= kMaxRows) {
    return invalid_argument(fmt::format("cache layout: expected rewind_slack of 0 to {}, found {}",
                                        kMaxRows - 1, rewind_slack));
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    CACHALOT_RETURN_IF_ERROR(
        check_layer(static_cast<int64_t>(i), layers[i], block_tokens, rewind_slack));
  }
  CacheLayout layout;
  layout.layers_ = std::move(layers);
  layout.block_tokens_ = block_tokens;
  layout.rewind_slack_ = rewind_slack;
  layout.fingerprint_ = fingerprint;
  layout.place_streams();
  return layout;
}

uint64_t CacheLayout::hash() const {
  std::vector<int64_t> numbers = {block_tokens_, rewind_slack_, num_layers()};
  for (const LayerStreams& layer : layers_) {
    numbers.insert(numbers.end(), {layer.window_capacity, layer.tail_capacity,
                                   layer.index_tail_capacity, layer.ratio});
    for (const tensor::RowLayout& row :
         {layer.window, layer.entry, layer.index_key, layer.tail, layer.index_tail}) {
      numbers.insert(numbers.end(), {row.data_bytes, row.scale_bytes});
    }
  }
  return XXH3_64bits(numbers.data(), numbers.size() * sizeof(int64_t));
}

void CacheLayout::place_streams() {
  const auto place = [](int64_t rows, const tensor::RowLayout& row, int64_t& end,
                        int64_t& row_total) {
    const int64_t offset = end;
    row_total += rows * row.row_bytes();
    end += round_up_to_line(rows * row.row_bytes());
    return offset;
  };
  for (int64_t i = 0; i < num_layers(); ++i) {
    const LayerStreams& layer = layers_[i];
    const int64_t rows = rows_per_block(i);
    LayerOffsets at;
    at.window = place(layer.window_capacity, layer.window, state_bytes_, state_row_bytes_);
    at.tail = place(layer.tail_capacity, layer.tail, state_bytes_, state_row_bytes_);
    at.index_tail =
        place(layer.index_tail_capacity, layer.index_tail, state_bytes_, state_row_bytes_);
    at.entry = place(rows, layer.entry, block_bytes_, block_row_bytes_);
    at.index_key = place(rows, layer.index_key, block_bytes_, block_row_bytes_);
    offsets_.push_back(at);
  }
}

}  // namespace cachalot::cache
