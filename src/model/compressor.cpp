#include "model/compressor.h"

#include <algorithm>
#include <cstring>

#include "autograd/compressor_grad.h"
#include "autograd/elementwise_grad.h"
#include "autograd/norm_grad.h"
#include "base/faults.h"
#include "model/planted.h"
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
    if (fault(Fault::entry_rotated_at_index)) positions[i] = first_entry + i;
    if (fault(Fault::entry_rotated_at_last_token)) positions[i] += layer.ratio - 1;
  }
  const bool main_theta = fault(Fault::theta_main_in_compressed_layers);
  const auto& frequencies = main_theta ? step.plain_frequencies : step.compressed_frequencies;
  const ops::RopeTable table = ops::rope_table(step.exec, frequencies, positions, num_entries);
  bend_rope_table(table, num_entries * static_cast<int64_t>(frequencies.size()));
  return table;
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

void apply_rope(Step& step, const ops::RopeParams& p) {
  if (fault(Fault::rope_rotate_half)) {
    // Pairs (i, i + rope_dim / 2): interleave, rotate, and put back.
    const int64_t half = p.rope_dim / 2;
    std::vector<float> pairs(static_cast<size_t>(p.rope_dim));
    auto permute = [&](bool back) {
      for (int64_t row = 0; row < p.rows; ++row) {
        for (int64_t head = 0; head < p.heads; ++head) {
          float* tail = p.x + row * p.row_stride + (head + 1) * p.head_dim - p.rope_dim;
          for (int64_t i = 0; i < half; ++i) {
            for (int64_t part = 0; part < 2; ++part) {
              const int64_t split = part * half + i;
              const int64_t interleaved = 2 * i + part;
              pairs[back ? split : interleaved] = tail[back ? interleaved : split];
            }
          }
          std::memcpy(tail, pairs.data(), pairs.size() * sizeof(float));
        }
      }
    };
    permute(false);
    ops::rope(step.exec, p);
    permute(true);
    return;
  }
  autograd::rope(step.context(), p);
}

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
  const int64_t columns = ks.columns / 2;
  const bool overlap = columns == 2 * output.width;
  if (fault(Fault::overlap_halves_swapped) && overlap) {
    for (int64_t i = 0; i < step.rows * 2; ++i) {
      float* row = ks.data + i * columns;
      std::swap_ranges(row, row + output.width, row + output.width);
    }
  }

  int64_t row = 0;
  autograd::SegmentScope scope(step.tape);
  for (const Segment& segment : step.batch.segments) {
    scope.next();
    const LayerCacheView& view = segment.layers[layer_idx];
    const tensor::RowRing ring = is_index ? view.index_tail : view.tail;
    auto** blocks = step.exec.arena->allocate<std::byte*>(1);
    blocks[0] = reinterpret_cast<std::byte*>(ks.data + row * ks.stride);
    if (fault(Fault::compressor_crosses_samples) && row >= layer.ratio)
      blocks[0] -= layer.ratio * ks.stride * static_cast<int64_t>(sizeof(float));
    const tensor::RowBlocks chunk{blocks, segment.num_tokens, {2 * columns * 4, 0}};
    const tensor::RecentRows recent{ring, chunk, segment.first_position};
    if (fault(Fault::tail_lost_at_chunk_boundary) && ring.base != nullptr) {
      std::memset(ring.base, 0, static_cast<size_t>(ring.capacity * ring.layout.row_bytes()));
    }
    if (fault(Fault::overlap_half_lost_at_chunk_boundary) && ring.base != nullptr && overlap) {
      // Rows of entries already complete are forgotten; the unfinished entry's own rows stay.
      const int64_t kept = segment.first_position / layer.ratio * layer.ratio;
      for (int64_t p = std::max<int64_t>(0, segment.first_position - ring.capacity); p < kept;
           ++p) {
        std::memset(ring.row(p).data, 0, static_cast<size_t>(ring.layout.data_bytes));
      }
    }

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
      const Matrix entries = rms_norm(step, pooled, num_entries, weights.norm,
                                      static_cast<float>(config.rms_norm_eps));
      apply_rope(
          step,
          {entries.data, num_entries, entries.stride, 1, output.width, config.qk_rope_head_dim,
           entry_rope(step, layer, p.first_entry, num_entries), false, step.precision.bf16});
      if (is_index) {
        const ops::RowsParams rows{entries.data, num_entries, output.width, entries.stride};
        if (step.precision.rotate_index && !fault(Fault::hadamard_on_queries_only)) {
          autograd::hadamard(step.context(), rows, step.precision.bf16);
        }
        if (step.precision.index == tensor::IndexFormat::fp4)
          autograd::simulate_fp4(step.context(), rows);
        encode_index_rows(step, entries, num_entries, view.index_keys, p.first_entry);
      } else {
        snap_kv(step, entries, num_entries);
        encode_kv_rows(step, entries, num_entries, view.entries, p.first_entry);
      }
    }
    ops::store_recent_rows(recent, segment.num_tokens);
    row += segment.num_tokens;
  }
}

}  // namespace cachalot::model
