#include "model/compressor.h"

#include "autograd/attention_grad.h"
#include "autograd/compressor_grad.h"
#include "autograd/elementwise_grad.h"
#include "autograd/norm_grad.h"
#include "ops/compressor/compressor.h"
#include "ops/quant/act_quant.h"

namespace cachalot::model {
namespace {

// Rotary positions of the entries: the first token of each entry's own window.
ops::RopeTable entry_rope(Step& step, const formats::LayerConfig& layer, int64_t num_entries) {
  auto* positions = step.exec.arena->allocate<int64_t>(num_entries);
  ops::entry_positions(step.exec, step.batch.sequences, layer.ratio, positions);
  return ops::rope_table(step.exec, step.compressed_frequencies, positions, num_entries);
}

}  // namespace

void snap_kv(Step& step, Matrix kv, int64_t rows) {
  if (step.precision.kv != tensor::KvFormat::fp8) return;
  autograd::simulate_fp8(step.context(),
                         {kv.data, rows, kv.columns - step.config.qk_rope_head_dim, kv.stride}, 64);
}

void encode_kv_entries(Step& step, int64_t layer_idx, int64_t ratio, Matrix kv) {
  autograd::encode_kv_entries(step.context(),
                              {kv.data, kv.columns, kv.stride, step.config.qk_rope_head_dim,
                               step.batch.sequences, step.batch.layer_rows[layer_idx], ratio},
                              step.precision.kv);
}

Matrix new_compressor_rows(Step& step, const CompressorWeights& weights) {
  return new_matrix(step, step.rows, 2 * weights.wkv.rows());
}

void add_compressor_products(const CompressorWeights& weights, Matrix x, Matrix ks,
                             LinearParts& parts) {
  const int64_t columns = weights.wkv.rows();
  parts.add({x, &weights.wkv, {ks.data, columns, ks.stride}, true});
  parts.add({x, &weights.wgate, {ks.data + columns, columns, ks.stride}, true});
}

ops::EntryRowsParams compressor_rows(Step& step, int64_t layer_idx,
                                     const formats::LayerConfig& layer,
                                     const CompressorWeights& weights,
                                     const CompressorOutput& output, Matrix ks) {
  const bool is_index = output.kind == CompressorOutput::Kind::index;
  const Precision& precision = step.precision;
  ops::EntryRowsParams p{};
  p.rows = ks.data;
  p.step_rows = step.one_block(reinterpret_cast<std::byte*>(ks.data), {ks.columns * 4, 0});
  p.sequences = step.batch.sequences;
  p.layer_rows = step.batch.layer_rows[layer_idx];
  p.tail = is_index ? tensor::Recent::index_tail : tensor::Recent::tail;
  p.ratio = layer.ratio;
  p.width = output.width;
  p.overlap = ks.columns == 4 * output.width;
  p.ape = weights.ape.data();
  p.g = weights.norm.data();
  p.eps = static_cast<float>(step.config.rms_norm_eps);
  p.rope_dim = step.config.qk_rope_head_dim;
  p.frequencies = &step.compressed_frequencies;
  p.round = precision.bf16;
  p.hadamard = is_index && precision.rotate_index;
  if (!is_index && precision.kv == tensor::KvFormat::fp8) p.snap = ops::HeadSnap::fp8;
  if (is_index && precision.index == tensor::IndexFormat::fp4) p.snap = ops::HeadSnap::fp4;
  p.kv = precision.kv;
  p.index = precision.index;
  p.has_entries = step.batch.has_entries;
  return p;
}

void run_compressor(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                    const CompressorWeights& weights, const CompressorOutput& output, Matrix ks) {
  const auto& config = step.config;
  const bool is_index = output.kind == CompressorOutput::Kind::index;
  const tensor::Sequences& sequences = step.batch.sequences;
  const tensor::LayerRows* layer_rows = step.batch.layer_rows[layer_idx];
  const tensor::Recent tail = is_index ? tensor::Recent::index_tail : tensor::Recent::tail;
  const int64_t columns = ks.columns / 2;
  autograd::add_positional_bias(
      step.context(), {ks.data, step.batch.sequences, layer.ratio, columns, weights.ape.data()});
  show(step, "compress.kv", ks, step.rows);
  const bool overlap = columns == 2 * output.width;
  const tensor::RowBlocks ks_rows =
      step.one_block(reinterpret_cast<std::byte*>(ks.data), {2 * columns * 4, 0});

  if (step.batch.has_entries) {
    ops::store_recent_rows(step.exec, {sequences, layer_rows, tail, ks_rows});
    return;
  }

  if (const int64_t num_entries = sequences.num_entries(layer.ratio); num_entries > 0) {
    const Matrix pooled = new_matrix(step, num_entries, output.width);
    autograd::compress(step.context(), {sequences, layer_rows, tail, ks_rows, layer.ratio, overlap,
                                        output.width, pooled.data});
    if (step.precision.bf16)
      autograd::round_bf16(step.context(),
                           {pooled.data, num_entries, pooled.columns, pooled.stride});
    show(step, "compress.pooled", pooled, num_entries);
    const Matrix entries =
        rms_norm(step, pooled, num_entries, weights.norm, static_cast<float>(config.rms_norm_eps));
    show(step, "compress.norm", entries, num_entries);
    autograd::rope(step.context(), {entries.data, num_entries, entries.stride, 1, output.width,
                                    config.qk_rope_head_dim, entry_rope(step, layer, num_entries),
                                    false, step.precision.bf16});
    show(step, "compress.rope", entries, num_entries);
    if (is_index) {
      const ops::RowsParams rows{entries.data, num_entries, output.width, entries.stride};
      if (step.precision.rotate_index) {
        autograd::hadamard(step.context(), rows, step.precision.bf16);
      }
      show(step, "compress.hadamard", entries, num_entries);
      if (step.precision.index == tensor::IndexFormat::fp4)
        autograd::simulate_fp4(step.context(), rows);
      autograd::encode_index_entries(
          step.context(),
          {entries.data, output.width, entries.stride, 0, sequences, layer_rows, layer.ratio},
          step.precision.index);
    } else {
      snap_kv(step, entries, num_entries);
      encode_kv_entries(step, layer_idx, layer.ratio, entries);
    }
    show(step, "compress.row", entries, num_entries);
  }
  ops::store_recent_rows(step.exec, {sequences, layer_rows, tail, ks_rows});
}

}  // namespace cachalot::model
