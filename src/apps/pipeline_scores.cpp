#include "apps/pipeline_scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/svg_chart.h"
#include "base/json.h"
#include "post/share_interval.h"

namespace cachalot::apps {
namespace {

// The last line that is not empty.
std::string_view last_line(std::string_view text) {
  const size_t end = text.find_last_not_of(" \r\n");
  if (end == std::string_view::npos) return {};
  const std::string_view until = text.substr(0, end + 1);
  return until.substr(until.rfind('\n') + 1);
}

int64_t integer_at(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value != nullptr && value->is_int64() ? value->get_int64() : 0;
}

// The tasks that are called so; else those whose name goes on behind it.
bool names(const StageScores& scores, const std::vector<std::string>& wanted,
           const std::string& task) {
  return wanted.empty() || std::ranges::any_of(wanted, [&](const std::string& name) {
           const bool is_whole =
               std::ranges::find(scores.tasks, name, &TaskScore::task) != scores.tasks.end();
           return task == name || (!is_whole && task.starts_with(name + " "));
         });
}

struct Value {
  double mean = 0, variance = 0;
};
// Over these tasks; none: the stage has none of them.
std::optional<Value> value_of(const PipelineClaim& claim, const std::vector<std::string>& tasks,
                              const StageScores& scores) {
  Value value;
  int64_t num_tasks = 0;
  for (const TaskScore& task : scores.tasks) {
    if (!names(scores, tasks, task.task) || task.count == 0) continue;
    ++num_tasks;
    const auto n = static_cast<double>(task.count);
    if (claim.measure != "correct") {
      value.mean +=
          static_cast<double>(claim.measure == "tokens" ? task.tokens : task.reasoning) / n;
      continue;
    }
    value.mean += 100 * static_cast<double>(task.correct) / n;
    // One right and one wrong more, so that none of a few is not certainty (Agresti and Caffo).
    const double share = (static_cast<double>(task.correct) + 1) / (n + 2);
    value.variance += 1e4 * share * (1 - share) / (n + 2);
  }
  if (num_tasks == 0) return {};
  value.mean /= static_cast<double>(num_tasks);
  value.variance /= static_cast<double>(num_tasks * num_tasks);
  return value;
}

const StageScores* find(const std::vector<StageScores>& scores, const std::string& stage) {
  const auto found = std::ranges::find(scores, stage, &StageScores::stage);
  return found == scores.end() ? nullptr : &*found;
}

std::string share_text(const TaskScore& task) {
  const post::Interval interval = post::share_interval(task.correct, task.count);
  return fmt::format("{:.1f} % ({:.1f} to {:.1f})",
                     100 * static_cast<double>(task.correct) /
                         static_cast<double>(std::max<int64_t>(1, task.count)),
                     100 * interval.low, 100 * interval.high);
}

// A dot for each stage and task, with its interval.
std::string shares_chart(const std::vector<StageScores>& scores) {
  constexpr double kRow = 18, kLeft = 260, kPlot = 320, kTop = 22;
  std::string marks;
  double y = kTop;
  for (const StageScores& stage : scores) {
    for (const TaskScore& task : stage.tasks) {
      const post::Interval interval = post::share_interval(task.correct, task.count);
      const auto x = [&](double share) { return kLeft + kPlot * share; };
      marks += fmt::format(
          "<text class=\"tick\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>"
          "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\" stroke=\"currentColor\"/>"
          "<circle cx=\"{:.1f}\" cy=\"{}\" r=\"3.5\" fill=\"currentColor\"/>\n",
          kLeft - 8, y + 4, escape_html(stage.stage + ": " + task.task), x(interval.low),
          x(interval.high), y, y,
          x(static_cast<double>(task.correct) /
            static_cast<double>(std::max<int64_t>(1, task.count))),
          y);
      y += kRow;
    }
  }
  std::string grid;
  for (int percent = 0; percent <= 100; percent += 25) {
    const double x = kLeft + kPlot * percent / 100.0;
    grid += fmt::format(
        "<line x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\" stroke=\"currentColor\" "
        "stroke-opacity=\"0.2\"/><text class=\"tick\" x=\"{0}\" y=\"12\" "
        "text-anchor=\"middle\">{3} %</text>\n",
        x, kTop - 6, y, percent);
  }
  return fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" style=\"max-width:44rem;font-size:11px\" "
      "fill=\"currentColor\"><title>shares of right answers, with intervals at 95 %</title>\n"
      "{}{}</svg>\n",
      kLeft + kPlot + 24, y, grid, marks);
}

}  // namespace

std::optional<StageScores> scores_of(std::string stage, std::string_view printed) {
  const Result<json::value> value = parse_json(last_line(printed), stage);
  const json::object* object = value ? value->if_object() : nullptr;
  const json::value* tasks = object == nullptr ? nullptr : object->if_contains("tasks");
  if (tasks == nullptr || !tasks->is_array()) return {};
  StageScores scores{std::move(stage), {}};
  for (const json::value& row : tasks->get_array()) {
    const json::object* task = row.if_object();
    const json::value* family = task == nullptr ? nullptr : task->if_contains("family");
    if (family == nullptr || !family->is_string()) return {};
    const json::value* effort = task->if_contains("effort");
    const bool thinks = effort != nullptr && effort->is_string() && *effort != "none";
    scores.tasks.push_back({fmt::format("{} {}{}", std::string_view(family->get_string()),
                                        integer_at(*task, "difficulty"),
                                        thinks ? " " + std::string(effort->get_string()) : ""),
                            integer_at(*task, "correct"), integer_at(*task, "count"),
                            integer_at(*task, "tokens"), integer_at(*task, "reasoning")});
  }
  return scores;
}

int64_t total_correct(const StageScores& scores) {
  int64_t sum = 0;
  for (const TaskScore& task : scores.tasks) sum += task.correct;
  return sum;
}

int64_t total_count(const StageScores& scores) {
  int64_t sum = 0;
  for (const TaskScore& task : scores.tasks) sum += task.count;
  return sum;
}

std::string_view verdict_word(ClaimVerdict::Kind kind) {
  switch (kind) {
    case ClaimVerdict::Kind::open: return "open";
    case ClaimVerdict::Kind::holds: return "holds";
    case ClaimVerdict::Kind::fails: return "does not hold";
  }
  return "";
}

ClaimVerdict judge_claim(const PipelineClaim& claim, const std::vector<StageScores>& scores) {
  const auto value = [&](const std::string& stage,
                         const std::vector<std::string>& tasks) -> std::optional<Value> {
    const StageScores* found = find(scores, stage);
    return found == nullptr ? std::nullopt : value_of(claim, tasks, *found);
  };
  const std::optional<Value> own = value(claim.stage, claim.tasks);
  if (!own) return {ClaimVerdict::Kind::open, "no scores of " + claim.stage};
  Value best;
  std::string best_name;
  for (const std::string& stage : claim.than) {
    const std::optional<Value> other =
        value(stage, claim.than_tasks.empty() ? claim.tasks : claim.than_tasks);
    if (!other) return {ClaimVerdict::Kind::open, "no scores of " + stage};
    if (best_name.empty() || other->mean > best.mean) {
      best = *other;
      best_name = stage;
    }
  }
  const double above = own->mean - best.mean;
  const ClaimVerdict::Kind kind =
      above >= claim.by ? ClaimVerdict::Kind::holds : ClaimVerdict::Kind::fails;
  std::string why = fmt::format("{:.1f}", own->mean);
  if (!best_name.empty())
    why += fmt::format(" against {:.1f} of {}: {:+.1f}", best.mean, best_name, above);
  constexpr double kZ = 1.959963984540054;
  const double half = kZ * std::sqrt(own->variance + best.variance);
  if (claim.measure == "correct") {
    why += fmt::format(" +- {:.1f}", half);
    if (std::abs(above - claim.by) < half) why += ", within what chance does";
  }
  return {kind, why};
}

std::string scores_section(const std::vector<PipelineClaim>& claims,
                           const std::vector<StageScores>& scores) {
  if (scores.empty()) return {};
  std::string html = "<h1>Scores</h1>\n";
  if (!claims.empty()) {
    html += "<table>\n";
    for (const PipelineClaim& claim : claims) {
      const ClaimVerdict verdict = judge_claim(claim, scores);
      html += fmt::format("<tr><td>{}</td><td><b>{}</b></td><td>{}</td></tr>\n",
                          escape_html(claim.text), verdict_word(verdict.kind),
                          escape_html(verdict.why));
    }
    html += "</table>\n";
  }
  html += shares_chart(scores) +
          "<details><summary>Numbers</summary><table>\n<tr><th>stage</th><th>task</th><th>right "
          "(95 %)</th><th>of</th><th>tokens</th><th>reasoning</th></tr>\n";
  for (const StageScores& stage : scores) {
    for (const TaskScore& task : stage.tasks) {
      const auto n = static_cast<double>(std::max<int64_t>(1, task.count));
      html += fmt::format(
          "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1f}</td><td>{:.1f}</td></tr>\n",
          escape_html(stage.stage), escape_html(task.task), share_text(task), task.count,
          static_cast<double>(task.tokens) / n, static_cast<double>(task.reasoning) / n);
    }
  }
  return html + "</table></details>\n";
}

}  // namespace cachalot::apps
