// Writing under rules of form that a program can check.
// Words    are what white space parts, if there is a letter or digit in it; they are compared in
//          lower case, without what stands around letters and digits. Sentences end in . ! or ?
#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {
constexpr int64_t kLeastWords = 3;  // so that saying nothing breaks every task

// ASCII alone, whatever the locale.
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }
bool is_alnum(char c) { return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z'); }
bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  std::string piece;
  const auto close = [&] {
    const auto first = std::find_if(piece.begin(), piece.end(), is_alnum);
    const auto last = std::find_if(piece.rbegin(), piece.rend(), is_alnum).base();
    if (first != piece.end()) words.emplace_back(first, last);
    piece.clear();
  };
  for (const char c : text) {
    if (is_space(c)) {
      close();
    } else {
      piece += lower(c);
    }
  }
  close();
  return words;
}

int64_t count_sentences(std::string_view text) {
  int64_t count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool ends = text[i] == '.' || text[i] == '!' || text[i] == '?';
    const bool goes_on =
        i + 1 < text.size() && (text[i + 1] == '.' || text[i + 1] == '!' || text[i + 1] == '?');
    count += ends && !goes_on;
  }
  return count;
}

// -1 if a line that is not empty is no bullet.
int64_t count_bullets(std::string_view text) {
  int64_t count = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    if (line.starts_with("- ")) {
      ++count;
    } else if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      return -1;
    }
    begin = end + 1;
  }
  return count;
}

struct Rule {
  std::string text;
  std::function<bool(std::string_view)> holds;
};

// What the reference answer is made from; each rule speaks of one part.
struct Plan {
  int64_t num_words = 0;
  int64_t num_groups = 1;  // sentences, or bullets
  bool bullets = false;
  std::string keyword, first, last, forbidden;
  int64_t num_keywords = 0;
  int letter_case = 0;  // -1 lower, 1 upper
};

Plan draw_plan(int difficulty, Draw& draw) {
  const std::vector<std::string> names = draw.names(3, 2);
  Plan plan = {.num_groups = draw.between(1, 2 + difficulty / 6),
               .bullets = draw.coin(),
               .keyword = names[0],
               .first = names[1],
               .last = names[2],
               .forbidden = draw.pick(plain_words()),
               .num_keywords = draw.between(1, 2 + difficulty / 8),
               .letter_case = draw.coin() ? 1 : -1};
  plan.num_words = plan.num_keywords + 2 + plan.num_groups + draw.between(1, 6 + difficulty);
  return plan;
}

std::vector<Rule> rules_of(const Plan& plan) {
  std::vector<Rule> rules;
  rules.push_back({fmt::format("Use exactly {} words.", plan.num_words),
                   [n = plan.num_words](std::string_view text) {
                     return static_cast<int64_t>(words_of(text).size()) == n;
                   }});
  rules.push_back({fmt::format("Use the word \"{}\" exactly {} time{}.", plan.keyword,
                               plan.num_keywords, plan.num_keywords == 1 ? "" : "s"),
                   [word = plan.keyword, n = plan.num_keywords](std::string_view text) {
                     const auto words = words_of(text);
                     return std::count(words.begin(), words.end(), word) == n;
                   }});
  rules.push_back({fmt::format("Do not use the word \"{}\".", plan.forbidden),
                   [word = plan.forbidden](std::string_view text) {
                     const auto words = words_of(text);
                     return std::find(words.begin(), words.end(), word) == words.end();
                   }});
  rules.push_back({plan.letter_case > 0 ? "Write all letters in upper case."
                                        : "Write all letters in lower case.",
                   [up = plan.letter_case > 0](std::string_view text) {
                     return std::all_of(text.begin(), text.end(),
                                        [&](char c) { return c == (up ? upper(c) : lower(c)); });
                   }});
  rules.push_back({fmt::format("The first word is \"{}\".", plan.first),
                   [word = plan.first](std::string_view text) {
                     const auto words = words_of(text);
                     return !words.empty() && words.front() == word;
                   }});
  rules.push_back({fmt::format("The last word is \"{}\".", plan.last),
                   [word = plan.last](std::string_view text) {
                     const auto words = words_of(text);
                     return !words.empty() && words.back() == word;
                   }});
  rules.push_back({"Do not use commas.",
                   [](std::string_view text) { return text.find(',') == std::string_view::npos; }});
  if (plan.bullets) {
    rules.push_back(
        {fmt::format("Write exactly {} lines, each of which begins with \"- \".", plan.num_groups),
         [n = plan.num_groups](std::string_view text) { return count_bullets(text) == n; }});
  } else {
    rules.push_back(
        {fmt::format("Write exactly {} sentence{}.", plan.num_groups,
                     plan.num_groups == 1 ? "" : "s"),
         [n = plan.num_groups](std::string_view text) { return count_sentences(text) == n; }});
  }
  return rules;
}

// A text that obeys all of the plan's rules.
std::string written(const Plan& plan, Draw& draw) {
  std::vector<std::string> inner(static_cast<size_t>(plan.num_keywords), plan.keyword);
  while (static_cast<int64_t>(inner.size()) < plan.num_words - 2) {
    const std::string& word = draw.pick(plain_words());
    if (word != plan.forbidden) inner.push_back(word);
  }
  draw.shuffle(inner);
  std::vector<std::string> words = {plan.first};
  words.insert(words.end(), inner.begin(), inner.end());
  words.push_back(plan.last);
  std::string text;
  for (int64_t group = 0; group < plan.num_groups; ++group) {
    const auto count = static_cast<int64_t>(words.size());
    const auto begin = static_cast<size_t>(group * count / plan.num_groups);
    const auto end = static_cast<size_t>((group + 1) * count / plan.num_groups);
    std::string part =
        joined(std::vector<std::string>(words.begin() + static_cast<std::ptrdiff_t>(begin),
                                        words.begin() + static_cast<std::ptrdiff_t>(end)),
               " ");
    if (plan.bullets) {
      text += (group > 0 ? "\n- " : "- ") + part;
    } else {
      part[0] = upper(part[0]);
      text += (group > 0 ? " " : "") + part + ".";
    }
  }
  return text;
}

Task make_form(int difficulty, Draw draw) {
  const Plan plan = draw_plan(difficulty, draw);
  std::vector<Rule> rules = rules_of(plan);
  draw.shuffle(rules);
  rules.resize(std::min<size_t>(rules.size(), 1 + static_cast<size_t>(difficulty) / 3));
  Task task;
  task.prompt = fmt::format("Write a short text about the {}, of {} words or more.",
                            draw.pick(plain_words()), kLeastWords);
  bool cased = false;
  for (const Rule& rule : rules) {
    task.prompt += "\n" + rule.text;
    cased |= rule.text.starts_with("Write all letters");
  }
  task.answer.content = written(plan, draw);
  if (cased) {
    std::string& text = task.answer.content;
    std::transform(text.begin(), text.end(), text.begin(), plan.letter_case > 0 ? upper : lower);
  }
  task.check = [rules = std::move(rules)](const Reply& reply) -> Verdict {
    if (static_cast<int64_t>(words_of(reply.content).size()) < kLeastWords) {
      return {.correct = false, .why = "too short"};
    }
    std::string broken;
    for (const Rule& rule : rules) {
      if (!rule.holds(reply.content)) broken += (broken.empty() ? "" : " ") + rule.text;
    }
    const bool correct = broken.empty();
    return {.correct = correct, .why = std::move(broken)};
  };
  return task;
}

Task make_json_object(int difficulty, Draw draw) {
  const std::vector<std::string> keys = draw.names(1 + difficulty / 2, 2);
  const bool lengths = draw.coin();
  json::object expected;
  for (const std::string& key : keys) {
    if (lengths) {
      expected[key] = static_cast<int64_t>(key.size());
    } else {
      expected[key] = std::string(key.rbegin(), key.rend());
    }
  }
  Task task;
  task.prompt = fmt::format(
      "Reply with a JSON object and nothing else. Its keys are, in this order, {}. Each value is "
      "{}.",
      joined(keys, ", "),
      lengths ? "the number of letters of its key" : "its key spelled backwards");
  std::string text;
  for (const auto& [key, value] : expected) {
    const std::string shown = value.is_string()
                                  ? fmt::format("\"{}\"", std::string_view(value.get_string()))
                                  : fmt::format("{}", value.get_int64());
    text += fmt::format("{}\"{}\": {}", text.empty() ? "" : ", ", std::string_view(key), shown);
  }
  task.answer.content = "{" + text + "}";
  task.check = [expected](const Reply& reply) -> Verdict {
    const auto given = parse_json(reply.content, "reply");
    if (!given) return {.correct = false, .why = given.error().message()};
    if (!given->is_object()) return {.correct = false, .why = "not an object"};
    const json::object& object = given->get_object();
    // Object equality does not look at the order of keys.
    const bool same_order =
        std::equal(object.begin(), object.end(), expected.begin(), expected.end(),
                   [](const auto& a, const auto& b) { return a.key() == b.key(); });
    if (same_order && object == expected) return {.correct = true, .why = {}};
    return {.correct = false, .why = "other keys, values or order"};
  };
  return task;
}
}  // namespace

// 1 + difficulty / 3 rules; from 3 on one in four is a JSON object of 1 + difficulty / 2 keys
// instead.
Task make_constraints(int difficulty, Draw draw) {
  if (difficulty >= 3 && draw.between(0, 3) == 0) return make_json_object(difficulty, draw);
  return make_form(difficulty, draw);
}

}  // namespace cachalot::data
