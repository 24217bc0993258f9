#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {
constexpr std::string_view kUnknowns = "xyz";

// coefficients . unknowns = right
struct Equation {
  std::vector<int64_t> coefficients;
  int64_t right = 0;
};

// Appends a term of a sum: "3 * x", " - x", nothing for 0.
void append_term(std::string& sum, int64_t coefficient, std::string_view unknown) {
  if (coefficient == 0) return;
  const int64_t size = std::abs(coefficient);
  sum += sum.empty() ? (coefficient < 0 ? "-" : "") : (coefficient < 0 ? " - " : " + ");
  sum += unknown.empty() ? fmt::format("{}", size)
         : size == 1     ? std::string(unknown)
                         : fmt::format("{} * {}", size, unknown);
}

std::string equation_text(const Equation& equation) {
  std::string left;
  for (size_t i = 0; i < equation.coefficients.size(); ++i)
    append_term(left, equation.coefficients[i], kUnknowns.substr(i, 1));
  return fmt::format("{} = {}", left, equation.right);
}

// eliminated without its unknown `at`, by `from`; in lowest terms, the first coefficient positive.
void eliminate(Equation& eliminated, const Equation& from, size_t at) {
  const int64_t keep = from.coefficients[at], take = eliminated.coefficients[at];
  eliminated.right = keep * eliminated.right - take * from.right;
  int64_t divisor = std::abs(eliminated.right);
  for (size_t i = 0; i < eliminated.coefficients.size(); ++i) {
    eliminated.coefficients[i] = keep * eliminated.coefficients[i] - take * from.coefficients[i];
    divisor = std::gcd(divisor, eliminated.coefficients[i]);
  }
  if (divisor == 0) return;
  const auto first = std::find_if(eliminated.coefficients.begin(), eliminated.coefficients.end(),
                                  [](int64_t coefficient) { return coefficient != 0; });
  if (first != eliminated.coefficients.end() && *first < 0) divisor = -divisor;
  eliminated.right /= divisor;
  for (int64_t& coefficient : eliminated.coefficients) coefficient /= divisor;
}

// The way to the solution, which is in whole numbers; empty if the equations have more than one.
std::string solution_by_elimination(std::vector<Equation> equations) {
  const size_t n = equations.size();
  std::vector<std::string> steps;
  for (size_t at = 0; at < n; ++at) {
    const auto pivot =
        std::find_if(equations.begin() + static_cast<std::ptrdiff_t>(at), equations.end(),
                     [&](const Equation& equation) { return equation.coefficients[at] != 0; });
    if (pivot == equations.end()) return {};
    std::swap(equations[at], *pivot);
    for (size_t other = at + 1; other < n; ++other) {
      if (equations[other].coefficients[at] == 0) continue;
      eliminate(equations[other], equations[at], at);
      steps.push_back(equation_text(equations[other]));
    }
  }
  std::vector<int64_t> values(n);
  for (size_t at = n; at-- > 0;) {
    int64_t rest = equations[at].right;
    for (size_t known = at + 1; known < n; ++known)
      rest -= equations[at].coefficients[known] * values[known];
    values[at] = rest / equations[at].coefficients[at];
    std::string step = fmt::format("{} = {}", kUnknowns[at], values[at]);
    if (steps.empty() || steps.back() != step) steps.push_back(std::move(step));
  }
  return joined(steps, "\n") + "\n";
}

Task make_equation(int difficulty, Draw& draw) {
  const auto sign = [&](int from) { return difficulty >= from && draw.coin() ? -1 : 1; };
  const int64_t x = sign(2) * draw.digits(1 + difficulty / 4);
  const int64_t b = sign(1) * std::max<int64_t>(1, draw.digits(1 + difficulty / 3));
  const int64_t a = difficulty == 0 ? 1 : draw.between(2, difficulty < 6 ? 9 : 20);
  int64_t c = difficulty < 3 ? 0 : draw.between(1, difficulty < 6 ? 9 : 20);
  if (c >= a) ++c;
  const int64_t d = a * x + b - c * x;
  std::string left, right, collected, difference = fmt::format("{}", d);
  append_term(left, a, "x");
  append_term(left, b, "");
  append_term(right, c, "x");
  if (c == 0 || d != 0) append_term(right, d, "");
  if (right.empty()) right = "0";
  append_term(collected, a - c, "x");
  append_term(difference, -b, "");
  std::string reasoning = fmt::format("{} = {} = {}\n", collected, difference, d - b);
  if (a - c != 1) reasoning += fmt::format("x = {} / {} = {}\n", d - b, a - c, x);
  return exact_answer_task(fmt::format("Solve {} = {} for x.", left, right), std::move(reasoning),
                           fmt::format("{}", x));
}

Task make_system(int difficulty, Draw& draw) {
  const size_t n = difficulty >= 12 ? 3 : 2;
  std::vector<Equation> equations;
  std::vector<int64_t> values;
  std::string reasoning;
  while (reasoning.empty()) {
    values.clear();
    for (size_t i = 0; i < n; ++i) values.push_back(draw.between(-difficulty, 9 + difficulty));
    equations.assign(n, {});
    for (Equation& equation : equations) {
      for (size_t i = 0; i < n; ++i) {
        const int64_t size = draw.between(1, 2 + difficulty / 2);
        equation.coefficients.push_back(draw.coin() ? size : -size);
        equation.right += equation.coefficients[i] * values[i];
      }
    }
    reasoning = solution_by_elimination(equations);
  }
  std::vector<std::string> texts;
  texts.reserve(n);
  for (const Equation& equation : equations) texts.push_back(equation_text(equation));
  return exact_answer_task(
      fmt::format("Solve these equations: {}. Give {} in this order, separated by commas.",
                  joined(texts, "; "), n == 2 ? "x, y" : "x, y, z"),
      std::move(reasoning), fmt::format("{}", fmt::join(values, ", ")));
}
}  // namespace

// One equation: digits grow every third and fourth step, a factor of x from 1 on, negative
// solutions from 2 on, x on both sides from 3 on. From 4 on every second task is a system, of two
// equations and from 12 on of three. Solutions are whole numbers.
Task make_algebra(int difficulty, Draw draw) {
  return difficulty >= 4 && draw.coin() ? make_system(difficulty, draw)
                                        : make_equation(difficulty, draw);
}

}  // namespace cachalot::data
