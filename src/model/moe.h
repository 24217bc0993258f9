// One layer's FFN: routed or hash-routed experts and the shared expert, or the shared expert alone
// (dense). Internal to model/.
// Source  reference/forward 4.
#pragma once

#include "model/linear.h"
#include "model/residual.h"
#include "model/step.h"

namespace cachalot::model {

// Whether its input may lie in bf16, where nothing but the result is asked for.
bool ffn_takes_bf16(const Step& step, const FfnWeights& weights);

// The weights that its products of the step's rows read laid anew.
ops::WeightsToLay ffn_weights_to_lay(const Step& step, const FfnWeights& weights);

// input [rows, hidden_size], the output of ffn_norm; the result likewise. to_boundary: or, where
// that is faster, in bf16, or what it is the sum of.
Output ffn(Step& step, int64_t layer_idx, const FfnWeights& weights, Input input, bool to_boundary);

}  // namespace cachalot::model
