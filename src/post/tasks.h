// The tasks that reinforcement learning draws from, each with the checker of its answers.
// Sources  a file of jsonl, a row: {"prompt": text, or "messages": [...], "check": {...}, "id":
//          text} (checker.h; messages as text/chat_message.h reads them; {"kind": "rubric"} is
//          rubric.h's, with "audit", a checker that looks over the judges); or {"judge": {"task",
//          "answer", "items", "most"}, "check": {"kind": "verdict", "scores": [...]}}: an answer to
//          judge, whose reward is its agreement with these scores; or a family of generated tasks
//          (data/tasks/task.h), of which there is no end.
// Drawing  a pure function of sources, seed and the task's place in the run: a source by its
//          weight, then its next row, in an order that is shuffled anew whenever it is through.
// Bad rows are left out; how many, and what is wrong with the first few, is told.
// Errors   not_found, io_error; invalid_argument: a file without one good row.
// Threads  one at a time.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/tasks/task.h"
#include "post/checker.h"
#include "post/rubric.h"
#include "text/chat_message.h"

namespace cachalot::post {

struct TaskEntry {
  std::string name;
  std::string path = {};    // of jsonl; or
  std::string family = {};  // generated
  int64_t difficulty = 0;
  double weight = 1;
  // How it is asked and what it may take; of every task of the entry.
  std::string effort = "none";  // none: no thinking; low, high, max (text/chat_encoding.h)
  int64_t max_new_tokens = 0;   // the answer's window; longer ones are wrong
  double length_penalty = 0;    // LengthPenalty
};

struct RlTask {
  std::string id;
  text::ChatRequest request;
  std::string prompt;  // of a raw prompt; else the only user message's text
  std::function<Result<Reward>(const data::Reply&)> check;
  // What judges score its answers by; check then is what looks over the judges, or empty.
  std::optional<Rubric> rubric;
  std::string schema;  // that binds its answers; empty: any text
  std::function<std::unique_ptr<data::ToolEnvironment>()> environment;  // empty: no tools
};

// A reward falls with the length of its reasoning: by min(most, factor * tokens / per_tokens).
// Source  reference/post-training 3.
struct LengthPenalty {
  double factor = 0;
  double per_tokens = 1000;
  double most = 1;
  double of(int64_t num_tokens) const;
};

struct BadRows {
  int64_t count = 0;
  std::vector<std::string> first;  // what is wrong with a few
};

class TaskSource {
 public:
  static Result<TaskSource> open(TaskEntry entry, uint64_t seed);

  const TaskEntry& entry() const { return entry_; }
  bool has_rubrics() const;  // any of its tasks
  const BadRows& bad_rows() const { return bad_rows_; }
  int64_t num_tasks() const { return static_cast<int64_t>(rows_.size()); }  // 0: without end
  RlTask task(int64_t draw) const;  // of all draws from this source, from 0

 private:
  TaskSource(TaskEntry entry, uint64_t seed) : entry_(std::move(entry)), seed_(seed) {}
  Status read_rows();

  TaskEntry entry_;
  uint64_t seed_;
  std::vector<RlTask> rows_;
  BadRows bad_rows_;
};

// Which source a task comes from, and the how many-eth draw of that source it is: of the tasks
// `first`, first + 1, ... of a run. Each time the source is next whose draws have fallen furthest
// behind its weight.
struct TaskPlace {
  size_t source;
  int64_t draw;
};
std::vector<TaskPlace> task_places(std::span<const TaskSource> sources, int64_t first,
                                   int64_t count);

}  // namespace cachalot::post
