#include "train/anticipation.h"

namespace cachalot::train {

Result<const StepChoices*> Anticipation::choices_of(const StreamPosition& position,
                                                    StepStream& stream, ThreadPool* threads,
                                                    const Choose& choose) {
  StreamPosition at = position;
  // The step delta_steps ahead is new at every step; only the mode's first step finds the ones
  // before it missing too.
  for (int64_t i = 0; i <= delta_steps_; ++i) {
    if (ahead_.contains(at.step)) {
      CACHALOT_ASSIGN_OR_RETURN(at, stream.advance(at));
      continue;
    }
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<StepInput> input, stream.read(at, threads));
    if (!input) break;  // the run ends before
    ahead_[at.step] = choose(input->batch);
    at = input->next;
  }
  return &ahead_.at(position.step);
}

void Anticipation::end_step(int64_t step) {
  ahead_.erase(step);
  if (--steps_left_ == 0) ahead_.clear();
}

}  // namespace cachalot::train
