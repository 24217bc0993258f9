// Verifiable tasks: questions made by seeded generators, each with the checker of its answers, for
// reinforcement learning and for evaluation.
// Source   data-sources.md 4, reference/post-training (easy to verify: rules, verifiers).
// Exact    A task is a pure function of (family, difficulty, seed, index). Checkers are pure
//          functions of the reply; any bytes are safe to give.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_message.h"

namespace cachalot::data {

enum class TaskFamily {
  arithmetic,    // sums, differences and products of integers
  numbers,       // gcd, remainders, bases
  sorting,       // numbers or words, by rules
  string_edits,  // a chain of edits of one word
  calendar,      // weekdays, dates, days between
  countdown,     // reach a number with some given ones
  lookup,        // follow keys through a table
  needles,       // facts in a long text
  constraints,   // write under rules of form
  tools,         // change a state through tools
  algebra,       // linear equations and systems
  fractions,     // sums and products in lowest terms
  units,         // conversions along a chain of units
  logic_grid,    // who has what, by clues
  programs,      // write a small program, which is run
  friends,       // tools over accounts of everyday names, a change at least
  quick,         // quick instructions: an action, a domain, a title
  sums,          // digits added and subtracted one after another
  repeats,       // say again what was said
};
inline constexpr int kNumTaskFamilies = 19;
// Difficulty 0 is meant to be learnable by a model of ten million parameters; each step adds
// digits, items, hops or rules. The needles' text doubles with each: 32 words at 0, a million at
// 15.
inline constexpr int kMaxDifficulty = 20;

std::string_view task_family_name(TaskFamily family);
std::optional<TaskFamily> parse_task_family(std::string_view name);
std::span<const TaskFamily> task_families();

// What a policy gave, without its reasoning: the last turn's text and the tool calls of all turns
// in their order.
struct Reply {
  std::string content;
  std::vector<text::ToolCall> tool_calls;
};

struct Verdict {
  bool correct = false;
  std::string why;  // what is wrong, for logs; empty if correct
};

// The world behind a task's tools. One per episode, one thread.
class ToolEnvironment {
 public:
  virtual ~ToolEnvironment() = default;
  // The tool's result as JSON text. A wrong call gives {"error": "..."} and changes nothing.
  virtual std::string call(const text::ToolCall& call) = 0;
};

struct Task {
  TaskFamily family = TaskFamily::arithmetic;
  int difficulty = 0;
  std::string prompt;
  // Of a quick instruction (reference/chat 2.9): its name, and what the assistant has said before
  // it is asked, if anything.
  std::string quick, said;
  std::vector<text::ToolDefinition> tools;
  std::string reasoning;  // a short way to the answer; empty where there is none to tell
  Reply answer;           // one that the checker accepts; there may be others
  std::function<Verdict(const Reply&)> check;
  // A fresh world for an episode; empty where there are no tools.
  std::function<std::unique_ptr<ToolEnvironment>()> environment;
};

// difficulty in [0, kMaxDifficulty].
Task make_task(TaskFamily family, int difficulty, uint64_t seed, uint64_t index);

// What stands behind the last "Answer:" that begins a line, to the line's end, without outer
// spaces. Nothing if there is none.
std::optional<std::string_view> answer_line(std::string_view content);

}  // namespace cachalot::data
