// For tests of cache/: layouts, and a sequence that writes rows whose bytes are a function of the
// tokens so far, and can therefore tell what every live row must hold.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/sequence_cache.h"
#include "tensor/rows.h"

namespace cachalot::cache::testing {

inline constexpr int64_t kSmallSlack = 3;

// Every kind of layer, with rows of odd sizes: window only; ratio 4 with an indexer; ratio 8; ratio
// 1 without rings.
inline CacheLayout small_layout(uint64_t fingerprint = 0x1234) {
  const tensor::RowLayout window = {.data_bytes = 10, .scale_bytes = 2};
  std::vector<LayerStreams> layers(4);
  layers[0] = {.window = window, .window_capacity = 5 + kSmallSlack};
  layers[1] = {.window = window,
               .window_capacity = 5 + kSmallSlack,
               .ratio = 4,
               .entry = window,
               .index_key = {.data_bytes = 6, .scale_bytes = 1},
               .tail = {.data_bytes = 9},
               .tail_capacity = 8 + kSmallSlack,
               .index_tail = {.data_bytes = 4},
               .index_tail_capacity = 8 + kSmallSlack};
  layers[2] = {.window = window,
               .window_capacity = 5 + kSmallSlack,
               .ratio = 8,
               .entry = window,
               .tail = {.data_bytes = 7},
               .tail_capacity = 8 + kSmallSlack};
  layers[3] = {.ratio = 1, .entry = {.data_bytes = 3}};
  return CacheLayout::create(std::move(layers), 16, kSmallSlack, fingerprint).value();
}

inline uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// A sequence and what it must hold: prefixes_[p] stands for the tokens up to position p.
class CheckedSequence {
 public:
  explicit CheckedSequence(SequenceCache cache) : cache_(std::move(cache)) {}

  SequenceCache& cache() { return cache_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t num_tokens() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t ring_end() const { return ring_end_; }

  // Writes the rows of one more token; its position is reserved.
  void write(int32_t token) {
    const int64_t p = num_tokens();
    remember(token);
    for (int64_t layer = 0; layer < cache_.layout().num_layers(); ++layer) {
      const tensor::LayerRows views = cache_.views(layer);
      for_rings(layer, views, [&](const tensor::RowRing& ring, uint64_t stream) {
        expected_row(p, stream, ring.layout, [&](const std::byte* data, const std::byte* scale) {
          put(ring.row(p), ring.layout, data, scale);
        });
      });
      const int64_t ratio = cache_.layout().layer(layer).ratio;
      if (ratio == 0 || (p + 1) % ratio != 0) continue;
      for_blocks(layer, views, [&](const tensor::RowBlocks& rows, uint64_t stream) {
        expected_row(p, stream, rows.layout, [&](const std::byte* data, const std::byte* scale) {
          put(rows.row(p / ratio), rows.layout, data, scale);
        });
      });
    }
    ring_end_ = std::max(ring_end_, num_tokens());
  }

  // Reserves, writes and advances over `tokens`.
  Status append(const std::vector<int32_t>& tokens) {
    CACHALOT_RETURN_IF_ERROR(cache_.reserve(num_tokens() + static_cast<int64_t>(tokens.size())));
    for (const int32_t token : tokens) write(token);
    cache_.advance(static_cast<int64_t>(tokens.size()));
    return {};
  }

  void forget_from(int64_t num_tokens) {
    tokens_.resize(static_cast<size_t>(num_tokens));
    prefixes_.resize(static_cast<size_t>(num_tokens));
    if (num_tokens == 0) ring_end_ = resumed_at_ = 0;
  }

  // What a prefix cache has found for these tokens.
  static CheckedSequence resumed(SequenceCache cache, std::span<const int32_t> tokens) {
    CheckedSequence sequence(std::move(cache));
    for (const int32_t token : tokens) sequence.remember(token);
    sequence.resumed_at_ = sequence.num_tokens();
    if (!tokens.empty()) sequence.ring_end_ = sequence.num_tokens() + kSmallSlack;
    return sequence;
  }

  // Writes the ring rows of positions from `first` on, as a rebuilt state has them.
  void rebuild_rings(int64_t first) {
    for (int64_t layer = 0; layer < cache_.layout().num_layers(); ++layer) {
      for_rings(layer, cache_.views(layer), [&](const tensor::RowRing& ring, uint64_t stream) {
        for (int64_t p = first; p < num_tokens(); ++p) {
          expected_row(p, stream, ring.layout, [&](const std::byte* data, const std::byte* scale) {
            put(ring.row(p), ring.layout, data, scale);
          });
        }
      });
    }
  }

  CheckedSequence twin(SequenceCache cache) const {
    CheckedSequence copy(std::move(cache));
    copy.tokens_ = tokens_, copy.prefixes_ = prefixes_, copy.ring_end_ = ring_end_;
    copy.resumed_at_ = resumed_at_;
    return copy;
  }

  // Empty if every live row holds its bytes, else which does not.
  std::string fault() {
    if (cache_.num_tokens() != num_tokens())
      return "num_tokens " + std::to_string(cache_.num_tokens());
    std::string found;
    const auto compare = [&](const tensor::RowRef& row, const tensor::RowLayout& layout,
                             uint64_t stream, int64_t p) {
      expected_row(p, stream, layout, [&](const std::byte* data, const std::byte* scale) {
        if (std::memcmp(row.data, data, layout.data_bytes) != 0 ||
            std::memcmp(row.scale, scale, layout.scale_bytes) != 0) {
          found = "stream " + std::to_string(stream) + " position " + std::to_string(p);
        }
      });
    };
    for (int64_t layer = 0; layer < cache_.layout().num_layers(); ++layer) {
      const tensor::LayerRows views = cache_.views(layer);
      for_rings(layer, views, [&](const tensor::RowRing& ring, uint64_t stream) {
        for (int64_t p = first_live(layer, ring, stream); p < num_tokens(); ++p) {
          compare(ring.row(p), ring.layout, stream, p);
        }
      });
      const int64_t ratio = cache_.layout().layer(layer).ratio;
      if (ratio == 0) continue;
      for_blocks(layer, views, [&](const tensor::RowBlocks& rows, uint64_t stream) {
        for (int64_t e = 0; e < num_tokens() / ratio; ++e)
          compare(rows.row(e), rows.layout, stream, e * ratio + ratio - 1);
      });
    }
    return found;
  }

 private:
  void remember(int32_t token) {
    prefixes_.push_back(
        mix((prefixes_.empty() ? 0 : prefixes_.back()) ^ static_cast<uint64_t>(token)));
    tokens_.push_back(token);
  }
  // The first position whose row the ring must hold: of a tail, after resuming, the overlap alone.
  int64_t first_live(int64_t layer, const tensor::RowRing& ring, uint64_t stream) const {
    const int64_t first = std::max<int64_t>(0, ring_end_ - ring.capacity);
    if (stream % 5 == 0) return first;
    const int64_t overlap = ring.capacity - kSmallSlack - cache_.layout().layer(layer).ratio;
    return std::max(first, resumed_at_ - overlap);
  }
  template <typename Fn>
  static void for_rings(int64_t layer, const tensor::LayerRows& views, Fn&& fn) {
    uint64_t stream = static_cast<uint64_t>(layer) * 5;
    for (const tensor::RowRing& ring : {views.window, views.tail, views.index_tail}) {
      if (ring.base != nullptr) fn(ring, stream);
      ++stream;
    }
  }
  template <typename Fn>
  static void for_blocks(int64_t layer, const tensor::LayerRows& views, Fn&& fn) {
    uint64_t stream = static_cast<uint64_t>(layer) * 5 + 3;
    for (const tensor::RowBlocks& rows : {views.entries, views.index_keys}) {
      if (rows.rows_per_block != 0) fn(rows, stream);
      ++stream;
    }
  }
  template <typename Fn>
  void expected_row(int64_t p, uint64_t stream, const tensor::RowLayout& layout, Fn&& fn) const {
    std::byte row[64];
    ASSERT_LE(layout.row_bytes(), 64);
    uint64_t bits = mix(prefixes_[p] + stream);
    for (int64_t i = 0; i < layout.row_bytes(); ++i) {
      if (i % 8 == 0) bits = mix(bits);
      row[i] = static_cast<std::byte>(bits >> (i % 8 * 8));
    }
    fn(row, row + layout.data_bytes);
  }
  static void put(const tensor::RowRef& row, const tensor::RowLayout& layout, const std::byte* data,
                  const std::byte* scale) {
    std::memcpy(row.data, data, static_cast<size_t>(layout.data_bytes));
    std::memcpy(row.scale, scale, static_cast<size_t>(layout.scale_bytes));
  }

  SequenceCache cache_;
  std::vector<int32_t> tokens_;
  std::vector<uint64_t> prefixes_;
  int64_t ring_end_ = 0;
  int64_t resumed_at_ = 0;
};

class MemorySink : public Sink {
 public:
  Status write(std::span<const std::byte> more) override {
    bytes.insert(bytes.end(), more.begin(), more.end());
    return {};
  }
  std::vector<std::byte> bytes;
};

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes), rest_(bytes) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  Status read(std::span<std::byte> out) override {
    if (out.size() > rest_.size()) return data_loss("memory: expected more bytes, found the end");
    std::copy_n(rest_.begin(), out.size(), out.begin());
    rest_ = rest_.subspan(out.size());
    return {};
  }

 private:
  std::span<const std::byte> bytes_;
  std::span<const std::byte> rest_;
};

}  // namespace cachalot::cache::testing
