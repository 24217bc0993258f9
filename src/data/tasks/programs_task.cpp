// Functions of two integers to write from what they do, judged by running them.
#include <fmt/format.h>

#include "data/tasks/small_program.h"
#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {

struct Step {
  std::string told, line;
  std::function<int64_t(int64_t x, int64_t b)> does;
};

Step draw_step(int difficulty, Draw& draw) {
  const int64_t k = draw.between(2, 9);
  switch (draw.between(0, difficulty >= 3 ? 5 : 3)) {
    case 0:
      return {fmt::format("add {}", k), fmt::format("x = x + {}", k),
              [k](int64_t x, int64_t) { return x + k; }};
    case 1:
      return {fmt::format("subtract {}", k), fmt::format("x = x - {}", k),
              [k](int64_t x, int64_t) { return x - k; }};
    case 2:
      return {fmt::format("multiply by {}", k), fmt::format("x = x * {}", k),
              [k](int64_t x, int64_t) { return x * k; }};
    case 3: return {"add b", "x = x + b", [](int64_t x, int64_t b) { return x + b; }};
    case 4:
      return {fmt::format("take the remainder by {}", k), fmt::format("x = x % {}", k),
              [k](int64_t x, int64_t) { return (x % k + k) % k; }};
    default:
      return {fmt::format("if it is more than {}, subtract b", k),
              fmt::format("if x > {}:\n        x = x - b", k),
              [k](int64_t x, int64_t b) { return x > k ? x - b : x; }};
  }
}

}  // namespace

// 1 + difficulty / 2 steps; remainders and conditions from 3 on.
Task make_programs(int difficulty, Draw draw) {
  Task task;
  std::vector<Step> steps;
  task.prompt = "Write a Python function f(a, b). Start with a";
  task.answer.content = "def f(a, b):\n    x = a\n";
  for (int i = 0; i <= difficulty / 2; ++i) {
    const Step& step = steps.emplace_back(draw_step(difficulty, draw));
    task.prompt += ", " + step.told;
    task.answer.content += "    " + step.line + "\n";
  }
  task.prompt += ". Return the result. Reply with the function alone.";
  task.answer.content += "    return x";
  constexpr int kNumTests = 8;
  std::vector<std::pair<int64_t, int64_t>> inputs;
  for (int i = 0; i < kNumTests; ++i)
    inputs.emplace_back(draw.between(-20, 20), draw.between(-20, 20));
  task.check = [steps, inputs](const Reply& reply) -> Verdict {
    const Result<SmallProgram> program = SmallProgram::parse(reply.content);
    if (!program) return {.correct = false, .why = program.error().message()};
    for (const auto& [a, b] : inputs) {
      int64_t expected = a;
      for (const Step& step : steps) expected = step.does(expected, b);
      const int64_t arguments[] = {a, b};
      const Result<int64_t> found = program->run(arguments);
      if (!found) return {.correct = false, .why = found.error().message()};
      if (*found != expected) {
        return {.correct = false,
                .why = fmt::format("f({}, {}): expected {}, found {}", a, b, expected, *found)};
      }
    }
    return {.correct = true, .why = {}};
  };
  return task;
}

}  // namespace cachalot::data
