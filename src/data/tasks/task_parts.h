// What the generators share: drawing, words, answers compared as text; and the generators
// themselves.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/streams.h"
#include "data/tasks/task.h"

namespace cachalot::data {

// Draws of one task, in the order in which its generator asks.
class Draw {
 public:
  explicit Draw(RngStream rng) : rng_(rng) {}

  // Uniform in [low, high].
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(draw_below(rng_, static_cast<uint64_t>(high - low) + 1));
  }
  bool coin() { return between(0, 1) == 1; }
  template <typename T>
  const T& pick(const std::vector<T>& from) {
    return from[draw_below(rng_, from.size())];
  }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[draw_below(rng_, i)]);
  }
  // An integer of exactly `digits` digits (0 to 9 for one).
  int64_t digits(int64_t digits);
  // `count` different pronounceable words of `syllables` syllables, none of which occurs in English
  // by intent.
  std::vector<std::string> names(int64_t count, int64_t syllables);

 private:
  RngStream rng_;
};

// Short common English words in lower case.
const std::vector<std::string>& plain_words();

inline constexpr std::string_view kAnswerRequest = "\nEnd with a line \"Answer: \" and the result.";

// A task whose reply ends in an answer line that must equal `answer`.
Task exact_answer_task(std::string prompt, std::string reasoning, std::string answer);

std::string joined(const std::vector<std::string>& parts, std::string_view separator);

Task make_arithmetic(int difficulty, Draw draw);
Task make_numbers(int difficulty, Draw draw);
Task make_sorting(int difficulty, Draw draw);
Task make_string_edits(int difficulty, Draw draw);
Task make_calendar(int difficulty, Draw draw);
Task make_countdown(int difficulty, Draw draw);
Task make_lookup(int difficulty, Draw draw);
Task make_needles(int difficulty, Draw draw);
Task make_constraints(int difficulty, Draw draw);
Task make_tools(int difficulty, Draw draw);
Task make_algebra(int difficulty, Draw draw);
Task make_fractions(int difficulty, Draw draw);
Task make_units(int difficulty, Draw draw);
Task make_logic_grid(int difficulty, Draw draw);
Task make_programs(int difficulty, Draw draw);
Task make_friends(int difficulty, Draw draw);
Task make_quick(int difficulty, Draw draw);
Task make_sums(int difficulty, Draw draw);
Task make_repeats(int difficulty, Draw draw);

}  // namespace cachalot::data
