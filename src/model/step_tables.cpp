#include "model/step_tables.h"

#include <algorithm>

#include "ops/sampling/sampling.h"

namespace cachalot::model {
namespace {

template <typename T>
T* placed(device::Gpu& gpu, const T* values, int64_t count) {
  if (values == nullptr) return nullptr;
  T* copy = gpu.table<T>(count);
  std::copy_n(values, count, copy);
  return copy;
}

// The rows before `end`, their list of blocks by its twin: kernels read it.
tensor::RowBlocks placed(device::Gpu& gpu, const tensor::RowBlocks& rows, int64_t end) {
  if (rows.blocks == nullptr || rows.rows_per_block == 0) return rows;
  const int64_t num_blocks = (end + rows.rows_per_block - 1) / rows.rows_per_block;
  return {gpu.address_on_device(placed(gpu, rows.blocks, num_blocks)), rows.rows_per_block,
          rows.layout};
}

}  // namespace

std::span<const int64_t> place_list(device::ExecContext& ctx, std::span<const int64_t> values) {
  if (ctx.gpu == nullptr) return values;
  return {placed(*ctx.gpu, values.data(), static_cast<int64_t>(values.size())), values.size()};
}

ForwardBatch place_tables(device::ExecContext& ctx, const ForwardBatch& batch,
                          std::span<const formats::LayerConfig> layers) {
  if (ctx.gpu == nullptr) {
    ForwardBatch out = batch;
    if (batch.drawn != nullptr) out.tokens = {batch.drawn, batch.tokens.size()};
    return out;
  }
  device::Gpu& gpu = *ctx.gpu;
  gpu.begin_tables();
  const tensor::Sequences& sequences = batch.sequences;
  const int64_t count = sequences.count;
  ForwardBatch out = batch;
  out.tokens = {placed(gpu, batch.tokens.data(), static_cast<int64_t>(batch.tokens.size())),
                batch.tokens.size()};
  out.sequences = {count, placed(gpu, sequences.first_row, count + 1),
                   placed(gpu, sequences.first_position, count)};
  if (batch.layer_rows == nullptr) return out;
  const auto num_layers = static_cast<int64_t>(layers.size());
  const tensor::LayerRows** layer_rows = gpu.table<const tensor::LayerRows*>(num_layers);
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    tensor::LayerRows* rows = placed(gpu, batch.layer_rows[layer], count);
    layer_rows[layer] = rows;
    const int64_t ratio = std::max<int64_t>(1, layers[layer].ratio);
    for (int64_t s = 0; s < count; ++s) {
      const int64_t end = sequences.end_position(s) / ratio;
      rows[s].entries = placed(gpu, rows[s].entries, end);
      rows[s].index_keys = placed(gpu, rows[s].index_keys, end);
    }
  }
  out.layer_rows = layer_rows;
  if (batch.drawn != nullptr) {
    ops::copy_ids(ctx, batch.drawn, static_cast<int64_t>(out.tokens.size()),
                  gpu.on_device(const_cast<int32_t*>(out.tokens.data())));
  }
  return out;
}

}  // namespace cachalot::model
