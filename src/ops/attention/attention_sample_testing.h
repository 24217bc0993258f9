// A made-up sample for the tests of attention's gradients and target, and the op in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "base/rng.h"
#include "ops/attention/sparse_attention_backward.h"
#include "ops/elementwise/kernel_test.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

using device::Isa;
using tensor::KvFormat;
using tensor::RowLayout;

struct Shape {
  int64_t heads;
  int64_t head_dim;
  int64_t rope_dim;
  int64_t window;
  int64_t ratio;
  int64_t topk;  // 0: no selection
  KvFormat format = KvFormat::f32;
};

// Small enough to take differences in every value.
constexpr Shape kWindowOnly = {2, 9, 2, 4, 0, 0};
constexpr Shape kSelected = {3, 10, 2, 3, 2, 3};
constexpr Shape kAllEntries = {2, 8, 2, 3, 4, 0};
constexpr Shape kFull = {2, 12, 4, 0, 1, 0};

// Encoded rows in one block, and what they hold.
struct Rows {
  std::vector<std::byte> bytes;
  std::byte* block = nullptr;
  tensor::RowBlocks view;
  std::vector<float> values;

  Rows(const Shape& s, int64_t n, RngStream& rng) {
    const RowLayout layout = tensor::kv_row_layout(s.format, s.head_dim, s.rope_dim);
    bytes.resize(n * layout.row_bytes());
    block = bytes.data();
    view = {&block, std::max<int64_t>(1, n), layout};
    values.resize(n * s.head_dim);
    for (float& x : values) x = static_cast<float>(rng.next_normal());
    for (int64_t i = 0; i < n; ++i) {
      float* row = values.data() + i * s.head_dim;
      encode_kv_row(s.format, row, s.head_dim, s.rope_dim, view.row(i));
      decode_kv_row(Isa::reference, s.format, view.row(i), s.head_dim, s.rope_dim, row);
    }
  }
  Rows(const Rows&) = delete;
};

struct Gradients {
  std::vector<float> q, recent, entries, sink;
};

class Sample {
 public:
  Sample(const Shape& shape, int64_t num_positions, uint64_t seed)
      : shape(shape),
        num_positions(num_positions),
        rng_(seed, RngPurpose::data, 2),
        window(shape, num_positions, rng_),
        entries(shape, num_entries(num_positions - 1), rng_),
        layer_rows{.entries = entries.view},
        first_row{0, num_positions} {
    const int64_t n = num_positions * shape.heads * shape.head_dim;
    q.resize(n);
    dout.resize(n);
    sink.resize(shape.heads);
    for (auto* values : {&q, &dout, &sink}) {
      for (float& x : *values) x = static_cast<float>(rng_.next_normal());
    }
    if (shape.topk > 0) {
      selected.assign(num_positions * shape.topk, -1);
      num_selected.resize(num_positions);
      for (int64_t t = 0; t < num_positions; ++t) select(t);
    }
  }

  int64_t num_entries(int64_t t) const { return shape.ratio > 0 ? (t + 1) / shape.ratio : 0; }

  // Token t's rows: (in window, row).
  std::vector<std::pair<bool, int64_t>> keys(int64_t t) const {
    std::vector<std::pair<bool, int64_t>> keys;
    if (shape.window > 0) {
      for (int64_t p = std::max<int64_t>(0, t - shape.window + 1); p <= t; ++p) {
        keys.emplace_back(true, p);
      }
    }
    const int64_t n = shape.topk > 0 ? num_selected[t] : num_entries(t);
    for (int64_t i = 0; i < n; ++i) {
      keys.emplace_back(false, shape.topk > 0 ? selected[t * shape.topk + i] : i);
    }
    return keys;
  }

  SparseAttentionParams forward() const {
    SparseAttentionParams p{};
    p.q = q.data();
    p.heads = shape.heads;
    p.head_dim = shape.head_dim;
    p.rope_dim = shape.rope_dim;
    p.sequences = {1, first_row, &first_position};
    p.layer_rows = &layer_rows;
    p.step_rows = window.view;
    p.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    p.sink = sink.data();
    p.window = shape.window;
    p.ratio = shape.ratio;
    if (shape.topk > 0) {
      p.selected = selected.data();
      p.num_selected = num_selected.data();
      p.topk = shape.topk;
    }
    p.format = shape.format;
    return p;
  }

  Gradients zeros() const {
    return {std::vector<float>(q.size()), std::vector<float>(window.values.size()),
            std::vector<float>(entries.values.size()), std::vector<float>(shape.heads)};
  }

  // Gradients added to g.
  void add(Isa isa, int num_threads, Gradients& g) const {
    ThreadPool pool(num_threads);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    sparse_attention_backward(ctx, {forward(), dout.data(), g.q.data(), g.recent.data(),
                                    g.entries.data(), g.sink.data()});
  }

  Gradients run(Isa isa, int num_threads) const {
    Gradients g = zeros();
    add(isa, num_threads, g);
    return g;
  }

  const Shape shape;
  const int64_t num_positions;

 private:
  // Ascending, every entry as likely as another.
  void select(int64_t t) {
    std::vector<int32_t> all(num_entries(t));
    std::iota(all.begin(), all.end(), 0);
    for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[rng_.next_u32() % i]);
    all.resize(std::min<size_t>(all.size(), shape.topk));
    std::sort(all.begin(), all.end());
    std::copy(all.begin(), all.end(), selected.begin() + t * shape.topk);
    num_selected[t] = static_cast<int32_t>(all.size());
  }

  RngStream rng_;

 public:
  Rows window;
  Rows entries;
  tensor::LayerRows layer_rows;
  int64_t first_row[2];
  int64_t first_position = 0;
  std::vector<float> q, dout, sink;
  std::vector<int32_t> selected, num_selected;
};

// The sample as two sequences of one call, an empty one between them.
class Twice {
 public:
  explicit Twice(const Sample& sample)
      : sample_(sample),
        layer_rows_(3, sample.layer_rows),
        q_(doubled(sample.q)),
        selected_(doubled(sample.selected)),
        num_selected_(doubled(sample.num_selected)),
        first_row_{0, sample.num_positions, sample.num_positions, 2 * sample.num_positions} {
    // One block of both: data parts, then scale parts.
    const RowLayout layout = sample.window.view.layout;
    const int64_t n = sample.num_positions;
    window_.resize(2 * n * layout.row_bytes());
    block_ = window_.data();
    view_ = {&block_, 2 * n, layout};
    for (int64_t i = 0; i < 2 * n; ++i) {
      const tensor::RowRef from = sample.window.view.row(i % n);
      std::copy_n(from.data, layout.data_bytes, view_.row(i).data);
      std::copy_n(from.scale, layout.scale_bytes, view_.row(i).scale);
    }
  }
  Twice(const Twice&) = delete;

  SparseAttentionParams forward() const {
    SparseAttentionParams p = sample_.forward();
    p.q = q_.data();
    p.sequences = {3, first_row_, first_position_};
    p.layer_rows = layer_rows_.data();
    p.step_rows = view_;
    if (sample_.shape.topk > 0) {
      p.selected = selected_.data();
      p.num_selected = num_selected_.data();
    }
    return p;
  }

  template <typename T>
  static std::vector<T> doubled(std::vector<T> values) {
    const std::vector<T> once = values;
    values.insert(values.end(), once.begin(), once.end());
    return values;
  }

 private:
  const Sample& sample_;
  std::vector<std::byte> window_;
  std::byte* block_ = nullptr;
  tensor::RowBlocks view_;
  std::vector<tensor::LayerRows> layer_rows_;
  std::vector<float> q_;
  std::vector<int32_t> selected_, num_selected_;
  int64_t first_row_[4];
  int64_t first_position_[3] = {0, 0, 0};
};

// The op in double, on values of its own that a test may move.
struct Evaluation {
  explicit Evaluation(const Sample& sample)
      : sample(sample),
        q(sample.q.begin(), sample.q.end()),
        recent(sample.window.values.begin(), sample.window.values.end()),
        entries(sample.entries.values.begin(), sample.entries.values.end()),
        sink(sample.sink.begin(), sample.sink.end()) {}

  const double* key(std::pair<bool, int64_t> at) const {
    return (at.first ? recent : entries).data() + at.second * sample.shape.head_dim;
  }

  template <typename T>
  static double magnitude(const T* a, const double* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::fabs(a[i] * b[i]);
    return sum;
  }

  static double dot(const double* a, const double* b, int64_t n) {
    return std::inner_product(a, a + n, b, 0.0);
  }

  // Probabilities of token t's keys for head h.
  std::vector<double> probabilities(int64_t t, int64_t h) const {
    const Shape& s = sample.shape;
    const auto keys = sample.keys(t);
    const double scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    std::vector<double> p;
    for (const auto& at : keys) {
      p.push_back(dot(q.data() + (t * s.heads + h) * s.head_dim, key(at), s.head_dim) * scale);
    }
    const double max = p.empty() ? 0 : *std::max_element(p.begin(), p.end());
    double z = std::exp(sink[h] - max);
    for (double& x : p) z += (x = std::exp(x - max));
    for (double& x : p) x /= z;
    return p;
  }

  // The sum of dout * out.
  double loss() const {
    const Shape& s = sample.shape;
    double sum = 0;
    for (int64_t t = 0; t < sample.num_positions; ++t) {
      const auto keys = sample.keys(t);
      for (int64_t h = 0; h < s.heads; ++h) {
        const std::vector<double> p = probabilities(t, h);
        const float* dout = sample.dout.data() + (t * s.heads + h) * s.head_dim;
        for (size_t i = 0; i < keys.size(); ++i) {
          sum += p[i] * std::inner_product(dout, dout + s.head_dim, key(keys[i]), 0.0);
        }
      }
    }
    return sum;
  }

  double difference(double& x) {
    constexpr double kStep = 1e-5;
    const double saved = x;
    x = saved + kStep;
    const double above = loss();
    x = saved - kStep;
    const double below = loss();
    x = saved;
    return (above - below) / (2 * kStep);
  }

  const Sample& sample;
  std::vector<double> q, recent, entries, sink;
};

}  // namespace
}  // namespace cachalot::ops
