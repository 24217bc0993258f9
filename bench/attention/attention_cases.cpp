#include "attention_cases.h"

#include <algorithm>
#include <memory>

#include "base/rng.h"
#include "numeric/formats.h"
#include "ops/attention/sparse_attention.h"
#include "ops/indexer/index_select.h"
#include "ops/quant/row_codec.h"

namespace cachalot::bench {
namespace {

using tensor::IndexFormat;
using tensor::KvFormat;
using tensor::RowBlocks;
using tensor::RowLayout;

constexpr int64_t kRowsPerBlock = 64;

// Pages of random rows; a few hundred different rows repeat.
struct Cache {
  std::vector<std::byte> bytes;
  std::vector<std::byte*> blocks;
  RowBlocks view;

  template <typename Encode>
  Cache(int64_t num_rows, RowLayout layout, int64_t width, Encode encode) {
    const int64_t num_blocks = num_rows / kRowsPerBlock + 1;
    const int64_t block_bytes = kRowsPerBlock * layout.row_bytes();
    bytes.resize(num_blocks * block_bytes);
    for (int64_t i = 0; i < num_blocks; ++i) blocks.push_back(bytes.data() + i * block_bytes);
    view = {blocks.data(), kRowsPerBlock, layout};
    RngStream rng(1, RngPurpose::data, 0);
    std::vector<float> x(width);
    const int64_t num_different = std::min(num_blocks, int64_t{4});
    for (int64_t i = 0; i < num_different * kRowsPerBlock; ++i) {
      for (float& value : x) value = numeric::round_to_bf16(static_cast<float>(rng.next_normal()));
      encode(x.data(), view.row(i));
    }
    for (int64_t i = num_different; i < num_blocks; ++i) {
      std::copy_n(blocks[i % num_different], block_bytes, blocks[i]);
    }
  }
};

std::vector<float> random_values(int64_t n) {
  RngStream rng(2, RngPurpose::data, 0);
  std::vector<float> x(n);
  for (float& value : x) value = numeric::round_to_bf16(static_cast<float>(rng.next_normal()));
  return x;
}

// The last `rows` positions of a context as the one sequence of a step.
struct Step {
  int64_t first_row[2];
  int64_t first_position;
  tensor::LayerRows layer_rows;

  tensor::Sequences sequences() const { return {1, first_row, &first_position}; }
};

struct AttentionState {
  std::vector<std::byte> window;  // ring of the rows before the step
  Cache step_rows, entries;
  std::vector<float> q, sink, out;
  std::vector<int32_t> selected, num_selected;
  Step step = {};
};

// topk 0: all entries of the ratio (HCA).
AttentionCase attention_case(int64_t context, int64_t rows, int64_t ratio, int64_t topk,
                             bool bf16) {
  constexpr int64_t kHeads = 64, kDim = 512, kRope = 64, kWindow = 128;
  const KvFormat format = bf16 ? KvFormat::fp8 : KvFormat::f32;
  const RowLayout layout = tensor::kv_row_layout(format, kDim, kRope);
  const auto encode = [=](const float* x, tensor::RowRef row) {
    ops::encode_kv_row(format, x, kDim, kRope, row);
  };
  const int64_t first = context - rows;
  auto state = std::make_shared<AttentionState>(
      AttentionState{std::vector<std::byte>(kWindow * layout.row_bytes()),
                     Cache(rows, layout, kDim, encode),
                     Cache(context / ratio, layout, kDim, encode),
                     random_values(rows * kHeads * kDim),
                     std::vector<float>(kHeads),
                     std::vector<float>(rows * kHeads * kDim),
                     {},
                     {}});
  const tensor::RowRing ring{state->window.data(), kWindow, layout};
  for (int64_t i = 0; i < kWindow; ++i) {
    const tensor::RowRef from = state->entries.view.row(i % kRowsPerBlock);
    std::copy_n(from.data, layout.data_bytes, ring.row(i).data);
    std::copy_n(from.scale, layout.scale_bytes, ring.row(i).scale);
  }
  state->step = {{0, rows}, first, {.window = ring, .entries = state->entries.view}};
  double num_keys = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t visible = (first + i + 1) / ratio;
    const int64_t count = topk > 0 ? std::min(topk, visible) : visible;
    num_keys += static_cast<double>(kWindow + count);
    for (int64_t j = 0; topk > 0 && j < topk; ++j) {
      state->selected.push_back(j < count ? static_cast<int32_t>(j * visible / count) : -1);
    }
    state->num_selected.push_back(static_cast<int32_t>(count));
  }
  AttentionCase c;
  c.name = topk > 0 ? "csa attention" : "hca attention";
  c.context = context;
  c.rows = rows;
  c.bf16_math = bf16;
  c.flops = num_keys * kHeads * kDim * 4;
  c.bytes = num_keys * static_cast<double>(layout.row_bytes());
  c.run = [=](device::ExecContext& ctx) {
    ops::SparseAttentionParams p{};
    p.q = state->q.data();
    p.heads = kHeads;
    p.head_dim = kDim;
    p.rope_dim = kRope;
    p.sequences = state->step.sequences();
    p.layer_rows = &state->step.layer_rows;
    p.step_rows = state->step_rows.view;
    p.scale = 0.04419417382415922f;
    p.sink = state->sink.data();
    p.window = kWindow;
    p.ratio = ratio;
    p.selected = topk > 0 ? state->selected.data() : nullptr;
    p.num_selected = topk > 0 ? state->num_selected.data() : nullptr;
    p.topk = topk;
    p.format = format;
    p.bf16_math = bf16;
    p.out = state->out.data();
    ops::sparse_attention(ctx, p);
  };
  return c;
}

struct IndexState {
  Cache keys;
  std::vector<float> q, weight;
  std::vector<int32_t> selected, num_selected;
  Step step = {};
};

AttentionCase index_case(const char* name, int64_t context, int64_t rows, int64_t heads,
                         int64_t dim, int64_t topk, IndexFormat format, bool bf16) {
  constexpr int64_t kRatio = 4;
  const RowLayout layout = tensor::index_row_layout(format, dim);
  const auto encode = [=](const float* x, tensor::RowRef row) {
    ops::encode_index_row(format, x, dim, row);
  };
  auto state = std::make_shared<IndexState>(IndexState{
      Cache(context / kRatio, layout, dim, encode), random_values(rows * heads * dim),
      random_values(rows * heads), std::vector<int32_t>(rows * topk), std::vector<int32_t>(rows)});
  state->step = {{0, rows}, context - rows, {.index_keys = state->keys.view}};
  const double num_keys = static_cast<double>(rows) * static_cast<double>(context / kRatio);
  AttentionCase c;
  c.name = name;
  c.context = context;
  c.rows = rows;
  c.bf16_math = bf16;
  c.flops = num_keys * static_cast<double>(heads * dim) * 2;
  c.bytes = num_keys * static_cast<double>(layout.row_bytes());
  c.run = [=](device::ExecContext& ctx) {
    ops::index_select(ctx, {.q = state->q.data(),
                            .weight = state->weight.data(),
                            .heads = heads,
                            .dim = dim,
                            .sequences = state->step.sequences(),
                            .layer_rows = &state->step.layer_rows,
                            .ratio = kRatio,
                            .topk = topk,
                            .format = format,
                            .bf16_math = bf16,
                            .round_scores = bf16,
                            .selected = state->selected.data(),
                            .num_selected = state->num_selected.data()});
  };
  return c;
}

}  // namespace

std::vector<AttentionCase> make_attention_cases(const std::vector<int64_t>& contexts) {
  std::vector<AttentionCase> cases;
  for (bool bf16 : {false, true}) {
    const IndexFormat index_format = bf16 ? IndexFormat::fp4 : IndexFormat::f32;
    for (int64_t context : contexts) {
      cases.push_back(attention_case(context, 1, 128, 0, bf16));
      if (context == contexts.back()) {
        cases.push_back(attention_case(context, 1, 4, 512, bf16));
        cases.push_back(attention_case(context, 64, 4, 512, bf16));
        cases.push_back(attention_case(context, 64, 128, 0, bf16));
      }
    }
    for (int64_t context : contexts)
      cases.push_back(index_case("index", context, 1, 64, 128, 512, index_format, bf16));
    cases.push_back(index_case("index", contexts.front(), 64, 64, 128, 512, index_format, bf16));
    cases.push_back(index_case("index 2x64", contexts.back(), 1, 2, 64, 64, index_format, bf16));
    cases.push_back(index_case("index 4x32", contexts.back(), 256, 4, 32, 64, index_format, bf16));
  }
  return cases;
}

}  // namespace cachalot::bench
