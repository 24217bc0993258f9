// One layer of a training step: forward, gradients, the indexer's loss.
#include <algorithm>
#include <memory>

#include "attention_cases.h"
#include "base/rng.h"
#include "ops/attention/attention_target.h"
#include "ops/attention/sparse_attention_backward.h"
#include "ops/compressor/compressor_backward.h"
#include "ops/indexer/index_loss.h"

namespace cachalot::bench {
namespace {

constexpr int64_t kRatio = 4;

struct Shape {
  int64_t heads;
  int64_t head_dim;
  int64_t window;
  int64_t topk;
  int64_t index_heads;
  int64_t index_dim;
};

std::vector<float> random_values(int64_t n) {
  RngStream rng(3, RngPurpose::data, 0);
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(rng.next_normal());
  return x;
}

// A segment of `tokens` positions with float rows; entries of all tokens, of which the last `topk`
// visible ones are selected or, topk 0, all are taken.
struct Segment {
  Segment(const Shape& s, int64_t tokens)
      : shape(s),
        tokens(tokens),
        q(random_values(tokens * s.heads * s.head_dim)),
        dout(random_values(tokens * s.heads * s.head_dim)),
        dq(q.size()),
        out(q.size()),
        rows(random_values(tokens * s.head_dim)),
        d_rows(rows.size()),
        entries(random_values(tokens / kRatio * s.head_dim)),
        d_entries(entries.size()),
        sink(s.heads),
        d_sink(s.heads) {
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t visible = (t + 1) / kRatio;
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
    stride = std::max<int64_t>(1, s.topk > 0 ? s.topk : tokens / kRatio);
    target.resize(tokens * stride);
  }

  ops::SparseAttentionParams forward() {
    ops::SparseAttentionParams p{};
    p.q = q.data();
    p.rows = tokens;
    p.heads = shape.heads;
    p.head_dim = shape.head_dim;
    p.scale = 0.1f;
    p.sink = sink.data();
    p.window = shape.window;
    p.recent.chunk = {&row_block, tokens, {shape.head_dim * 4, 0}};
    p.ratio = kRatio;
    p.entries = {&entry_block, tokens / kRatio, {shape.head_dim * 4, 0}};
    if (shape.topk > 0) {
      p.selected = selected.data();
      p.num_selected = num_selected.data();
      p.topk = shape.topk;
    }
    p.out = out.data();
    return p;
  }

  Shape shape;
  int64_t tokens;
  std::vector<float> q, dout, dq, out, rows, d_rows, entries, d_entries, sink, d_sink, target;
  std::vector<int32_t> selected, num_selected;
  std::byte* row_block = nullptr;
  std::byte* entry_block = nullptr;
  int64_t num_keys = 0;
  int64_t num_entries = 0;
  int64_t stride = 0;
};

void add_attention(const char* kind, const Shape& shape, int64_t tokens,
                   std::vector<AttentionCase>& cases) {
  auto segment = std::make_shared<Segment>(shape, tokens);
  const double products =
      2.0 * static_cast<double>(segment->num_keys * shape.heads * shape.head_dim);
  const std::string name = kind;
  cases.push_back(
      {name + " forward", tokens, tokens, false, 2 * products, 0,
       [=](device::ExecContext& ctx) { ops::sparse_attention(ctx, segment->forward()); }});
  cases.push_back(
      {name + " backward", tokens, tokens, false, 5 * products, 0, [=](device::ExecContext& ctx) {
         ops::sparse_attention_backward(
             ctx, {segment->forward(), segment->dout.data(), segment->dq.data(),
                   segment->d_rows.data(), segment->d_entries.data(), segment->d_sink.data()});
       }});
  cases.push_back(
      {name + " target", tokens, tokens, false, products, 0, [=](device::ExecContext& ctx) {
         ops::attention_target(ctx, segment->forward(), segment->stride, segment->target.data());
       }});
}

void add_index_loss(const char* kind, const Shape& shape, int64_t tokens,
                    std::vector<AttentionCase>& cases) {
  struct State {
    Segment segment;
    std::vector<float> q, weight, keys, dq, d_weight, d_keys;
    double loss = 0;
  };
  const int64_t width = shape.index_heads * shape.index_dim;
  auto state = std::make_shared<State>(State{
      Segment(shape, tokens), random_values(tokens * width),
      random_values(tokens * shape.index_heads), random_values(tokens / kRatio * shape.index_dim),
      std::vector<float>(tokens * width), std::vector<float>(tokens * shape.index_heads),
      std::vector<float>(tokens / kRatio * shape.index_dim)});
  std::fill(state->segment.target.begin(), state->segment.target.end(),
            1 / static_cast<float>(state->segment.stride));
  cases.push_back({kind, tokens, tokens, false,
                   6.0 * static_cast<double>(state->segment.num_entries * width), 0,
                   [=](device::ExecContext& ctx) {
                     Segment& s = state->segment;
                     auto* block = reinterpret_cast<std::byte*>(state->keys.data());
                     ops::IndexLossParams p{};
                     p.q = state->q.data();
                     p.weight = state->weight.data();
                     p.rows = tokens;
                     p.heads = shape.index_heads;
                     p.dim = shape.index_dim;
                     p.ratio = kRatio;
                     p.keys = {&block, tokens / kRatio, {shape.index_dim * 4, 0}};
                     p.format = tensor::IndexFormat::f32;
                     if (shape.topk > 0) {
                       p.selected = s.selected.data();
                       p.num_selected = s.num_selected.data();
                       p.topk = shape.topk;
                     }
                     p.target = s.target.data();
                     p.target_stride = s.stride;
                     p.loss = &state->loss;
                     p.d_loss = 1e-3f;
                     p.dq = state->dq.data();
                     p.d_weight = state->d_weight.data();
                     p.d_keys = state->d_keys.data();
                     ops::index_loss(ctx, p);
                   }});
}

// No products: K and S rows are read, their gradients read and written.
void add_compress(const char* kind, int64_t width, int64_t tokens,
                  std::vector<AttentionCase>& cases) {
  struct State {
    std::vector<float> rows, d_out, d_rows;
  };
  auto state = std::make_shared<State>(State{random_values(tokens * 4 * width),
                                             random_values(tokens / kRatio * width),
                                             std::vector<float>(tokens * 4 * width)});
  cases.push_back({kind, tokens, tokens, false, 0, 48.0 * static_cast<double>(tokens * width),
                   [=](device::ExecContext& ctx) {
                     auto* block = reinterpret_cast<std::byte*>(state->rows.data());
                     const tensor::RecentRows rows{{}, {&block, tokens, {4 * width * 4, 0}}, 0};
                     ops::compress_backward(
                         ctx, {{rows, kRatio, true, width, 0, tokens / kRatio, nullptr},
                               state->d_out.data(),
                               state->d_rows.data()});
                   }});
}

}  // namespace

std::vector<AttentionCase> make_training_cases() {
  std::vector<AttentionCase> cases;
  const Shape small = {8, 64, 64, 64, 16, 32};
  const Shape flash = {64, 512, 128, 512, 64, 128};
  add_attention("small csa", small, 1024, cases);
  add_index_loss("small index loss", small, 1024, cases);
  add_compress("small compress backward", small.head_dim, 1024, cases);
  add_attention("small dense", {8, 64, 64, 0, 16, 32}, 1024, cases);
  add_attention("flash csa", flash, 256, cases);
  add_index_loss("flash index loss", flash, 1024, cases);
  return cases;
}

}  // namespace cachalot::bench
