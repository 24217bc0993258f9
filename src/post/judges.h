// A step's judgements: the policy, asked by rubric what its own answers are worth.
// Source  reference/post-training 4. Task, rubric and answer in; reasoning where the effort says
//         so, then a verdict (rubric.h) of the sampler that gave the answers: the same weights.
// Plan    follows from the answers alone: a plan of its own, whose group g is that of judged()[g];
//         its draws are others than the answers'.
// Score   the mean over an answer's verdicts. A judgement that is none (reasoning that does not
//         end, another text) counts as unparseable and is left out; an answer without any verdict
//         has none, and so has one that was not judged: it never ended, or is too long to show.
// Threads one.
#pragma once

#include <optional>
#include <vector>

#include "post/episode.h"
#include "post/rollout_plan.h"

namespace cachalot::post {

struct JudgeOptions {
  int64_t judgements = 1;
  std::string effort = "none";
  int64_t max_new_tokens = 256;
  int64_t max_prompt_tokens = 2048;
  bool is_constrained = true;
};

class Judges {
 public:
  // episodes: of the plan's groups. Every answer has ended. Errors: the encoder's.
  static Result<Judges> create(const EpisodeFormat& format, std::span<const Episode> episodes,
                               const RolloutPlan& plan, const RolloutLog& log,
                               const JudgeOptions& options);

  const RolloutPlan& plan() const { return plan_; }  // without groups: nothing to judge
  const std::vector<int64_t>& judged() const { return judged_; }  // answers

  struct Scores {
    std::vector<std::optional<double>> of_answers;
    int64_t num_judgements = 0;
    int64_t num_unparseable = 0;
  };
  // Every judgement has ended.
  Result<Scores> scores(const RolloutLog& log) const;

 private:
  explicit Judges(int64_t num_answers) : num_answers_(num_answers) {}

  int64_t num_answers_;
  RolloutPlan plan_;
  std::vector<int64_t> judged_;
  std::vector<Episode> episodes_;  // of plan_'s groups
};

}  // namespace cachalot::post
