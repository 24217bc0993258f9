#include <fmt/format.h>

#include <algorithm>

#include "data/tasks/task_parts.h"

namespace cachalot::data {

// A chain of 1 + difficulty / 3 invented units, each so many of the next, up to 4 + difficulty;
// told in any order from 2 on, to be gone upwards as well from 4 on, among other units from 6 on.
Task make_units(int difficulty, Draw draw) {
  const int64_t num_steps = 1 + difficulty / 3;
  const int64_t num_others = difficulty >= 6 ? difficulty / 3 : 0;
  const bool upwards = difficulty >= 4 && draw.coin();
  const std::vector<std::string> names = draw.names(num_steps + 1 + num_others, 2);
  const auto name = [&](int64_t i) { return names[static_cast<size_t>(i)]; };
  std::vector<std::string> facts;
  const auto tell = [&](const std::string& unit, int64_t factor, const std::string& part) {
    facts.push_back(fmt::format("1 {} is {} {}.", unit, factor, part));
  };
  std::vector<int64_t> counts = {draw.between(2, 9 + 2 * difficulty)};  // of each unit
  std::vector<int64_t> factors;
  for (int64_t i = 0; i < num_steps; ++i) {
    factors.push_back(draw.between(2, 4 + difficulty));
    counts.push_back(counts.back() * factors.back());
    tell(name(i), factors.back(), name(i + 1));
  }
  // A unit beside the chain is made of one of its units, never the other way round: no second way
  // leads through it.
  for (int64_t i = 0; i < num_others; ++i) {
    const int64_t factor = draw.between(2, 4 + difficulty);
    tell(name(num_steps + 1 + i), factor, name(draw.between(0, num_steps)));
  }
  if (difficulty >= 2) draw.shuffle(facts);

  std::string reasoning;
  for (int64_t i = 0; i < num_steps; ++i) {
    const auto at = static_cast<size_t>(upwards ? num_steps - 1 - i : i);
    reasoning += upwards ? fmt::format("{} / {} = {}\n", counts[at + 1], factors[at], counts[at])
                         : fmt::format("{} * {} = {}\n", counts[at], factors[at], counts[at + 1]);
  }
  const int64_t given = upwards ? counts.back() : counts.front();
  return exact_answer_task(
      fmt::format("{} How many {} are {} {}?", joined(facts, " "),
                  upwards ? name(0) : name(num_steps), given, upwards ? name(num_steps) : name(0)),
      std::move(reasoning), fmt::format("{}", upwards ? counts.front() : counts.back()));
}

}  // namespace cachalot::data
