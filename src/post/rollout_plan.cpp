#include "post/rollout_plan.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <limits>

namespace cachalot::post {
namespace {

// Beside the hash's: they show in no bit.
constexpr size_t kUnhashed = 2;

}  // namespace

uint64_t answer_seed(const RolloutPlan& plan, int64_t answer) {
  const int64_t key[3] = {static_cast<int64_t>(plan.seed), plan.step, answer};
  return XXH3_64bits(key, sizeof(key));
}

uint64_t plan_hash(const RolloutPlan& plan) {
  const std::vector<int64_t> words = plan_words(plan);
  return XXH3_64bits(words.data(), (words.size() - kUnhashed) * sizeof(int64_t));
}

std::vector<int64_t> plan_words(const RolloutPlan& plan) {
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
    add({group.schema.begin(), group.schema.end()});
  }
  words.push_back(plan.num_drafts);
  words.push_back(plan.adapts_drafts);
  return words;
}

Result<RolloutPlan> plan_of_words(std::span<const int64_t> words) {
  size_t at = 0;
  bool is_whole = words.size() >= kUnhashed;
  const size_t end = is_whole ? words.size() - kUnhashed : 0;
  const auto next = [&](int64_t least, int64_t most) {
    if (at >= end || words[at] < least || words[at] > most) {
      is_whole = false;
      return least;
    }
    return words[at++];
  };
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMostId = std::numeric_limits<int32_t>::max();
  const auto any = [&] { return next(std::numeric_limits<int64_t>::min(), kMost); };
  const auto ids = [&](std::vector<int32_t>* out) {
    const auto count = static_cast<size_t>(next(0, kMost));
    if (count > end - std::min(at, end)) is_whole = false;
    for (size_t i = 0; is_whole && i < count; ++i)
      out->push_back(static_cast<int32_t>(next(0, kMostId)));
  };
  RolloutPlan plan;
  plan.step = next(0, kMost);
  plan.weights_version = next(0, kMost);
  plan.seed = static_cast<uint64_t>(any());
  plan.group_size = next(1, kMostId);
  plan.sampling.temperature = std::bit_cast<double>(any());
  plan.sampling.top_k = static_cast<int32_t>(next(0, kMostId));
  plan.sampling.top_p = std::bit_cast<double>(any());
  plan.sampling.min_p = std::bit_cast<double>(any());
  ids(&plan.end_tokens);
  while (is_whole && at < end) {
    RolloutGroup& group = plan.groups.emplace_back();
    group.max_new_tokens = next(1, kMost);
    ids(&group.prompt);
    std::vector<int32_t> schema;
    ids(&schema);
    group.schema.assign(schema.begin(), schema.end());
    is_whole = is_whole && !group.prompt.empty();
  }
  if (!is_whole || plan.groups.empty())
    return data_loss(
        fmt::format("plan: expected a step's prompts, found a damaged one at word {}", at));
  plan.num_drafts = words[end];
  plan.adapts_drafts = words[end + 1] != 0;
  return plan;
}

}  // namespace cachalot::post
