#include "model/compressor.h"

#include "autograd/compressor_grad.h"
#include "autograd/elementwise_grad.h"
#include "autograd/norm_grad.h"
#include "ops/compressor/compressor.h"
#include "ops/quant/act_quant.h"
#include "ops/quant/row_codec.h"

namespace cachalot::model {
namespace {

// K and S of every row of the batch side by side, [rows, 2 * z * width]; S with the positional bias
// of its position.
Matrix project(Step& step, const formats::LayerConfig& layer, const CompressorWeights& weights,
               Matrix x) {
  const int64_t columns = weights.wkv.rows();
  const Matrix ks = new_matrix(step, step.rows, 2 * columns);
  linear_f32(step, x, step.rows, weights.wkv, {ks.data, columns, ks.stride});
  linear_f32(step, x, step.rows, weights.wgate, {ks.data + columns, columns, ks.stride});
  int64_t row = 0;
  autograd::SegmentScope scope(step.tape);
  for (const Segment& segment : step.batch.segments) {
    scope.next();
    autograd::add_positional_bias(
        step.context(), {ks.data + row * ks.stride, segment.num_tokens, segment.first_position,
                         layer.ratio, columns, weights.ape.data()});
    row += segment.num_tokens;
  }
  return ks;
}

// Rotary positions of the entries: the first token of each entry's own window.
ops::RopeTable entry_rope(Step& step, const formats::LayerConfig& layer, int64_t first_entry,
                          int64_t num_entries) {
  auto* positions = step.exec.arena->allocate<int64_t>(num_entries);
  for (int64_t i = 0; i < num_entries; ++i) {
    positions[i] = (first_entry + i) * layer.ratio;
  }
  return ops::rope_table(step.exec, step.compressed_frequencies, positions, num_entries);
}

void encode_index_rows(Step& step, Matrix keys, int64_t rows, const tensor::RowBlocks& blocks,
                       int64_t first_row) {
  if (step.tape != nullptr && rows > 0)
    step.tape->add_encoded(blocks.row(first_row).data, keys.data);
  for (int64_t i = 0; i < rows; ++i) {
    ops::encode_index_row(step.precision.index, keys.data + i * keys.stride, keys.columns,
                          blocks.row(first_row + i));
  }
}

}  // namespace

void snap_kv(Step& step, Matrix kv, int64_t rows) {
  if (step.precision.kv != tensor::KvFormat::fp8) return;
  autograd::simulate_fp8(step.context(),
                         {kv.data, rows, kv.columns - step.config.qk_rope_head_dim, kv.stride}, 64);
}

void encode_kv_rows(Step& step, Matrix kv, int64_t rows, const tensor::RowBlocks& blocks,
                    int64_t first_row) {
  if (step.tape != nullptr && rows > 0) step.tape->add_encoded(blocks.row(first_row).data, kv.data);
  for (int64_t i = 0; i < rows; ++i) {
    ops::encode_kv_row(step.precision.kv, kv.data + i * kv.stride, step.config.head_dim,
                       step.config.qk_rope_head_dim, blocks.row(first_row + i));
  }
}

void store_full_rows(Step& step, int64_t layer_idx, Matrix kv) {
  int64_t row = 0;
  for (const Segment& segment : step.batch.segments) {
    encode_kv_rows(step, {kv.data + row * kv.stride, kv.columns, kv.stride}, segment.num_tokens,
                   segment.layers[layer_idx].entries, segment.first_position);
    row += segment.num_tokens;
  }
}

void run_compressor(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                    const CompressorWeights& weights, const CompressorOutput& output, Matrix x) {
  const auto& config = step.config;
  const bool is_index = output.kind == CompressorOutput::Kind::index;
  const Matrix ks = project(step, layer, weights, x);
  show(step, "compress.kv", ks, step.rows);
  const int64_t columns = ks.columns / 2;
  const bool overlap = columns == 2 * output.width;

  int64_t row = 0;
  autograd::SegmentScope scope(step.tape);
  for (const Segment& segment : step.batch.segments) {
    scope.next();
    const LayerCacheView& view = segment.layers[layer_idx];
    const tensor::RowRing ring = is_index ? view.index_tail : view.tail;
    auto** blocks = step.exec.arena->allocate<std::byte*>(1);
    blocks[0] = reinterpret_cast<std::byte*>(ks.data + row * ks.stride);
    const tensor::RowBlocks chunk{blocks, segment.num_tokens, {2 * columns * 4, 0}};
    const tensor::RecentRows recent{ring, chunk, segment.first_position};

    ops::CompressParams p{};
    p.rows = recent;
    p.ratio = layer.ratio;
    p.overlap = overlap;
    p.width = output.width;
    p.first_entry = segment.first_position / layer.ratio;
    p.last_entry = (segment.first_position + segment.num_tokens) / layer.ratio;
    if (const int64_t num_entries = p.last_entry - p.first_entry; num_entries > 0) {
      const Matrix pooled = new_matrix(step, num_entries, output.width);
      p.out = pooled.data;
      autograd::compress(step.context(), p);
      if (step.precision.bf16)
        autograd::round_bf16(step.context(),
                             {pooled.data, num_entries, pooled.columns, pooled.stride});
      show(step, "compress.pooled", pooled, num_entries);
      const Matrix entries = rms_norm(step, pooled, num_entries, weights.norm,
                                      static_cast<float>(config.rms_norm_eps));
      show(step, "compress.norm", entries, num_entries);
      autograd::rope(
          step.context(),
          {entries.data, num_entries, entries.stride, 1, output.width, config.qk_rope_head_dim,
           entry_rope(step, layer, p.first_entry, num_entries), false, step.precision.bf16});
      show(step, "compress.rope", entries, num_entries);
      if (is_index) {
        const ops::RowsParams rows{entries.data, num_entries, output.width, entries.stride};
        if (step.precision.rotate_index) {
          autograd::hadamard(step.context(), rows, step.precision.bf16);
        }
        show(step, "compress.hadamard", entries, num_entries);
        if (step.precision.index == tensor::IndexFormat::fp4)
          autograd::simulate_fp4(step.context(), rows);
        encode_index_rows(step, entries, num_entries, view.index_keys, p.first_entry);
      } else {
        snap_kv(step, entries, num_entries);
        encode_kv_rows(step, entries, num_entries, view.entries, p.first_entry);
      }
      show(step, "compress.row", entries, num_entries);
    }
    ops::store_recent_rows(recent, segment.num_tokens);
    row += segment.num_tokens;
  }
}

}  // namespace cachalot::model
