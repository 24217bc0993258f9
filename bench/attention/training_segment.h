// A made-up segment of a training step: what attention and the indexer's loss read and what they
// add gradients to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "ops/attention/sparse_attention_backward.h"
#include "ops/indexer/index_loss.h"

namespace cachalot::bench {

struct SegmentShape {
  int64_t heads;
  int64_t head_dim;
  int64_t window;
  int64_t topk;
  int64_t index_heads;
  int64_t index_dim;
  int64_t ratio = 4;  // 0: no entries
};

inline std::vector<float> random_values(int64_t n) {
  RngStream rng(3, RngPurpose::data, 0);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(rng.next_normal());
  return x;
}

// `tokens` positions with float rows; entries of all tokens, of which the last `topk` visible ones
// are selected or, topk 0, all are taken.
struct Segment {
  Segment(const SegmentShape& s, int64_t tokens)
      : shape(s),
        tokens(tokens),
        entry_count(s.ratio > 0 ? tokens / s.ratio : 0),
        q(random_values(tokens * s.heads * s.head_dim)),
        dout(random_values(tokens * s.heads * s.head_dim)),
        dq(q.size()),
        out(q.size()),
        rows(random_values(tokens * s.head_dim)),
        d_rows(rows.size()),
        entries(random_values(entry_count * s.head_dim)),
        d_entries(entries.size()),
        sink(s.heads),
        d_sink(s.heads) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t visible = s.ratio > 0 ? (t + 1) / s.ratio : 0;
      const int64_t n = s.topk > 0 ? std::min(s.topk, visible) : visible;
      num_entries += n;
      num_keys += n + std::min(t + 1, s.window);
      num_selected.push_back(static_cast<int32_t>(n));
      for (int64_t i = 0; i < s.topk; ++i) {
        selected.push_back(i < n ? static_cast<int32_t>(visible - n + i) : -1);
      }
    }
    row_block = reinterpret_cast<std::byte*>(rows.data());
    entry_block = reinterpret_cast<std::byte*>(entries.data());
    stride = std::max<int64_t>(1, s.topk > 0 ? s.topk : entry_count);
    target.resize(tokens * stride);
  }
  Segment(const Segment&) = delete;

  ops::SparseAttentionParams forward() { return forward(0, tokens); }
  ops::SparseAttentionParams forward(int64_t first, int64_t num_rows) {
    const int64_t at = first * shape.heads * shape.head_dim;
    ops::SparseAttentionParams p{};
    p.q = q.data() + at;
    p.rows = num_rows;
    p.heads = shape.heads;
    p.head_dim = shape.head_dim;
    p.first_position = first;
    p.scale = 0.1f;
    p.sink = sink.data();
    p.window = shape.window;
    p.recent.chunk = {&row_block, tokens, {shape.head_dim * 4, 0}};
    p.ratio = shape.ratio;
    p.entries = {&entry_block, std::max<int64_t>(1, entry_count), {shape.head_dim * 4, 0}};
    if (shape.topk > 0) {
      p.selected = selected.data() + first * shape.topk;
      p.num_selected = num_selected.data() + first;
      p.topk = shape.topk;
    }
    p.out = out.data() + at;
    return p;
  }

  SegmentShape shape;
  int64_t tokens;
  int64_t entry_count;  // rows of `entries`
  std::vector<float> q, dout, dq, out, rows, d_rows, entries, d_entries, sink, d_sink, target;
  std::vector<int32_t> selected, num_selected;
  std::byte* row_block = nullptr;
  std::byte* entry_block = nullptr;
  int64_t num_keys = 0;     // that tokens attend to, all together
  int64_t num_entries = 0;  // of them entries
  int64_t stride = 0;       // of target
};

// The indexer's side of a segment.
struct IndexSegment {
  IndexSegment(const SegmentShape& shape, int64_t tokens)
      : segment(shape, tokens),
        q(random_values(tokens * shape.index_heads * shape.index_dim)),
        weight(random_values(tokens * shape.index_heads)),
        keys(random_values(segment.entry_count * shape.index_dim)),
        dq(q.size()),
        d_weight(weight.size()),
        d_keys(keys.size()) {
    key_block = reinterpret_cast<std::byte*>(keys.data());
    std::fill(segment.target.begin(), segment.target.end(), 1 / static_cast<float>(segment.stride));
  }

  ops::IndexLossParams loss(int64_t first, int64_t num_rows) {
    const SegmentShape& shape = segment.shape;
    ops::IndexLossParams p{};
    p.q = q.data() + first * shape.index_heads * shape.index_dim;
    p.weight = weight.data() + first * shape.index_heads;
    p.rows = num_rows;
    p.heads = shape.index_heads;
    p.dim = shape.index_dim;
    p.first_position = first;
    p.ratio = shape.ratio;
    p.keys = {&key_block, segment.entry_count, {shape.index_dim * 4, 0}};
    p.format = tensor::IndexFormat::f32;
    if (shape.topk > 0) {
      p.selected = segment.selected.data() + first * shape.topk;
      p.num_selected = segment.num_selected.data() + first;
      p.topk = shape.topk;
    }
    p.target = segment.target.data() + first * segment.stride;
    p.target_stride = segment.stride;
    p.loss = &total;
    p.d_loss = 1e-3f;
    p.dq = dq.data() + first * shape.index_heads * shape.index_dim;
    p.d_weight = d_weight.data() + first * shape.index_heads;
    p.d_keys = d_keys.data();
    return p;
  }

  Segment segment;
  std::vector<float> q, weight, keys, dq, d_weight, d_keys;
  std::byte* key_block = nullptr;
  double total = 0;
};

}  // namespace cachalot::bench
