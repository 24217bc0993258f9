// The reference answers are right: each family's questions are read from the prompt and solved by
// other means.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <regex>
#include <set>
#include <sstream>

#include "data/tasks/expression.h"
#include "data/tasks/task.h"

namespace cachalot::data {
namespace {

template <typename Fn>
void for_each_task(TaskFamily family, int hardest, Fn&& solve) {
  for (int difficulty = 0; difficulty <= hardest; ++difficulty) {
    for (uint64_t index = 0; index < 60; ++index) {
      const Task task = make_task(family, difficulty, 77, index);
      const std::string answer = solve(task.prompt.substr(0, task.prompt.find("\nEnd with")));
      ASSERT_EQ("Answer: " + answer, task.answer.content) << task.prompt;
    }
  }
}

std::string after(const std::string& text, const std::string& mark) {
  const size_t at = text.find(mark);
  return at == std::string::npos ? "" : text.substr(at + mark.size());
}
// The words of a text; commas, colons, full stops and question marks part them too.
std::vector<std::string> words(std::string text) {
  for (char& c : text) {
    if (c == ',' || c == ':' || c == '.' || c == '?') c = ' ';
  }
  std::istringstream stream(text);
  return {std::istream_iterator<std::string>(stream), {}};
}
template <typename T>
std::string list(const std::vector<T>& items) {
  std::ostringstream out;
  for (size_t i = 0; i < items.size(); ++i) out << (i > 0 ? ", " : "") << items[i];
  return out.str();
}

TEST(TaskAnswers, Numbers) {
  for_each_task(TaskFamily::numbers, kMaxDifficulty, [](const std::string& prompt) {
    const std::vector<std::string> w = words(prompt);
    if (w[3] == "greatest") return std::to_string(std::gcd(std::stoll(w[7]), std::stoll(w[9])));
    if (w[3] == "remainder") return std::to_string(std::stoll(w[5]) % std::stoll(w[8]));
    if (w[0] == "Which") return std::to_string(std::stoll(w[4], nullptr, std::stoi(w[7])));
    // Write V in base B: the number whose digits give V back, without a leading zero.
    EXPECT_EQ(w[0], "Write");
    const int64_t base = std::stoll(w[4]);
    int64_t rest = std::stoll(w[1]), power = 1;
    while (power * base <= rest) power *= base;
    std::string digits;
    for (; power > 0; power /= base) {
      digits += "0123456789abcdef"[rest / power];
      rest %= power;
    }
    return digits;
  });
}

TEST(TaskAnswers, Sorting) {
  for_each_task(TaskFamily::sorting, kMaxDifficulty, [](const std::string& prompt) {
    const std::vector<std::string> items = words(after(prompt, "by commas:"));
    if (prompt.find("numbers") != std::string::npos) {
      std::vector<int64_t> numbers;
      for (const std::string& item : items) numbers.push_back(std::stoll(item));
      std::sort(numbers.begin(), numbers.end());
      if (prompt.find("largest") != std::string::npos) std::reverse(numbers.begin(), numbers.end());
      return list(numbers);
    }
    std::vector<std::pair<size_t, std::string>> keyed;
    const bool by_length = prompt.find("by length") != std::string::npos;
    for (const std::string& item : items) keyed.emplace_back(by_length ? item.size() : 0, item);
    std::sort(keyed.begin(), keyed.end());
    std::vector<std::string> sorted;
    for (const auto& [key, item] : keyed) sorted.push_back(item);
    if (prompt.find("reverse the whole") != std::string::npos)
      std::reverse(sorted.begin(), sorted.end());
    return list(sorted);
  });
}

TEST(TaskAnswers, StringEdits) {
  for_each_task(TaskFamily::string_edits, kMaxDifficulty, [](const std::string& prompt) {
    std::string word = words(prompt)[3];
    std::istringstream rest(after(prompt, word + ". "));
    for (std::string edit; std::getline(rest, edit, '.');) {
      const std::vector<std::string> w = words(edit);
      const std::string last = w.back();
      if (edit.find("reverse") != std::string::npos) {
        std::string other;
        for (const char c : word) other = c + other;
        word = other;
      } else if (edit.find("replace") != std::string::npos) {
        const char from = w[3][0];
        for (char& c : word) c = c == from ? last[0] : c;
      } else if (edit.find("in front") != std::string::npos) {
        word = w[2] + word;
      } else if (edit.find("move") != std::string::npos) {
        word = word.substr(1) + word[0];
      } else if (edit.find("double") != std::string::npos) {
        word += word[word.size() - 1];
      } else if (edit.find("swap") != std::string::npos) {
        const char first = word[0];
        word[0] = word[word.size() - 1];
        word[word.size() - 1] = first;
      } else {
        EXPECT_NE(edit.find("What is the word now"), std::string::npos) << edit;
      }
    }
    return word;
  });
}

// Days since a fixed day by the rule of leap years, counted year by year and month by month.
int64_t day_number(const std::string& date) {
  const int year = std::stoi(date.substr(0, 4)), month = std::stoi(date.substr(5, 2));
  const auto is_leap = [](int y) { return y % 4 == 0 && (y % 100 != 0 || y % 400 == 0); };
  int64_t number = std::stoi(date.substr(8, 2));
  for (int y = 1900; y < year; ++y) number += is_leap(y) ? 366 : 365;
  const int kDays[] = {31, is_leap(year) ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return std::accumulate(kDays, kDays + month - 1, number);
}

TEST(TaskAnswers, Calendar) {
  static const std::vector<std::string> kWeek = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                                 "Friday", "Saturday", "Sunday"};
  // 1 January 1900, day 1, was a Monday.
  const auto weekday = [](int64_t day) { return kWeek[static_cast<size_t>((day - 1) % 7)]; };
  int64_t longest_easy = 0;
  for (int difficulty = 0; difficulty <= kMaxDifficulty; ++difficulty) {
    for (uint64_t index = 0; index < 60; ++index) {
      const Task task = make_task(TaskFamily::calendar, difficulty, 77, index);
      const std::vector<std::string> w = words(task.prompt);
      const std::string answer = task.answer.content.substr(8);
      if (w[0] == "Which") {
        EXPECT_EQ(day_number(answer), day_number(w[6]) + std::stoll(w[3])) << task.prompt;
      } else if (w[0] == "How") {
        EXPECT_EQ(std::stoll(answer), day_number(w[8]) - day_number(w[6])) << task.prompt;
      } else {
        const int64_t span = std::stoll(w[10]);
        EXPECT_EQ(w[3], weekday(day_number(w[0]))) << task.prompt;
        EXPECT_EQ(answer, weekday(day_number(w[0]) + span)) << task.prompt;
        if (difficulty == 0) longest_easy = std::max(longest_easy, span);
      }
    }
  }
  EXPECT_LE(longest_easy, 8);
}

TEST(TaskAnswers, Lookup) {
  for_each_task(TaskFamily::lookup, kMaxDifficulty, [](const std::string& prompt) {
    std::map<std::string, std::string> table;
    std::istringstream lines(prompt);
    std::string question;
    while (std::getline(lines, question)) {
      const size_t arrow = question.find(" -> ");
      if (arrow == std::string::npos) break;
      EXPECT_TRUE(table.emplace(question.substr(0, arrow), question.substr(arrow + 4)).second);
    }
    const std::vector<std::string> w = words(question);
    if (w[0] == "Where") return table.at(w[2]);
    std::string name = w[2];
    for (int64_t hops = std::stoll(w[7]); hops > 0; --hops) name = table.at(name);
    return name;
  });
}

TEST(TaskAnswers, Needles) {
  int64_t words_at_7 = 0;
  for_each_task(TaskFamily::needles, 7, [&](const std::string& prompt) {
    words_at_7 = static_cast<int64_t>(words(prompt).size());
    const std::string question = prompt.substr(prompt.rfind('\n') + 1);
    const std::vector<std::string> w = words(question);
    if (w[0] == "How") {
      const std::string mark = "Then " + w[4] + " rang the bell.";
      int64_t count = 0;
      for (size_t at = prompt.find(mark); at != std::string::npos; at = prompt.find(mark, at + 1))
        ++count;
      return std::to_string(count);
    }
    std::vector<std::string> codes;
    for (auto name = w.begin() + 5; *name != "in"; ++name) {
      codes.push_back(words(after(prompt, "The code of " + *name + " is "))[0]);
    }
    return list(codes);
  });
  EXPECT_GT(words_at_7, 32 * 128 * 8 / 10);
}

// One side of an equation with the unknowns' values in their places.
int64_t side_value(const std::string& side, const std::vector<int64_t>& values) {
  std::string text;
  for (const char c : side) {
    const size_t unknown = std::string("xyz").find(c);
    if (unknown == std::string::npos) {
      text += c;
    } else {
      const int64_t value = values.at(unknown);
      text += value < 0 ? "(0 - " + std::to_string(-value) + ")" : std::to_string(value);
    }
  }
  if (text[0] == '-') text = "0 " + text;
  const auto value = evaluate_expression(text);
  EXPECT_TRUE(value.has_value()) << text;
  return value.has_value() ? value->value : 0;
}
// How far an equation is from being true: left less right.
int64_t error_of(const std::string& equation, const std::vector<int64_t>& values) {
  const size_t equals = equation.find(" = ");
  return side_value(equation.substr(0, equals), values) -
         side_value(equation.substr(equals + 3), values);
}
int64_t determinant(const std::vector<std::vector<int64_t>>& m) {
  if (m.size() == 2) return m[0][0] * m[1][1] - m[0][1] * m[1][0];
  return m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) -
         m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0]) +
         m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
}

// The answer makes the equations true, and no other does: what they are linear in is read off by
// moving one unknown at a time.
TEST(TaskAnswers, Algebra) {
  size_t num_systems = 0, most_unknowns = 0;
  for (int difficulty = 0; difficulty <= kMaxDifficulty; ++difficulty) {
    for (uint64_t index = 0; index < 60; ++index) {
      const Task task = make_task(TaskFamily::algebra, difficulty, 77, index);
      SCOPED_TRACE(task.prompt + " " + task.answer.content);
      std::vector<int64_t> values;
      for (const std::string& value : words(task.answer.content.substr(8)))
        values.push_back(std::stoll(value));
      const size_t n = values.size();
      std::vector<std::string> equations;
      if (n == 1) {
        const std::string from = after(task.prompt, "Solve ");
        equations = {from.substr(0, from.find(" for x."))};
      } else {
        ++num_systems;
        std::istringstream rest(after(task.prompt, "Solve these equations: "));
        std::string all;
        std::getline(rest, all, '.');
        std::istringstream parts(all);
        for (std::string part; std::getline(parts, part, ';');)
          equations.push_back(part.substr(part[0] == ' ' ? 1 : 0));
      }
      most_unknowns = std::max(most_unknowns, n);
      ASSERT_EQ(equations.size(), n);
      std::vector<std::vector<int64_t>> coefficients;
      for (const std::string& equation : equations) {
        ASSERT_EQ(error_of(equation, values), 0) << equation;
        auto& row = coefficients.emplace_back();
        for (size_t unknown = 0; unknown < n; ++unknown) {
          std::vector<int64_t> moved = values;
          ++moved[unknown];
          row.push_back(error_of(equation, moved));
        }
      }
      ASSERT_NE(n == 1 ? coefficients[0][0] : determinant(coefficients), 0);
      // Each line of the way is true too.
      std::istringstream lines(task.reasoning);
      for (std::string line; std::getline(lines, line);) {
        for (size_t equals = line.find(" = "); equals != std::string::npos;) {
          const size_t next = line.find(" = ", equals + 3);
          const std::string left = line.substr(0, equals);
          // A quotient of negative numbers is no expression.
          if (left.find('/') == std::string::npos && line.find('/') == std::string::npos) {
            ASSERT_EQ(error_of(left + line.substr(equals, next - equals), values), 0) << line;
          }
          line = line.substr(equals + 3);
          equals = line.find(" = ");
        }
      }
      ASSERT_TRUE(task.reasoning.ends_with(" = " + std::to_string(values[0]) + "\n"));
    }
  }
  EXPECT_GT(num_systems, 300u);
  EXPECT_EQ(most_unknowns, 3u);
}

// Over one common denominator, and once more line by line.
TEST(TaskAnswers, Fractions) {
  const std::regex part(R"(([-+*/]) \(?(-?\d+)(?:/(\d+))?\)?)");
  const auto value = [&](const std::string& expression) {
    __int128 top = 0, bottom = 1;
    const std::string chain = "+ " + expression;
    for (std::sregex_iterator it(chain.begin(), chain.end(), part), end; it != end; ++it) {
      const char sign = (*it)[1].str()[0];
      const __int128 a = std::stoll((*it)[2]), b = (*it)[3].matched ? std::stoll((*it)[3]) : 1;
      if (sign == '*' || sign == '/') {
        top *= sign == '*' ? a : b;
        bottom *= sign == '*' ? b : a;
      } else {
        top = top * b + (sign == '+' ? a : -a) * bottom;
        bottom *= b;
      }
    }
    if (bottom < 0) top = -top, bottom = -bottom;
    __int128 x = top < 0 ? -top : top, y = bottom;
    while (y != 0) x = std::exchange(y, x % y);
    const std::string whole = std::to_string(static_cast<int64_t>(top / x));
    return bottom == x ? whole : whole + "/" + std::to_string(static_cast<int64_t>(bottom / x));
  };
  std::set<std::string> signs;
  for (int difficulty = 0; difficulty <= kMaxDifficulty; ++difficulty) {
    for (uint64_t index = 0; index < 60; ++index) {
      const Task task = make_task(TaskFamily::fractions, difficulty, 77, index);
      const std::string from = after(task.prompt, "Compute ");
      const std::string expression = from.substr(0, from.find(" as a fraction"));
      const std::string answer = task.answer.content.substr(8);
      ASSERT_EQ(value(expression), answer) << task.prompt;
      for (const char* sign : {" + ", " - ", " * ", " / "})
        if (expression.find(sign) != std::string::npos) signs.insert(sign);
      std::istringstream lines(task.reasoning);
      std::string last;
      for (std::string line; std::getline(lines, line);) {
        const size_t equals = line.find(" = ");
        last = line.substr(equals + 3);
        ASSERT_EQ(value(line.substr(0, equals)), last) << line;
      }
      ASSERT_EQ(last, answer);
      // Equal but not in lowest terms, or with a denominator of one, is not what was asked for.
      const size_t slash = answer.find('/');
      const std::string other = slash == std::string::npos
                                    ? answer + "/1"
                                    : std::to_string(2 * std::stoll(answer)) + "/" +
                                          std::to_string(2 * std::stoll(answer.substr(slash + 1)));
      ASSERT_FALSE(task.check({"Answer: " + other, {}}).correct);
    }
  }
  EXPECT_EQ(signs.size(), 4u);
}

// Every unit's size in the smallest that the facts know, by walking the facts until nothing
// changes.
TEST(TaskAnswers, Units) {
  int num_upwards = 0;
  for_each_task(TaskFamily::units, kMaxDifficulty, [&](const std::string& prompt) {
    const size_t question_at = prompt.find("How many ");
    const std::vector<std::string> facts = words(prompt.substr(0, question_at));
    const std::vector<std::string> question = words(prompt.substr(question_at));
    // How many of the unit asked for, as a ratio, one of each unit is.
    std::map<std::string, std::pair<int64_t, int64_t>> size = {{question[2], {1, 1}}};
    const auto lowest = [](int64_t a, int64_t b) {
      return std::pair(a / std::gcd(a, b), b / std::gcd(a, b));
    };
    for (size_t round = 0; round < facts.size(); ++round) {
      for (size_t i = 0; i + 4 < facts.size(); i += 5) {
        const std::string &unit = facts[i + 1], &part = facts[i + 4];
        const int64_t factor = std::stoll(facts[i + 3]);
        if (size.contains(part)) {
          const auto known = size[part];
          size[unit] = lowest(known.first * factor, known.second);
        } else if (size.contains(unit)) {
          const auto known = size[unit];
          size[part] = lowest(known.first, known.second * factor);
        }
      }
    }
    const auto ratio = size.at(question[5]);
    num_upwards += ratio.second > 1 ? 1 : 0;
    const int64_t count = std::stoll(question[4]) * ratio.first;
    EXPECT_EQ(count % ratio.second, 0);
    return std::to_string(count / ratio.second);
  });
  EXPECT_GT(num_upwards, 100);
}

// All ways to deal out pets and drinks, against the clues read from the text: one is left, and more
// without any one clue.
TEST(TaskAnswers, LogicGrids) {
  using Owners = std::vector<uint8_t>;  // the person of each item, people among them
  size_t most_clues = 0;
  for_each_task(TaskFamily::logic_grid, kMaxDifficulty, [&](const std::string& prompt) {
    const std::vector<std::string> people = words(prompt.substr(0, prompt.find(" each have")));
    std::vector<std::vector<std::string>> kinds;
    const std::string first_sentence = prompt.substr(0, prompt.find(". "));
    for (size_t open = first_sentence.find('('); open != std::string::npos;
         open = first_sentence.find('(', open + 1)) {
      kinds.push_back(
          words(first_sentence.substr(open + 1, first_sentence.find(')', open) - open - 1)));
      EXPECT_EQ(kinds.back().size(), people.size());
    }
    std::map<std::string, size_t> item_of;
    for (const std::string& person : people) item_of.emplace(person, item_of.size());
    for (const auto& kind : kinds)
      for (const std::string& item : kind) item_of.emplace(item, item_of.size());
    struct Clue {
      size_t subject, object;
      bool same;
    };
    std::vector<Clue> clues;
    const size_t list_at = prompt.find(" List the ");
    std::istringstream sentences(
        prompt.substr(first_sentence.size() + 1, list_at - first_sentence.size() - 1));
    for (std::string sentence; std::getline(sentences, sentence, '.');) {
      const std::vector<std::string> w = words(sentence);
      const bool same = std::find(w.begin(), w.end(), "not") == w.end();
      // "Ana ..", "The one with the cat ..", "The one who drinks tea .."
      const size_t subject = w[0] != "The" ? 0 : 4;
      clues.push_back({item_of.at(w[subject]), item_of.at(w.back()), same});
    }
    most_clues = std::max(most_clues, clues.size());
    Owners everyone(people.size());
    std::iota(everyone.begin(), everyone.end(), uint8_t{0});
    std::vector<Owners> grids = {everyone};
    for (size_t kind = 0; kind < kinds.size(); ++kind) {
      std::vector<Owners> longer;
      Owners dealt = everyone;
      do {
        for (Owners grid : grids) {
          grid.insert(grid.end(), dealt.begin(), dealt.end());
          longer.push_back(std::move(grid));
        }
      } while (std::next_permutation(dealt.begin(), dealt.end()));
      grids = std::move(longer);
    }
    // How many clues each breaks, and which if it is one alone.
    std::vector<bool> is_needed(clues.size(), false);
    const Owners* solution = nullptr;
    for (const Owners& grid : grids) {
      size_t num_broken = 0, broken = 0;
      for (size_t i = 0; i < clues.size() && num_broken < 2; ++i) {
        if ((grid[clues[i].subject] == grid[clues[i].object]) == clues[i].same) continue;
        ++num_broken;
        broken = i;
      }
      if (num_broken == 1) is_needed[broken] = true;
      if (num_broken > 0) continue;
      EXPECT_EQ(solution, nullptr) << "more than one solution";
      solution = &grid;
    }
    EXPECT_EQ(std::count(is_needed.begin(), is_needed.end(), false), 0) << "superfluous clues";
    if (solution == nullptr) return std::string("none");
    std::vector<std::string> answer;
    for (size_t person = 0; person < people.size(); ++person) {
      for (const std::string& item : kinds.back())
        if (solution->at(item_of.at(item)) == person) answer.push_back(item);
    }
    return list(answer);
  });
  EXPECT_GT(most_clues, 8u);
}

}  // namespace
}  // namespace cachalot::data
