// The residual streams around a sublayer: mHC, unconstrained hyper-connections, or a plain
// residual. Internal to model/.
// Source  reference/forward 2.
#pragma once

#include "model/linear.h"
#include "model/step.h"
#include "ops/moe/expert_sum.h"

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

// The head's collapse of the chosen rows of all streams [.., width] and its norm:
// [chosen.size(), hidden_size].
Matrix collapse_streams(Step& step, const std::optional<HyperWeights>& weights,
                        const std::vector<float>& norm, const float* all, int64_t width,
                        std::span<const int64_t> chosen);

// Where the precision allows it, the merge after a sublayer, what comes before the next one and
// that one's norm are one op (ops/hyper/hyper_boundary.h), and the streams lie in bf16 meanwhile.
bool has_boundary_op(const Step& step, const std::optional<HyperWeights>& weights,
                     formats::ResidualKind kind);

// A sublayer's output: itself, in floats or, for a boundary, in bf16, or what it is the sum of.
struct Output {
  Matrix y = {};
  std::optional<ops::ExpertSum> sum = {};
  const uint16_t* bf16 = nullptr;  // contiguous
};

// Whether a boundary takes sums of the step's rows.
bool boundary_takes_sums(const Step& step);

// The same arrays before every sublayer of a call.
struct Boundary {
  Matrix x;           // [rows, hidden_size], the next sublayer's input; null: x_bf16 is
  uint16_t* x_bf16;   // in bf16
  uint16_t* streams;  // [rows, n * hidden_size] in bf16
  ResidualMix mix;
  float* logits;              // of mix.comb
  std::byte* laid = nullptr;  // place for each sublayer's weights laid anew; null: they are not

  Input input() const { return {x, x_bf16}; }
};
// in_bf16: all sublayers take their input so, and there is no probe.
Boundary new_boundary(Step& step, bool in_bf16);
// The streams before the first sublayer, of [rows, columns]: each row once, or n times where it has
// hidden_size columns.
void fill_streams(Step& step, Matrix from, const Boundary& boundary);
// output absent: nothing to merge, before the first sublayer. comb waits (Step::waiting) for ops
// of the sublayer that it can run with. to_lay: the next sublayer's, laid beside it where there is
// room.
void pass_boundary(Step& step, const HyperWeights& weights, const std::vector<float>& norm,
                   const std::optional<Output>& output, const Boundary& boundary,
                   const ops::WeightsToLay& to_lay = {});
// For a probe.
std::vector<float> streams_on_host(const Step& step, const Boundary& boundary);
// The streams with the last sublayer's output y merged into them.
void last_streams(Step& step, Matrix y, const Boundary& boundary, Matrix streams);

}  // namespace cachalot::model
