#include "data/tasks/task.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "base/check.h"
#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {
struct Family {
  TaskFamily family;
  std::string_view name;
  Task (*make)(int difficulty, Draw draw);
};
constexpr std::array<Family, kNumTaskFamilies> kFamilies = {{
    {TaskFamily::arithmetic, "arithmetic", make_arithmetic},
    {TaskFamily::numbers, "numbers", make_numbers},
    {TaskFamily::sorting, "sorting", make_sorting},
    {TaskFamily::string_edits, "string_edits", make_string_edits},
    {TaskFamily::calendar, "calendar", make_calendar},
    {TaskFamily::countdown, "countdown", make_countdown},
    {TaskFamily::lookup, "lookup", make_lookup},
    {TaskFamily::needles, "needles", make_needles},
    {TaskFamily::constraints, "constraints", make_constraints},
    {TaskFamily::tools, "tools", make_tools},
    {TaskFamily::algebra, "algebra", make_algebra},
    {TaskFamily::fractions, "fractions", make_fractions},
    {TaskFamily::units, "units", make_units},
    {TaskFamily::logic_grid, "logic_grid", make_logic_grid},
    {TaskFamily::programs, "programs", make_programs},
    {TaskFamily::friends, "friends", make_friends},
    {TaskFamily::quick, "quick", make_quick},
    {TaskFamily::sums, "sums", make_sums},
    {TaskFamily::repeats, "repeats", make_repeats},
}};

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}
}  // namespace

std::string_view task_family_name(TaskFamily family) {
  return kFamilies[static_cast<size_t>(family)].name;
}

std::optional<TaskFamily> parse_task_family(std::string_view name) {
  for (const Family& family : kFamilies) {
    if (family.name == name) return family.family;
  }
  return std::nullopt;
}

std::span<const TaskFamily> task_families() {
  static constexpr auto kAll = [] {
    std::array<TaskFamily, kNumTaskFamilies> all = {};
    for (size_t i = 0; i < all.size(); ++i) all[i] = kFamilies[i].family;
    return all;
  }();
  return kAll;
}

Task make_task(TaskFamily family, int difficulty, uint64_t seed, uint64_t index) {
  CACHALOT_CHECK(difficulty >= 0 && difficulty <= kMaxDifficulty);
  const auto key = static_cast<uint32_t>(family);
  const Family& maker = kFamilies[key];
  CACHALOT_CHECK(maker.family == family);
  Task task = maker.make(difficulty, Draw(data_stream(seed, DataUse::tasks, key,
                                                      static_cast<uint64_t>(difficulty), index)));
  task.family = family;
  task.difficulty = difficulty;
  return task;
}

std::optional<std::string_view> answer_line(std::string_view content) {
  constexpr std::string_view kMark = "Answer:";
  size_t at = content.rfind(kMark);
  while (at != std::string_view::npos && at > 0 && content[at - 1] != '\n') {
    at = content.rfind(kMark, at - 1);
  }
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = content.substr(at + kMark.size());
  return trimmed(rest.substr(0, rest.find('\n')));
}

int64_t Draw::digits(int64_t digits) {
  int64_t low = 1;
  for (int64_t i = 1; i < digits; ++i) low *= 10;
  return between(digits == 1 ? 0 : low, 10 * low - 1);
}

std::vector<std::string> Draw::names(int64_t count, int64_t syllables) {
  static const std::vector<std::string> kOnsets = {"b", "d", "f", "g", "k", "l", "m",
                                                   "n", "p", "r", "s", "t", "v", "z"};
  static const std::vector<std::string> kVowels = {"a", "e", "i", "o", "u"};
  std::set<std::string> seen = {"none"};  // what a lookup that leads nowhere is called
  std::vector<std::string> names;
  for (int64_t tries = 0; static_cast<int64_t>(names.size()) < count; ++tries) {
    std::string name;
    // Many names of few syllables would run out: after some misses they grow.
    const int64_t length = syllables + tries / (4 * count);
    for (int64_t s = 0; s < length; ++s) {
      name += pick(kOnsets);
      name += pick(kVowels);
    }
    if (seen.insert(name).second) names.push_back(std::move(name));
  }
  return names;
}

const std::vector<std::string>& plain_words() {
  static const std::vector<std::string> kWords = {
      "old",   "river", "stone", "green", "walks", "slowly", "under", "bright", "tree",  "house",
      "small", "bird",  "sings", "every", "cold",  "night",  "near",  "quiet",  "water", "field",
      "long",  "road",  "turns", "past",  "grey",  "hill",   "where", "tall",   "grass", "moves",
      "early", "light", "falls", "over",  "wide",  "garden", "while", "clouds", "drift", "away"};
  return kWords;
}

Task exact_answer_task(std::string prompt, std::string reasoning, std::string answer) {
  Task task;
  task.prompt = std::move(prompt) + std::string(kAnswerRequest);
  task.reasoning = std::move(reasoning);
  task.answer.content = "Answer: " + answer;
  task.check = [answer = std::move(answer)](const Reply& reply) -> Verdict {
    const auto given = answer_line(reply.content);
    if (!given) return {.correct = false, .why = "no answer line"};
    if (*given == answer) return {.correct = true, .why = {}};
    return {.correct = false, .why = fmt::format("expected {}, found {}", answer, *given)};
  };
  return task;
}

std::string joined(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

}  // namespace cachalot::data
