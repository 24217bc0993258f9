#include <fmt/format.h>

#include <algorithm>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {
constexpr int kMaxDoublings = 16;

std::string filler_sentence(Draw& draw) {
  std::string sentence = draw.pick(plain_words());
  sentence[0] = static_cast<char>(sentence[0] - 'a' + 'A');
  for (int64_t i = draw.between(4, 9); i > 0; --i) sentence += " " + draw.pick(plain_words());
  return sentence + ".";
}

// The facts in random order at random places between sentences of about num_words words.
std::string hidden_in_text(const std::vector<std::string>& facts, int64_t num_words, Draw& draw) {
  std::vector<std::string> sentences;
  for (int64_t i = 0; i < std::max<int64_t>(1, num_words / 7); ++i) {
    sentences.push_back(filler_sentence(draw));
  }
  std::vector<std::string> shuffled = facts;
  draw.shuffle(shuffled);
  std::vector<std::pair<int64_t, std::string>> placed;
  placed.reserve(shuffled.size());
  for (std::string& fact : shuffled) {
    placed.emplace_back(draw.between(0, static_cast<int64_t>(sentences.size())), std::move(fact));
  }
  std::stable_sort(placed.begin(), placed.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string text;
  size_t next = 0;
  for (size_t i = 0; i <= sentences.size(); ++i) {
    for (; next < placed.size() && placed[next].first == static_cast<int64_t>(i); ++next) {
      text += placed[next].second + " ";
    }
    if (i < sentences.size()) text += sentences[i] + " ";
  }
  return text;
}
}  // namespace

// 32 * 2^difficulty words (2 million at most) around 1 + difficulty / 2 codes; 1 + difficulty / 6
// of them are asked for. One in four counts mentions instead.
Task make_needles(int difficulty, Draw draw) {
  const int64_t num_words = int64_t{32} << std::min(difficulty, kMaxDoublings);
  const int64_t num_facts = 1 + difficulty / 2;
  const std::vector<std::string> names = draw.names(num_facts + 1, 2);
  if (draw.between(0, 3) == 0) {
    const int64_t count = draw.between(1, 2 + difficulty);
    std::vector<std::string> facts;
    for (int64_t i = 0; i < count; ++i)
      facts.push_back(fmt::format("Then {} rang the bell.", names[0]));
    for (int64_t i = 1; i <= num_facts; ++i) {
      facts.push_back(fmt::format("Then {} rang the bell.", names[static_cast<size_t>(i)]));
    }
    return exact_answer_task(hidden_in_text(facts, num_words, draw) +
                                 fmt::format("\nHow many times did {} ring the bell?", names[0]),
                             {}, fmt::format("{}", count));
  }
  std::vector<std::string> facts, asked, codes;
  for (int64_t i = 0; i < num_facts; ++i) {
    const std::string code = fmt::format("{}", draw.digits(4));
    facts.push_back(fmt::format("The code of {} is {}.", names[static_cast<size_t>(i)], code));
    if (i <= difficulty / 6) {
      asked.push_back(names[static_cast<size_t>(i)]);
      codes.push_back(code);
    }
  }
  return exact_answer_task(
      hidden_in_text(facts, num_words, draw) +
          fmt::format("\nWhat are the codes of {}, in this order, separated by commas?",
                      joined(asked, ", ")),
      {}, joined(codes, ", "));
}

}  // namespace cachalot::data
