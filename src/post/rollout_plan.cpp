#include "post/rollout_plan.h"

#include <xxhash.h>

#include <bit>

namespace cachalot::post {

uint64_t answer_seed(const RolloutPlan& plan, int64_t answer) {
  const int64_t key[3] = {static_cast<int64_t>(plan.seed), plan.step, answer};
  return XXH3_64bits(key, sizeof(key));
}

uint64_t plan_hash(const RolloutPlan& plan) {
  std::vector<int64_t> words = {plan.step,
                                plan.weights_version,
                                static_cast<int64_t>(plan.seed),
                                plan.group_size,
                                std::bit_cast<int64_t>(plan.sampling.temperature),
                                plan.sampling.top_k,
                                std::bit_cast<int64_t>(plan.sampling.top_p),
                                std::bit_cast<int64_t>(plan.sampling.min_p)};
  const auto add = [&](const std::vector<int32_t>& ids) {
    words.push_back(static_cast<int64_t>(ids.size()));
    words.insert(words.end(), ids.begin(), ids.end());
  };
  add(plan.end_tokens);
  for (const RolloutGroup& group : plan.groups) {
    words.push_back(group.max_new_tokens);
    add(group.prompt);
  }
  return XXH3_64bits(words.data(), words.size() * sizeof(int64_t));
}

}  // namespace cachalot::post
