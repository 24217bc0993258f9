#include "apps/report_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "base/check.h"

namespace cachalot::apps {
namespace {

constexpr size_t kNumColors = 8;
constexpr double kCutShare = 0.04;
constexpr size_t kColumns = 500;  // of a drawn line; about one a pixel

// A metric's name, or "begin*end": every metric between.
struct ChartOfMetrics {
  std::string title;
  std::vector<std::string> metrics;
  bool is_noisy = true;
  bool may_be_log = true;
  // the first values, which are far above the rest, do not stretch the axis
  bool cuts_start = false;
};

const std::vector<ChartOfMetrics>& standard_charts() {
  static const std::vector<ChartOfMetrics> kCharts = {
      {"Loss", {"loss/lm", "loss/mtp"}, true, false, true},
      {"Validation loss", {"validation/*/loss"}, false},
      {"Validation, bits per byte", {"validation/*/bits_per_byte"}, false},
      {"Reward", {"reward/mean", "reward/correct", "reward/truncated"}, true, false},
      {"Right by task", {"task/*/correct"}, true, false},
      {"Judges", {"judge/score", "judge/audit", "judge/unparseable"}, true, false},
      {"Tokens of an answer", {"length/mean", "length/reasoning"}, true, false},
      {"Tokens of reasoning by task", {"task/*/reasoning"}, true, false},
      {"Divergence from the reference", {"policy/kl"}},
      {"Divergence from the teachers", {"distill/divergence"}},
      {"Divergence from the teachers by task", {"task/*/divergence"}},
      {"Entropy", {"policy/entropy"}},
      {"Ratio to the sampler", {"policy/ratio", "policy/first_ratio"}, true, false},
      {"Clipped, masked and flat shares",
       {"policy/clipped", "policy/masked", "policy/flat"},
       true,
       false},
      {"Staleness, steps", {"policy/staleness"}, false, false},
      {"Drafts", {"throughput/drafts", "throughput/accepted_drafts"}, true, false},
      {"Seconds by phase", {"time/rollouts", "time/rewards", "time/updates", "time/teachers"}},
      {"Balance loss", {"loss/balance"}},
      {"Indexer's divergence", {"loss/indexer_kl"}},
      {"Learning rate", {"optimizer/learning_rate", "policy/learning_rate"}, false, false},
      {"Gradient norm", {"optimizer/grad_norm", "policy/grad_norm"}},
      {"Tokens per second", {"throughput/tokens_per_s"}},
      {"Expert load, greatest over mean", {"load/max_over_mean"}},
      {"Clamped values per step", {"clamp/gate_above", "clamp/up_above", "clamp/up_below"}},
      {"Largest activation of the residual stream", {"activation/max_stream"}},
      {"Update RMS over tensors", {"update_rms_min", "update_rms_mean", "update_rms_max"}, false},
      {"FP4 recasts: blocks", {"qat/blocks_over_limit", "qat/inexact_blocks"}},
  };
  return kCharts;
}

bool matches(const std::string& pattern, const std::string& name) {
  const size_t star = pattern.find('*');
  if (star == std::string::npos) return pattern == name;
  return name.size() >= pattern.size() && name.starts_with(pattern.substr(0, star)) &&
         name.ends_with(pattern.substr(star + 1));
}

std::vector<std::string> matching(const std::vector<std::string>& patterns,
                                  const std::set<std::string>& names) {
  std::vector<std::string> out;
  for (const std::string& pattern : patterns) {
    for (const std::string& name : names) {
      if (matches(pattern, name)) out.push_back(name);
    }
  }
  return out;
}

bool has_finite(const std::vector<ChartPoint>& points) {
  return std::any_of(points.begin(), points.end(),
                     [](const ChartPoint& p) { return std::isfinite(p.second); });
}

bool is_zero(const std::vector<ChartPoint>& points) {
  return std::all_of(points.begin(), points.end(),
                     [](const ChartPoint& p) { return p.second == 0 || !std::isfinite(p.second); });
}

// The x axis ends where the run does, without a rounder end.
ChartAxis token_axis(double max) {
  ChartAxis axis = linear_axis("tokens", 0, max);
  axis.max = std::max(max, 1.0);
  std::erase_if(axis.ticks, [&](const ChartTick& tick) { return tick.at > axis.max * 1.0001; });
  return axis;
}

std::set<std::string> names_of(const std::vector<const ReportRun*>& runs) {
  std::set<std::string> names;
  for (const ReportRun* run : runs) {
    for (const auto& [name, points] : run->series) names.insert(name);
  }
  return names;
}

// Of a metric that stands in one.
const ChartOfMetrics& standard_chart_of(const std::string& metric) {
  const auto found = std::find_if(
      standard_charts().begin(), standard_charts().end(),
      [&](const ChartOfMetrics& chart) { return !matching(chart.metrics, {metric}).empty(); });
  CACHALOT_CHECK(found != standard_charts().end());
  return *found;
}

double axis_start(const ChartOfMetrics& chart, double num_tokens) {
  return chart.cuts_start ? kCutShare * num_tokens : 0;
}

struct GroupCourse {
  std::vector<ChartPoint> mean;
  ChartBand band;
};

// One run: its own points. Several: their mean at even places that all of them reach.
GroupCourse course_of(const ReportGroup& group, const std::string& metric, bool is_noisy) {
  std::vector<std::vector<ChartPoint>> all;
  for (const ReportRun* run : group.runs) {
    const auto found = run->series.find(metric);
    if (found != run->series.end() && has_finite(found->second))
      all.push_back(is_noisy ? smoothed(found->second) : found->second);
  }
  GroupCourse out;
  if (all.size() < 2) {
    if (!all.empty()) out.mean = thin_points(all[0], kColumns);
    return out;
  }
  double begin = 0, end = all[0].back().first;
  for (const std::vector<ChartPoint>& points : all) {
    begin = std::max(begin, points.front().first);
    end = std::min(end, points.back().first);
  }
  const size_t count = std::min<size_t>(kColumns / 2, all[0].size());
  for (size_t i = 0; i < count && begin <= end; ++i) {
    const double share = count == 1 ? 1 : static_cast<double>(i) / static_cast<double>(count - 1);
    const double x = i + 1 == count ? end : begin + (end - begin) * share;
    std::vector<double> values;
    for (const std::vector<ChartPoint>& points : all) values.push_back(value_at(points, x));
    const double middle = mean(values);
    if (!std::isfinite(middle)) continue;
    out.mean.emplace_back(x, middle);
    out.band.x.push_back(x);
    out.band.low.push_back(std::ranges::min(values));
    out.band.high.push_back(std::ranges::max(values));
  }
  return out;
}

}  // namespace

std::string line_color(size_t i) { return fmt::format("var(--line-{})", i % kNumColors); }

std::string event_color(const std::string& event) {
  return event == "spike"      ? "var(--spike)"
         : event == "rollback" ? "var(--rollback)"
                               : "var(--other-event)";
}

std::vector<ReportChart> charts_of(const ReportRun& run) {
  const std::set<std::string> names = names_of({&run});
  std::vector<ReportChart> charts;
  for (const ChartOfMetrics& wanted : standard_charts()) {
    ReportChart chart;
    chart.title = chart.drawing.title = wanted.title;
    size_t color = 0;
    for (const std::string& name : matching(wanted.metrics, names)) {
      const std::vector<ChartPoint>& points = run.series.at(name);
      if (!has_finite(points)) continue;
      if (is_zero(points)) {
        chart.zeros.push_back(name);
        continue;
      }
      const std::string shown = line_color(color++);
      const std::vector<ChartPoint> raw = thin_points(points, kColumns);
      if (wanted.is_noisy && points.size() > 20) {
        chart.drawing.lines.push_back({"", shown, raw, true, ""});
        chart.drawing.lines.push_back(
            {name, shown, thin_points(smoothed(points), kColumns), false, ""});
      } else {
        chart.drawing.lines.push_back({name, shown, raw, false, ""});
      }
    }
    if (chart.drawing.lines.empty() && chart.zeros.empty()) continue;
    for (const ReportEvent& event : run.events) {
      chart.drawing.marks.push_back(
          {event.tokens, event_color(event.name),
           fmt::format("{} at step {}: {}", event.name, event.step, event.detail)});
    }
    chart.drawing.x = token_axis(run.num_tokens);
    chart.drawing.y =
        axis_for(chart.drawing.lines, {}, axis_start(wanted, run.num_tokens), wanted.may_be_log);
    charts.push_back(std::move(chart));
  }
  return charts;
}

std::vector<ReportGroup> groups_of(const std::vector<ReportRun>& runs) {
  std::vector<ReportGroup> groups;
  for (const ReportRun& run : runs) {
    auto found = std::find_if(groups.begin(), groups.end(),
                              [&](const ReportGroup& group) { return group.name == run.group; });
    if (found == groups.end()) found = groups.insert(groups.end(), {run.group, {}});
    found->runs.push_back(&run);
  }
  return groups;
}

std::vector<std::string> compared_metrics(const std::vector<ReportGroup>& groups) {
  std::vector<const ReportRun*> runs;
  for (const ReportGroup& group : groups)
    runs.insert(runs.end(), group.runs.begin(), group.runs.end());
  const std::set<std::string> names = names_of(runs);
  std::vector<std::string> out;
  for (const ChartOfMetrics& wanted : standard_charts()) {
    for (const std::string& name : matching(wanted.metrics, names)) {
      // Of no use where it is 0 everywhere.
      const bool says_something = std::any_of(runs.begin(), runs.end(), [&](const ReportRun* run) {
        const auto found = run->series.find(name);
        return found != run->series.end() && has_finite(found->second) && !is_zero(found->second);
      });
      if (says_something) out.push_back(name);
    }
  }
  return out;
}

std::vector<ReportChart> comparison_charts(const std::vector<ReportGroup>& groups) {
  double max_tokens = 0;
  for (const ReportGroup& group : groups) {
    for (const ReportRun* run : group.runs) max_tokens = std::max(max_tokens, run->num_tokens);
  }
  std::vector<ReportChart> charts;
  for (const std::string& name : compared_metrics(groups)) {
    const ChartOfMetrics& wanted = standard_chart_of(name);
    ReportChart chart;
    chart.title = chart.drawing.title = name;
    for (size_t i = 0; i < groups.size(); ++i) {
      GroupCourse course = course_of(groups[i], name, wanted.is_noisy);
      if (course.mean.empty()) continue;
      if (!course.band.x.empty()) {
        course.band.color = line_color(i);
        chart.drawing.bands.push_back(std::move(course.band));
      }
      chart.drawing.lines.push_back(
          {groups[i].name, line_color(i), std::move(course.mean), false, ""});
    }
    if (chart.drawing.lines.empty()) continue;
    chart.drawing.x = token_axis(max_tokens);
    chart.drawing.y = axis_for(chart.drawing.lines, chart.drawing.bands,
                               axis_start(wanted, max_tokens), wanted.may_be_log);
    charts.push_back(std::move(chart));
  }
  return charts;
}

}  // namespace cachalot::apps
