// Anticipatory routing: for a while after a loss spike, a step routes its tokens to the experts
// that the parameters of delta steps before would have chosen, with present weights.
// Source  reference/training 7.1. Left open there and chosen here: the first delta steps take the
//         choices of the parameters that the mode begins with; loads count the choices used; the
//         MTP block's router is one of the score-routed layers.
// State   the steps left in the mode, and the choices of the steps ahead.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "model/training_terms.h"
#include "train/global_batch.h"
#include "train/step_stream.h"

namespace cachalot::train {

// A step's choices, by micro-batch.
using StepChoices = std::vector<model::Choices>;

class Anticipation {
 public:
  explicit Anticipation(int64_t delta_steps) : delta_steps_(delta_steps) {}

  bool active() const { return steps_left_ > 0; }
  int64_t steps_left() const { return steps_left_; }
  void begin(int64_t num_steps) {
    steps_left_ = num_steps;
    ahead_.clear();
  }

  // Before the step at `position` in the mode: `choose` gives a step's choices under the present
  // parameters, and is called for those steps up to delta_steps ahead that have none yet. The
  // step's choices stay valid until end_step().
  using Choose = std::function<StepChoices(const GlobalBatch&)>;
  Result<const StepChoices*> choices_of(const StreamPosition& position, StepStream& stream,
                                        ThreadPool* threads, const Choose& choose);
  void end_step(int64_t step);

  // What a checkpoint keeps.
  const std::map<int64_t, StepChoices>& ahead() const { return ahead_; }
  void restore(int64_t steps_left, std::map<int64_t, StepChoices> ahead) {
    steps_left_ = steps_left;
    ahead_ = std::move(ahead);
  }

 private:
  int64_t delta_steps_;
  int64_t steps_left_ = 0;
  std::map<int64_t, StepChoices> ahead_;  // by step
};

}  // namespace cachalot::train
