// KV rows of a layer: the compressors, and encoding into the cache's row formats. Internal to
// model/.
// Source  reference/forward 3.2, 3.3, 3.10.
#pragma once

#include "model/linear.h"
#include "model/step.h"
#include "model/weights.h"
#include "ops/compressor/entry_rows.h"

namespace cachalot::model {

struct CompressorOutput {
  enum class Kind { kv, index } kind;
  int64_t width;
};

// K and S of every row of the batch side by side, [rows, 2 * z * width], still without the
// positional bias: room for them, and the two products over x that make them.
Matrix new_compressor_rows(Step& step, const CompressorWeights& weights);
void add_compressor_products(const CompressorWeights& weights, Matrix x, Matrix ks,
                             LinearParts& parts);

// Takes those rows, pools the entries that the sequences complete, and writes them to the layer's
// compressed rows (kv) or indexer rows (index); the tail rings take the last K, S rows.
void run_compressor(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                    const CompressorWeights& weights, const CompressorOutput& output, Matrix ks);

// The same for ops that make it where nothing is recorded or shown.
ops::EntryRowsParams compressor_rows(Step& step, int64_t layer_idx,
                                     const formats::LayerConfig& layer,
                                     const CompressorWeights& weights,
                                     const CompressorOutput& output, Matrix ks);

// Rounds KV values to what the precision's row format holds (SIM8 on the non-rotary part).
void snap_kv(Step& step, Matrix kv, int64_t rows);

// Encodes the entries of `ratio` positions that the step completes into the layer's entries. Full
// attention keeps every token's row as an entry of ratio 1.
void encode_kv_entries(Step& step, int64_t layer_idx, int64_t ratio, Matrix kv);

}  // namespace cachalot::model
