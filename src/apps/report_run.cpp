#include "apps/report_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "base/file.h"
#include "base/json.h"
#include "formats/json_fields.h"
#include "train/metrics.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

std::string group_of(const std::string& name) {
  const size_t at = name.rfind("-s");
  if (at == std::string::npos || at == 0 || at + 2 == name.size()) return name;
  const bool is_seed = name.find_first_not_of("0123456789", at + 2) == std::string::npos;
  return is_seed ? name.substr(0, at) : name;
}

void add_lines(const std::vector<train::MetricsLine>& lines, ReportRun& run) {
  std::map<int64_t, double> tokens_of;
  for (const train::MetricsLine& line : lines) {
    if (!line.event.empty()) continue;
    const auto tokens = static_cast<double>(line.tokens);
    tokens_of[line.step] = tokens;
    run.num_steps = std::max(run.num_steps, line.step);
    run.num_tokens = std::max(run.num_tokens, tokens);
    for (const auto& [name, value] : line.values) run.series[name].emplace_back(tokens, value);
  }
  for (auto& [name, points] : run.series) {
    std::stable_sort(points.begin(), points.end(),
                     [](const ChartPoint& a, const ChartPoint& b) { return a.first < b.first; });
  }
  // An event stands where its step does, or the last one before it.
  for (const train::MetricsLine& line : lines) {
    if (line.event.empty()) continue;
    const auto after = tokens_of.upper_bound(line.step);
    const double tokens = after == tokens_of.begin() ? 0 : std::prev(after)->second;
    (line.event == "sample" ? run.samples : run.events)
        .push_back({line.step, tokens, line.event, line.detail});
  }
}

Result<ReportTask> read_task(std::string_view line, const std::string& origin) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(line, origin));
  const json::object* row = value.if_object();
  if (row == nullptr)
    return data_loss(
        fmt::format("{}: expected an object, found {}", origin, json_kind_name(value)));
  ReportTask task;
  formats::JsonFields fields(*row, origin);
  fields.integer("step", &task.step, 0, int64_t{1} << 40, true);
  fields.text("task", &task.name);
  fields.text("prompt", &task.prompt);
  const json::value* answers = fields.find("answers");
  if (answers == nullptr || !answers->is_array()) fields.fail("answers", "an array", "none");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  for (const json::value& one : answers->get_array()) {
    if (!one.is_object())
      return data_loss(
          fmt::format("{}: answers: expected objects, found {}", origin, json_kind_name(one)));
    ReportTask::Answer& answer = task.answers.emplace_back();
    formats::JsonFields of_answer(one.get_object(), origin, "answers.");
    of_answer.text("text", &answer.text);
    of_answer.text("end", &answer.end);
    of_answer.text("why", &answer.why);
    of_answer.real("reward", &answer.reward, -1e30, 1e30);
    CACHALOT_RETURN_IF_ERROR(of_answer.status());
  }
  return task;
}

Result<std::vector<ReportTask>> read_tasks(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  std::map<int64_t, ReportTask> by_step;
  std::string_view rest = text;
  for (int64_t line = 1; rest.find('\n') != std::string_view::npos; ++line) {
    const size_t end = rest.find('\n');
    CACHALOT_ASSIGN_OR_RETURN(ReportTask task,
                              read_task(rest.substr(0, end), fmt::format("{}:{}", path, line)));
    rest.remove_prefix(end + 1);
    by_step[task.step] = std::move(task);
  }
  std::vector<ReportTask> tasks;
  for (auto& [step, task] : by_step) tasks.push_back(std::move(task));
  return tasks;
}

}  // namespace

Result<ReportRun> read_report_run(const std::string& directory) {
  const fs::path base = fs::path(directory).lexically_normal();
  const std::string metrics = (base / "metrics.jsonl").string();
  const std::string toml = (base / "run.toml").string();
  std::error_code error;
  const bool has_metrics = fs::exists(metrics, error), has_toml = fs::exists(toml, error);
  if (!has_metrics && !has_toml) {
    return not_found(
        fmt::format("{}: expected a run's directory with run.toml or metrics.jsonl, found {}",
                    directory, fs::exists(base, error) ? "neither" : "no such path"));
  }
  ReportRun run;
  run.name =
      base.filename().empty() ? base.parent_path().filename().string() : base.filename().string();
  if (run.name.empty() || run.name == "." || run.name == "..")
    run.name = fs::absolute(base, error).lexically_normal().parent_path().filename().string();
  run.group = group_of(run.name);
  if (has_toml) {
    CACHALOT_ASSIGN_OR_RETURN(run.configuration, read_text_file(toml));
  }
  if (has_metrics) {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<train::MetricsLine> lines,
                              train::read_metrics(metrics));
    add_lines(lines, run);
  }
  if (const std::string samples = (base / "samples.jsonl").string(); fs::exists(samples, error)) {
    CACHALOT_ASSIGN_OR_RETURN(run.tasks, read_tasks(samples));
  }
  return run;
}

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  if (std::isfinite(sum) || values.empty()) return sum / static_cast<double>(values.size());
  sum = 0;
  for (const double value : values) sum += value / static_cast<double>(values.size());
  return std::clamp(sum, std::ranges::min(values), std::ranges::max(values));
}

std::vector<ChartPoint> smoothed(const std::vector<ChartPoint>& points) {
  const double width = std::max(2.0, static_cast<double>(points.size()) / 100);
  const double keep = 1 - 1 / width;
  double mean = 0, weight = 0;
  std::vector<ChartPoint> out;
  out.reserve(points.size());
  for (const auto& [x, y] : points) {
    if (!std::isfinite(y)) {
      out.emplace_back(x, y);
      continue;
    }
    weight = keep * weight + 1;
    mean = std::lerp(mean, y, 1 / weight);
    out.emplace_back(x, mean);
  }
  return out;
}

double final_value(const std::vector<ChartPoint>& points) {
  std::vector<double> finite;
  for (const ChartPoint& point : points) {
    if (std::isfinite(point.second)) finite.push_back(point.second);
  }
  if (finite.empty()) return std::numeric_limits<double>::quiet_NaN();
  return mean(std::span(finite).last(std::max<size_t>(1, finite.size() / 10)));
}

double value_at(const std::vector<ChartPoint>& points, double x) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  auto after = std::lower_bound(points.begin(), points.end(), x,
                                [](const ChartPoint& p, double at) { return p.first < at; });
  auto before = after;
  while (after != points.end() && !std::isfinite(after->second)) ++after;
  if (after == points.end()) return kNone;
  if (after->first == x) return after->second;
  do {
    if (before == points.begin()) return kNone;
    --before;
  } while (!std::isfinite(before->second));
  const double share = (x - before->first) / (after->first - before->first);
  return std::lerp(before->second, after->second, share);
}

}  // namespace cachalot::apps
