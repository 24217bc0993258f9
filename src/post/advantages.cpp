#include "post/advantages.h"

#include <cmath>
#include <map>

#include "base/check.h"

namespace cachalot::post {

std::vector<double> group_advantages(std::span<const double> rewards,
                                     std::span<const int64_t> groups, const AdvantageRule& rule) {
  CACHALOT_CHECK(rewards.size() == groups.size());
  std::map<int64_t, std::vector<size_t>> members;
  for (size_t i = 0; i < groups.size(); ++i) members[groups[i]].push_back(i);
  std::vector<double> advantages(rewards.size());
  for (const auto& [group, indices] : members) {
    const auto n = static_cast<double>(indices.size());
    double sum = 0, squares = 0;
    bool all_equal = true;  // then the mean's rounding must not show
    for (const size_t i : indices) {
      sum += rewards[i];
      all_equal = all_equal && rewards[i] == rewards[indices[0]];
    }
    if (all_equal) continue;
    for (const size_t i : indices) {
      advantages[i] = rewards[i] - sum / n;
      squares += advantages[i] * advantages[i];
    }
    if (rule.deviation == Deviation::none) continue;
    const double degrees = rule.deviation == Deviation::sample ? n - 1 : n;
    for (const size_t i : indices) advantages[i] /= std::sqrt(squares / degrees) + rule.added;
  }
  return advantages;
}

}  // namespace cachalot::post
