// What a run directory holds for its report: run.toml and metrics.jsonl, as series over tokens, and
// samples.jsonl (post/rl_run.h).
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "apps/svg_chart.h"
#include "base/status.h"

namespace cachalot::apps {

struct ReportEvent {
  int64_t step = 0;
  double tokens = 0;
  std::string name;
  std::string detail;
};

// What a policy answered to one task of a step.
struct ReportTask {
  struct Answer {
    std::string text, end, why;
    double reward = 0;
  };
  int64_t step = 0;
  std::string name, prompt;
  std::vector<Answer> answers;
};

struct ReportRun {
  std::string name;   // the directory's own
  std::string group;  // the name without "-s<digits>": runs that differ in their seed alone
  std::string configuration;
  // by metric; x: tokens seen, y: NaN where the log has null
  std::map<std::string, std::vector<ChartPoint>> series;
  std::vector<ReportEvent> events;
  std::vector<ReportEvent> samples;  // what the model wrote at its evaluations
  std::vector<ReportTask> tasks;     // of samples.jsonl, a step each, ascending
  int64_t num_steps = 0;             // the last one's number
  double num_tokens = 0;
};

// A run without metrics.jsonl (or an empty one) has no series; a directory with neither file is
// not_found. A torn last line of samples.jsonl is left out; of a step that was taken again its last
// line stands.
Result<ReportRun> read_report_run(const std::string& directory);

// NaN where one is, or where there is none; finite where all are.
double mean(std::span<const double> values);

// Exponential mean over a hundredth of the points (at least 2), as if the series had always been
// its first values; gaps stay gaps.
std::vector<ChartPoint> smoothed(const std::vector<ChartPoint>& points);

// The mean of the last tenth of the finite values, at least one; NaN if there are none.
double final_value(const std::vector<ChartPoint>& points);

// y at x by straight lines between finite points; NaN outside of them.
double value_at(const std::vector<ChartPoint>& points, double x);

}  // namespace cachalot::apps
