// sorting, string_edits, lookup, repeats: lists and letters.
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {

struct Edit {
  std::string instruction;
  std::function<std::string(std::string)> apply;
};

Edit draw_edit(Draw& draw, const std::string& word) {
  switch (draw.between(0, 5)) {
    case 0: return {"reverse it", [](std::string w) { return std::string(w.rbegin(), w.rend()); }};
    case 1: {
      const char letter =
          word[static_cast<size_t>(draw.between(0, static_cast<int64_t>(word.size()) - 1))];
      const char other = "xqwj"[draw.between(0, 3)];
      return {fmt::format("replace every {} by {}", letter, other), [=](std::string w) {
                std::replace(w.begin(), w.end(), letter, other);
                return w;
              }};
    }
    case 2: {
      const char letter = "yhc"[draw.between(0, 2)];
      return {fmt::format("put {} in front", letter),
              [=](const std::string& w) { return letter + w; }};
    }
    case 3:
      return {"move its first letter to the end", [](std::string w) {
                std::rotate(w.begin(), w.begin() + 1, w.end());
                return w;
              }};
    case 4: return {"double its last letter", [](std::string w) { return w + w.back(); }};
    default:
      return {"swap its first and last letter", [](std::string w) {
                std::swap(w.front(), w.back());
                return w;
              }};
  }
}
}  // namespace

// 2 + difficulty items; numbers, or words from 2 on; other rules than ascending order from 4 on.
Task make_sorting(int difficulty, Draw draw) {
  const int64_t count = 2 + difficulty;
  const bool descending = difficulty >= 4 && draw.coin();
  std::vector<std::string> items;
  std::string rule;
  if (difficulty >= 2 && draw.coin()) {
    items = draw.names(count, 1 + difficulty / 6);
    const bool by_length = difficulty >= 6 && draw.coin();
    if (by_length) {
      for (std::string& item : items)
        item += std::string(static_cast<size_t>(draw.between(0, 3)), 's');
    }
    const std::string listed = joined(items, ", ");
    std::sort(items.begin(), items.end(), [&](const std::string& a, const std::string& b) {
      if (by_length && a.size() != b.size()) return a.size() < b.size();
      return a < b;
    });
    rule = by_length ? "by length, words of equal length alphabetically" : "alphabetically";
    if (descending) {
      std::reverse(items.begin(), items.end());
      rule += ", then reverse the whole list";
    }
    return exact_answer_task(
        fmt::format("Sort these words {}, separated by commas: {}", rule, listed), {},
        joined(items, ", "));
  }
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < count; ++i)
    numbers.push_back(draw.digits(draw.between(1, 1 + difficulty / 3)));
  const std::string listed = fmt::format("{}", fmt::join(numbers, ", "));
  std::sort(numbers.begin(), numbers.end());
  if (descending) std::reverse(numbers.begin(), numbers.end());
  return exact_answer_task(fmt::format("Sort these numbers, the {} first, separated by commas: {}",
                                       descending ? "largest" : "smallest", listed),
                           {}, fmt::format("{}", fmt::join(numbers, ", ")));
}

// A word of 2 + difficulty / 4 syllables and 1 + difficulty / 3 edits.
Task make_string_edits(int difficulty, Draw draw) {
  std::string word = draw.names(1, 2 + difficulty / 4).front();
  std::string prompt = fmt::format("Take the word {}.", word);
  std::string reasoning;
  for (int i = 0; i < 1 + difficulty / 3; ++i) {
    const Edit edit = draw_edit(draw, word);
    prompt += fmt::format(" {} {}.", i == 0 ? "First," : "Then", edit.instruction);
    word = edit.apply(std::move(word));
    reasoning += fmt::format("{}: {}\n", edit.instruction, word);
  }
  return exact_answer_task(prompt + " What is the word now?", std::move(reasoning), word);
}

// A table of 2 + 2 * difficulty lines; 1 + difficulty / 4 steps from key to key.
Task make_lookup(int difficulty, Draw draw) {
  const int64_t num_lines = 2 + 2 * difficulty;
  const int64_t num_hops = 1 + difficulty / 4;
  const std::vector<std::string> names = draw.names(num_lines + 1, 2);
  // The chain runs through the first names; every other line points anywhere but into itself.
  std::vector<std::string> lines;
  for (int64_t i = 0; i < num_lines; ++i) {
    int64_t to = i + 1;
    if (i >= num_hops) to = draw.between(0, num_lines - 1);
    if (i >= num_hops && to >= i) ++to;
    lines.push_back(
        fmt::format("{} -> {}", names[static_cast<size_t>(i)], names[static_cast<size_t>(to)]));
  }
  std::string reasoning = names[0];
  for (int64_t hop = 1; hop <= num_hops; ++hop)
    reasoning += " -> " + names[static_cast<size_t>(hop)];
  draw.shuffle(lines);
  const std::string question =
      num_hops == 1
          ? fmt::format("Where does {} point?", names[0])
          : fmt::format("Start at {} and follow the arrows {} times. Where do you arrive?",
                        names[0], num_hops);
  return exact_answer_task(joined(lines, "\n") + "\n" + question, reasoning + "\n",
                           names[static_cast<size_t>(num_hops)]);
}

// 2 + difficulty words and numbers, each in quotes or not.
Task make_repeats(int difficulty, Draw draw) {
  const int64_t count = 2 + difficulty;
  std::vector<std::string> items = draw.names(count, 2), shown;
  for (std::string& item : items) {
    if (draw.coin()) item = fmt::format("{}", draw.digits(draw.between(1, 2)));
    shown.push_back(draw.coin() ? "\"" + item + "\"" : item);
  }
  return exact_answer_task(
      fmt::format("Repeat, parted by commas and without quotes: {}", joined(shown, " ")), {},
      joined(items, ", "));
}

}  // namespace cachalot::data
