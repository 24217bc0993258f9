// KV rows of a layer: the compressors, and encoding into the cache's row formats. Internal to
// model/.
// Source  reference/forward 3.2, 3.3, 3.10.
#pragma once

#include "model/linear.h"
#include "model/step.h"
#include "model/weights.h"

namespace cachalot::model {

struct CompressorOutput {
  enum class Kind { kv, index } kind;
  int64_t width;
};

// Projects x, pools the entries that the segments complete, and writes them to the layer's
// compressed rows (kv) or indexer rows (index); the tail rings take the last K, S rows.
void run_compressor(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                    const CompressorWeights& weights, const CompressorOutput& output, Matrix x);

// Rounds KV values to what the precision's row format holds (SIM8 on the non-rotary part).
void snap_kv(Step& step, Matrix kv, int64_t rows);

// Encodes rows into `blocks` from row first_row on.
void encode_kv_rows(Step& step, Matrix kv, int64_t rows, const tensor::RowBlocks& blocks,
                    int64_t first_row);

// Full attention keeps every token's row as an entry of ratio 1.
void store_full_rows(Step& step, int64_t layer_idx, Matrix kv);

}  // namespace cachalot::model
