// Made-up samples of a training step: what attention and the indexer's loss read and what they add
// gradients to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "ops/attention/sparse_attention_backward.h"
#include "ops/indexer/index_loss.h"

namespace cachalot::bench {

struct SampleShape {
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

// `count` samples of `length` positions each, with float rows; entries of all positions, of which
// the last `topk` visible ones are selected or, topk 0, all are taken.
struct Samples {
  Samples(const SampleShape& s, int64_t length, int64_t count)
      : shape(s),
        length(length),
        count(count),
        num_entry_rows(s.ratio > 0 ? length / s.ratio : 0),
        q(random_values(count * length * s.heads * s.head_dim)),
        dout(random_values(q.size())),
        dq(q.size()),
        out(q.size()),
        rows(random_values(count * length * s.head_dim)),
        d_rows(rows.size()),
        entries(random_values(count * num_entry_rows * s.head_dim)),
        d_entries(entries.size()),
        sink(s.heads),
        d_sink(s.heads),
        first_position(count),
        layer_rows(count) {
    for (int64_t i = 0; i < count * length; ++i) {
      const int64_t t = i % length;
      const int64_t visible = s.ratio > 0 ? (t + 1) / s.ratio : 0;
      const int64_t n = s.topk > 0 ? std::min(s.topk, visible) : visible;
      num_entries += n;
      num_keys += n + std::min(t + 1, s.window);
      num_selected.push_back(static_cast<int32_t>(n));
      for (int64_t j = 0; j < s.topk; ++j) {
        selected.push_back(j < n ? static_cast<int32_t>(visible - n + j) : -1);
      }
    }
    for (int64_t i = 0; i <= count; ++i) first_row.push_back(i * length);
    for (int64_t i = 0; i < count; ++i) {
      row_blocks.push_back(bytes_at(rows, i * length * s.head_dim));
      entry_blocks.push_back(bytes_at(entries, i * num_entry_rows * s.head_dim));
    }
    for (int64_t i = 0; i < count; ++i) {
      layer_rows[i].entries = {
          &entry_blocks[i], std::max<int64_t>(1, num_entry_rows), {s.head_dim * 4, 0}};
    }
    stride = std::max<int64_t>(1, s.topk > 0 ? s.topk : num_entry_rows);
    target.resize(count * length * stride);
  }
  Samples(const Samples&) = delete;

  static std::byte* bytes_at(std::vector<float>& values, int64_t idx) {
    return reinterpret_cast<std::byte*>(values.data() + idx);
  }

  // Any `num` samples: all are equally long.
  tensor::Sequences sequences(int64_t num) const {
    return {num, first_row.data(), first_position.data()};
  }
  ops::SparseAttentionParams forward() { return forward(0, count); }
  // Of samples [first, first + num).
  ops::SparseAttentionParams forward(int64_t first, int64_t num) {
    const int64_t row = first * length;
    ops::SparseAttentionParams p{};
    p.q = q.data() + row * shape.heads * shape.head_dim;
    p.heads = shape.heads;
    p.head_dim = shape.head_dim;
    p.sequences = sequences(num);
    p.layer_rows = layer_rows.data() + first;
    p.step_rows = {row_blocks.data() + first, length, {shape.head_dim * 4, 0}};
    p.scale = 0.1f;
    p.sink = sink.data();
    p.window = shape.window;
    p.ratio = shape.ratio;
    if (shape.topk > 0) {
      p.selected = selected.data() + row * shape.topk;
      p.num_selected = num_selected.data() + row;
      p.topk = shape.topk;
    }
    p.out = out.data() + row * shape.heads * shape.head_dim;
    return p;
  }
  // d_sink: where the sinks' gradients are added.
  ops::SparseAttentionBackwardParams backward(int64_t first, int64_t num, float* d_sink) {
    const int64_t at = first * length * shape.heads * shape.head_dim;
    return {forward(first, num),
            dout.data() + at,
            dq.data() + at,
            d_rows.data() + first * length * shape.head_dim,
            d_entries.data() + first * num_entry_rows * shape.head_dim,
            d_sink};
  }

  SampleShape shape;
  int64_t length;
  int64_t count;
  int64_t num_entry_rows;  // of a sample
  std::vector<float> q, dout, dq, out, rows, d_rows, entries, d_entries, sink, d_sink, target;
  std::vector<int32_t> selected, num_selected;
  std::vector<int64_t> first_row, first_position;
  std::vector<std::byte*> row_blocks, entry_blocks;
  std::vector<tensor::LayerRows> layer_rows;
  int64_t num_keys = 0;     // that tokens attend to, all together
  int64_t num_entries = 0;  // of them entries
  int64_t stride = 0;       // of target
};

// The indexer's side of samples.
struct IndexSamples {
  IndexSamples(const SampleShape& shape, int64_t length, int64_t count)
      : samples(shape, length, count),
        q(random_values(count * length * shape.index_heads * shape.index_dim)),
        weight(random_values(count * length * shape.index_heads)),
        keys(random_values(count * samples.num_entry_rows * shape.index_dim)),
        dq(q.size()),
        d_weight(weight.size()),
        d_keys(keys.size()) {
    for (int64_t i = 0; i < count; ++i) {
      key_blocks.push_back(Samples::bytes_at(keys, i * samples.num_entry_rows * shape.index_dim));
    }
    for (int64_t i = 0; i < count; ++i) {
      samples.layer_rows[i].index_keys = {
          &key_blocks[i], samples.num_entry_rows, {shape.index_dim * 4, 0}};
    }
    std::fill(samples.target.begin(), samples.target.end(), 1 / static_cast<float>(samples.stride));
  }

  // Of samples [first, first + num); the loss is added to *total.
  ops::IndexLossParams loss(int64_t first, int64_t num, double* total) {
    const SampleShape& shape = samples.shape;
    const int64_t row = first * samples.length;
    ops::IndexLossParams p{};
    p.q = q.data() + row * shape.index_heads * shape.index_dim;
    p.weight = weight.data() + row * shape.index_heads;
    p.heads = shape.index_heads;
    p.dim = shape.index_dim;
    p.sequences = samples.sequences(num);
    p.layer_rows = samples.layer_rows.data() + first;
    p.ratio = shape.ratio;
    p.format = tensor::IndexFormat::f32;
    if (shape.topk > 0) {
      p.selected = samples.selected.data() + row * shape.topk;
      p.num_selected = samples.num_selected.data() + row;
      p.topk = shape.topk;
    }
    p.target = samples.target.data() + row * samples.stride;
    p.target_stride = samples.stride;
    p.loss = total;
    p.d_loss = 1e-3f;
    p.dq = dq.data() + row * shape.index_heads * shape.index_dim;
    p.d_weight = d_weight.data() + row * shape.index_heads;
    p.d_keys = d_keys.data() + first * samples.num_entry_rows * shape.index_dim;
    return p;
  }

  Samples samples;
  std::vector<float> q, weight, keys, dq, d_weight, d_keys;
  std::vector<std::byte*> key_blocks;
};

}  // namespace cachalot::bench
