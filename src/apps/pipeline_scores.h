// What a pipeline's evaluations come to, and whether what its author claims of them holds.
// Scores  of a stage whose output ends in evaluate's JSON object (--json): by task (family or file,
//         with its difficulty).
// Claims  of the mean over tasks of one stage's value: at least `by` above the best of others' (or
//         above 0 where there are none). A share's value is in points of a hundred, and its
//         interval that of a difference of independent shares at 95 %, by Agresti and Caffo.
// Threads pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::apps {

struct TaskScore {
  std::string task;  // "arithmetic 3", "arithmetic 3 high"
  int64_t correct = 0, count = 0;
  int64_t tokens = 0, reasoning = 0;
};
struct StageScores {
  std::string stage;
  std::vector<TaskScore> tasks;
};

// Of what a stage has printed; none: it is no evaluation.
std::optional<StageScores> scores_of(std::string stage, std::string_view printed);
int64_t total_correct(const StageScores& scores);
int64_t total_count(const StageScores& scores);

struct PipelineClaim {
  std::string text;
  std::string stage;
  std::vector<std::string> than;  // stages
  // "arithmetic 3", or "arithmetic" of any difficulty; empty: all. Of the others, if they differ.
  std::vector<std::string> tasks, than_tasks;
  std::string measure = "correct";  // or "reasoning", "tokens": a task's
  double by = 0;
};

struct ClaimVerdict {
  enum class Kind { open, holds, fails };
  Kind kind = Kind::open;
  std::string why;  // in words and numbers
};
std::string_view verdict_word(ClaimVerdict::Kind kind);
ClaimVerdict judge_claim(const PipelineClaim& claim, const std::vector<StageScores>& scores);

// HTML: the claims with what became of them, a chart of shares with their intervals, a table.
std::string scores_section(const std::vector<PipelineClaim>& claims,
                           const std::vector<StageScores>& scores);

}  // namespace cachalot::apps
