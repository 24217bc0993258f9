// The residual streams around a sublayer: mHC, unconstrained hyper-connections, or a plain
// residual. Internal to model/.
// Source  reference/forward 2.
#pragma once

#include "model/linear.h"
#include "model/step.h"

namespace cachalot::model {

// What a sublayer's input was mixed with, kept until its output is merged.
struct ResidualMix {
  float* post = nullptr;  // [rows, n]; null with plain residuals
  float* comb = nullptr;  // [rows, n, n]
};

// The sublayer's input u [rows, hidden_size] from the streams [rows, n * hidden_size]; before its
// norm.
Matrix residual_before(Step& step, const std::optional<HyperWeights>& weights,
                       formats::ResidualKind kind, Matrix streams, ResidualMix& mix);

// The streams with the sublayer's output y merged into them: in place, or with a tape, which needs
// the old ones, beside them.
Matrix residual_after(Step& step, const ResidualMix& mix, Matrix y, Matrix streams);

// The head's collapse of the streams [rows, n * hidden_size] to u [rows, hidden_size].
Matrix collapse_streams(Step& step, const std::optional<HyperWeights>& weights, Matrix streams,
                        int64_t rows);

}  // namespace cachalot::model
