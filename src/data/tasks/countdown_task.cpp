#include <fmt/format.h>

#include <algorithm>

#include "data/tasks/expression.h"
#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {

struct Part {
  std::string text;
  int64_t value = 0;
  bool is_number = true;  // needs no parentheses
};

std::string factor(const Part& part) { return part.is_number ? part.text : "(" + part.text + ")"; }

// Two parts by an operation whose result is a positive number that is not too large.
Part combine(const Part& a, const Part& b, Draw& draw) {
  switch (draw.between(0, 3)) {
    case 1:
      if (a.value > b.value) {
        return {fmt::format("{} - {}", factor(a), factor(b)), a.value - b.value, false};
      }
      break;
    case 2:
      if (a.value * b.value <= 10000) {
        return {fmt::format("{} * {}", factor(a), factor(b)), a.value * b.value, false};
      }
      break;
    case 3:
      if (b.value > 1 && a.value % b.value == 0) {
        return {fmt::format("{} / {}", factor(a), factor(b)), a.value / b.value, false};
      }
      break;
    default: break;
  }
  return {fmt::format("{} + {}", factor(a), factor(b)), a.value + b.value, false};
}

Verdict check_countdown(const Reply& reply, std::vector<int64_t> allowed, int64_t target) {
  const auto given = answer_line(reply.content);
  if (!given) return {.correct = false, .why = "no answer line"};
  const auto result = evaluate_expression(*given);
  if (!result) return {.correct = false, .why = result.error().message()};
  for (const int64_t number : result->numbers) {
    const auto found = std::find(allowed.begin(), allowed.end(), number);
    if (found == allowed.end()) {
      return {.correct = false, .why = fmt::format("{} is not there, or used too often", number)};
    }
    allowed.erase(found);
  }
  if (result->value == target) return {.correct = true, .why = {}};
  return {.correct = false, .why = fmt::format("expected {}, found {}", target, result->value)};
}
}  // namespace

// 2 + difficulty / 3 numbers up to 10 + 5 * difficulty, of which one may be left over from 4 on.
Task make_countdown(int difficulty, Draw draw) {
  const int64_t count = 2 + difficulty / 3;
  std::vector<int64_t> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(draw.between(1, 10 + 5 * difficulty));
  std::vector<Part> parts;
  parts.reserve(numbers.size());
  for (const int64_t number : numbers) parts.push_back({fmt::format("{}", number), number, true});
  if (difficulty >= 4 && draw.coin()) parts.pop_back();
  std::string reasoning;
  while (parts.size() > 1) {
    draw.shuffle(parts);
    const Part b = parts.back();
    parts.pop_back();
    Part joined_part = combine(parts.back(), b, draw);
    reasoning += fmt::format("{} = {}\n", joined_part.text, joined_part.value);
    parts.back() = std::move(joined_part);
  }
  const int64_t target = parts[0].value;
  draw.shuffle(numbers);
  Task task;
  task.prompt = fmt::format(
      "Reach {} with the numbers {} and + - * / ( ). Use each number at most once.\nEnd with a "
      "line \"Answer: \" and "
      "the expression alone.",
      target, fmt::join(numbers, ", "));
  task.reasoning = std::move(reasoning);
  task.answer.content = "Answer: " + parts[0].text;
  task.check = [numbers, target](const Reply& reply) {
    return check_countdown(reply, numbers, target);
  };
  return task;
}

}  // namespace cachalot::data
