// One layer's attention: window, CSA, HCA or full. Internal to model/.
// Source  reference/forward 3.
#pragma once

#include "model/linear.h"
#include "model/residual.h"
#include "model/step.h"
#include "ops/compressor/compressor.h"

namespace cachalot::model {

tensor::RowLayout kv_layout(const Step& step);

// The step's KV rows of the layer, which go into the sequences' window rings after the last layer
// that reads them.
ops::StoreRecentParams window_rows(const Step& step, int64_t layer_idx);

// Whether its input may lie in bf16, where nothing but the result is asked for.
bool attention_takes_bf16(const Step& step, const AttentionWeights& weights);

// The weights that its products of the step's rows read laid anew, where it has no tape.
ops::WeightsToLay attention_weights_to_lay(Step& step, const formats::LayerConfig& layer,
                                           const AttentionWeights& weights);

// input [rows, hidden_size], the output of attn_norm; the result likewise, or to_boundary in bf16
// where the products make it so. Reads the sequences' cache rows and writes all but the window
// rings.
Output attention(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                 const AttentionWeights& weights, Input input, bool to_boundary);

}  // namespace cachalot::model
