// Which answers a step samples, and how: fixed before the first token, so that who is sampled when,
// beside whom, by which process and after how many crashes shows in no bit.
// Source  reference/post-training 2.2, 9.3.
// Threads  pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/sampling_params.h"

namespace cachalot::post {

struct RolloutGroup {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 0;
  std::string schema = {};  // that binds the answers, as JSON text (answer_masks.h); empty: any
};

struct RolloutPlan {
  int64_t step = 0;
  int64_t weights_version = 0;  // that samples all of it
  uint64_t seed = 0;            // the run's
  std::vector<RolloutGroup> groups;
  int64_t group_size = 0;
  engine::SamplingParams sampling;  // temperature, top_k, top_p, min_p; its seed is not read
  std::vector<int32_t> end_tokens;  // an answer's last token, which is part of it
  int64_t num_drafts = 0;           // of the MTP block: shows in no bit, and is not in the hash
  bool adapts_drafts = true;        // fewer where they do not pay

  int64_t num_answers() const { return static_cast<int64_t>(groups.size()) * group_size; }
  const RolloutGroup& group_of(int64_t answer) const { return groups[answer / group_size]; }
};

// Of an answer's draws: of the run's seed, the step and the answer.
uint64_t answer_seed(const RolloutPlan& plan, int64_t answer);
uint64_t plan_hash(const RolloutPlan& plan);

// For a worker: all of the plan, as it is again there. Errors: data_loss.
std::vector<int64_t> plan_words(const RolloutPlan& plan);
Result<RolloutPlan> plan_of_words(std::span<const int64_t> words);

}  // namespace cachalot::post
