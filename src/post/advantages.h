// Advantages of answers to the same prompt: a group.
// Source  reference/post-training 2.2, 15. A_i = R_i - mean_j R_j over the group; on demand divided
//         by the group's standard deviation plus `added`, 0 where deviation and `added` are 0.
// Threads  any.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cachalot::post {

enum class Deviation { none, population, sample };
struct AdvantageRule {
  Deviation deviation = Deviation::none;
  double added = 0;
};

// groups: the group of every reward, any numbers, in any order. As many of both (CHECK).
std::vector<double> group_advantages(std::span<const double> rewards,
                                     std::span<const int64_t> groups, const AdvantageRule& rule);

}  // namespace cachalot::post
