#include "apps/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "apps/report_charts.h"
#include "base/file.h"

namespace cachalot::apps {
namespace {

constexpr size_t kMaxOpenEvents = 12;  // more are folded
constexpr size_t kShownTasks = 24;     // spread over the run, its last one with them

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --bg: #fbfbfa; --card: #fff; --ink: #1d1f24; --dim: #626873; --edge: #e2e3e6; --grid: #ececef;
  --line-0: #1b5fa8; --line-1: #c8434f; --line-2: #21867a; --line-3: #b36b00; --line-4: #7a4fb5; --line-5: #5f7a1f; --line-6: #b0418f;
  --line-7: #5b6472; --spike: #d11f2f; --rollback: #c26a00; --other-event: #8a8f98; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #14161a; --card: #1c1f25; --ink: #e6e7ea; --dim: #9aa1ad; --edge: #31353d; --grid: #2b2f37;
    --line-0: #6cabf0; --line-1: #f0808a; --line-2: #52c4b4; --line-3: #e5ac4f; --line-4: #b799ec; --line-5: #a9c95c; --line-6: #e68bcb;
    --line-7: #a8b0bd; --spike: #ff6b76; --rollback: #f0a53c; --other-event: #7f8692; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 60px; max-width: 1240px; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 32px 0 10px; }
p { margin: 0 0 12px; color: var(--dim); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 14px; margin-top: 20px; }
figure { margin: 0; padding: 12px 12px 6px; background: var(--card); border: 1px solid var(--edge); border-radius: 8px; min-width: 0; }
figcaption { font-weight: 600; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 0 14px; min-height: 20px; color: var(--dim); font-size: 13px; }
.legend span { overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 14px; height: 3px; margin-right: 5px; vertical-align: middle; border-radius: 2px; }
.legend i.event { width: 0; height: 12px; border-left: 2px dashed; border-radius: 0; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--dim); font-size: 13px; } svg .grid { stroke: var(--grid); } svg .axis-line { stroke: var(--dim); }
.zeros { margin-top: 12px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--edge); white-space: nowrap; vertical-align: bottom; }
table.compared th { white-space: normal; overflow-wrap: anywhere; min-width: 90px; }
th { color: var(--dim); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
td.text { text-align: left; white-space: normal; min-width: 200px; overflow-wrap: anywhere; }
td b { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
td small { color: var(--dim); }
details { margin: 14px 0; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; padding: 12px; background: var(--card); border: 1px solid var(--edge); border-radius: 8px;
  font: 12.5px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (max-width: 560px) { body { padding: 14px 10px 40px; } figure { padding: 10px 6px 4px; } svg text { font-size: 17px; }
  svg .axis { display: none; } td small { display: block; } th, td { padding-right: 10px; } figcaption, .legend { padding-left: 4px; } }
)";

std::string page(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
      escape_html(title), kStyle, body);
}

std::string legend_entry(std::string_view css, std::string_view color, std::string_view label) {
  const std::string_view property = css.empty() ? "background" : "border-color";
  return fmt::format("<span><i class=\"{}\" style=\"{}:{}\"></i>{}</span>", css, property, color,
                     escape_html(label));
}

// The kinds of events that are marked, each once.
std::string event_legend(const std::vector<ReportEvent>& events) {
  std::vector<std::string> kinds;
  std::string out;
  for (const ReportEvent& event : events) {
    if (std::find(kinds.begin(), kinds.end(), event.name) != kinds.end()) continue;
    kinds.push_back(event.name);
    out += legend_entry("event", event_color(event.name), event.name);
  }
  return out.empty() ? "" : fmt::format("<div class=\"legend\">{}</div>\n", out);
}

std::string figure(const ReportChart& chart) {
  std::string legend;
  for (const ChartLine& line : chart.drawing.lines) {
    if (!line.label.empty()) legend += legend_entry("", line.color, line.label);
  }
  for (const std::string& zero : chart.zeros)
    legend += fmt::format("<span>{}: 0 throughout</span>", escape_html(zero));
  return fmt::format(
      "<figure><figcaption>{}</figcaption><div class=\"legend\">{}</div>\n{}</figure>\n",
      escape_html(chart.title), legend, svg_chart(chart.drawing));
}

// A chart that is 0 throughout is a word below the others.
std::string figures(const std::vector<ReportChart>& charts) {
  std::string drawn, zeros;
  for (const ReportChart& chart : charts) {
    if (!chart.drawing.lines.empty()) {
      drawn += figure(chart);
      continue;
    }
    for (const std::string& zero : chart.zeros)
      zeros += fmt::format("{}{}", zeros.empty() ? "" : ", ", escape_html(zero));
  }
  std::string out = fmt::format("<div class=\"charts\">\n{}</div>\n", drawn);
  if (!zeros.empty()) out += fmt::format("<p class=\"zeros\">0 throughout: {}</p>\n", zeros);
  return out;
}

std::string event_table(std::string_view title, const std::vector<ReportEvent>& events) {
  if (events.empty()) return "";
  std::string rows;
  for (const ReportEvent& event : events) {
    rows += fmt::format(
        "<tr><td><b style=\"background:{}\"></b>{}</td><td>{}</td><td>{}</td><td "
        "class=\"text\">{}</td></tr>\n",
        event_color(event.name), escape_html(event.name), event.step, short_number(event.tokens),
        escape_html(event.detail));
  }
  const std::string table = fmt::format(
      "<div class=\"wide\"><table><tr><th>event</th><th>step</th><th>tokens</th><th></th></tr>\n"
      "{}</table></div>\n",
      rows);
  const std::string heading = fmt::format("<h2>{}</h2>\n", title);
  return events.size() <= kMaxOpenEvents
             ? heading + table
             : fmt::format("{}<details><summary>{} of them</summary>\n{}</details>\n", heading,
                           events.size(), table);
}

std::string task_section(const ReportTask& task, bool is_open) {
  std::string rows;
  for (const ReportTask::Answer& answer : task.answers) {
    rows += fmt::format(
        "<tr><td>{}</td><td>{}</td><td class=\"text\"><pre>{}</pre>{}</td></tr>\n",
        short_number(answer.reward), escape_html(answer.end), escape_html(answer.text),
        answer.why.empty() ? "" : fmt::format("<small>{}</small>", escape_html(answer.why)));
  }
  return fmt::format(
      "<details{}><summary>Step {}: {}</summary>\n<pre>{}</pre>\n<div class=\"wide\"><table>"
      "<tr><th>reward</th><th>end</th><th></th></tr>\n{}</table></div></details>\n",
      is_open ? " open" : "", task.step, escape_html(task.name), escape_html(task.prompt), rows);
}

std::string task_sections(const std::vector<ReportTask>& tasks) {
  if (tasks.empty()) return "";
  std::string out = "<h2>Answers</h2>\n";
  const size_t shown = std::min(tasks.size(), kShownTasks);
  for (size_t i = 0; i < shown; ++i) {
    const size_t at = shown == 1 ? 0 : i * (tasks.size() - 1) / (shown - 1);
    out += task_section(tasks[at], i + 1 == shown);
  }
  return out;
}

std::string final_row(const std::string& name, const std::vector<ChartPoint>& points) {
  double least = NAN, most = NAN, last = NAN;
  for (const ChartPoint& point : points) {
    if (!std::isfinite(point.second)) continue;
    last = point.second;
    if (!(least <= last)) least = last;
    if (!(most >= last)) most = last;
  }
  return fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                     escape_html(name), short_number(last), short_number(final_value(points)),
                     short_number(least), short_number(most));
}

std::string final_table(const ReportRun& run) {
  constexpr std::string_view kHead =
      "<div class=\"wide\"><table><tr><th>metric</th><th>last</th><th>last tenth</th><th>least</th>"
      "<th>greatest</th></tr>\n";
  constexpr std::string_view kEnd = "</table></div>\n";
  std::string main, tensors;
  for (const auto& [name, points] : run.series)
    (name.starts_with("update_rms/") || name.starts_with("spectrum/") ? tensors : main) +=
        final_row(name, points);
  if (main.empty() && tensors.empty()) return "";
  std::string out = fmt::format("<h2>Numbers</h2>\n{}{}{}", kHead, main, kEnd);
  if (!tensors.empty()) {
    out += fmt::format("<details><summary>Tensor by tensor</summary>\n{}{}{}</details>\n", kHead,
                       tensors, kEnd);
  }
  return out;
}

std::string configuration_block(const std::string& summary, const std::string& configuration) {
  if (configuration.empty()) return "";
  return fmt::format("<details><summary>{}</summary>\n<pre>{}</pre></details>\n",
                     escape_html(summary), escape_html(configuration));
}

// Mean, and from least to greatest where there are several.
std::string spread_cell(const ReportGroup& group, const std::string& metric) {
  std::vector<double> values;
  for (const ReportRun* run : group.runs) {
    const auto found = run->series.find(metric);
    const double value = found == run->series.end() ? NAN : final_value(found->second);
    if (std::isfinite(value)) values.push_back(value);
  }
  if (values.empty()) return "<td>–</td>";
  const double least = std::ranges::min(values), most = std::ranges::max(values);
  if (short_number(least) == short_number(most))
    return fmt::format("<td>{}</td>", short_number(least));
  return fmt::format("<td>{} <small>{}…{}</small></td>", short_number(mean(values)),
                     short_number(least), short_number(most));
}

std::string comparison_table(const std::vector<ReportGroup>& groups) {
  std::string out = "<div class=\"wide\"><table class=\"compared\"><tr><th>metric</th>";
  for (size_t i = 0; i < groups.size(); ++i) {
    const size_t count = groups[i].runs.size();
    out += fmt::format("<th>{}{}</th>", escape_html(groups[i].name),
                       count == 1 ? "" : fmt::format(" × {}", count));
  }
  out += "</tr>\n";
  const auto add_row = [&](const std::string& name, const auto& cell) {
    out += fmt::format("<tr><td>{}</td>", escape_html(name));
    for (const ReportGroup& group : groups) out += cell(group);
    out += "</tr>\n";
  };
  add_row("tokens", [](const ReportGroup& group) {
    double least = INFINITY, most = 0;
    for (const ReportRun* run : group.runs) {
      least = std::min(least, run->num_tokens);
      most = std::max(most, run->num_tokens);
    }
    return least == most ? fmt::format("<td>{}</td>", short_number(most))
                         : fmt::format("<td>{}…{}</td>", short_number(least), short_number(most));
  });
  for (const std::string& metric : compared_metrics(groups))
    add_row(metric, [&](const ReportGroup& group) { return spread_cell(group, metric); });
  return out + "</table></div>\n";
}

}  // namespace

std::string run_report(const ReportRun& run) {
  std::string body = fmt::format("<h1>{}</h1>\n<p>{} steps, {} tokens</p>\n", escape_html(run.name),
                                 run.num_steps, short_number(run.num_tokens));
  body += configuration_block("Configuration", run.configuration);
  const std::vector<ReportChart> charts = charts_of(run);
  if (charts.empty()) body += "<p>No step has been logged.</p>\n";
  body += event_legend(run.events);
  body += figures(charts);
  body += task_sections(run.tasks);
  body += event_table("Samples", run.samples);
  body += event_table("Events", run.events);
  body += final_table(run);
  return page(run.name, body);
}

std::string comparison_report(const std::vector<ReportRun>& runs) {
  const std::vector<ReportGroup> groups = groups_of(runs);
  const std::string title = fmt::format("{} runs compared", runs.size());
  std::string body = fmt::format("<h1>{}</h1>\n", title);
  if (groups.size() < runs.size()) {
    body +=
        "<p>Runs that differ in their seed alone are one line, their mean, with a band from their "
        "least to their greatest.</p>\n";
  }
  body +=
      "<h2>Final values</h2>\n<p>Means of each run's last tenth.</p>\n" + comparison_table(groups);
  const std::vector<ReportChart> charts = comparison_charts(groups);
  if (charts.empty()) body += "<p>No step has been logged.</p>\n";
  body += figures(charts);
  body += "<h2>Configurations</h2>\n";
  for (const ReportRun& run : runs) body += configuration_block(run.name, run.configuration);
  return page(title, body);
}

std::string report_path(const std::vector<std::string>& directories, const std::string& out_path) {
  return !out_path.empty() ? out_path
                           : (std::filesystem::path(directories.at(0)) / "report.html").string();
}

Status write_report(const std::vector<std::string>& directories, const std::string& out_path) {
  if (directories.size() > 1 && out_path.empty())
    return invalid_argument("report: expected --out for a comparison of several runs, found none");
  std::vector<ReportRun> runs;
  for (const std::string& directory : directories) {
    CACHALOT_ASSIGN_OR_RETURN(ReportRun run, read_report_run(directory));
    runs.push_back(std::move(run));
  }
  return write_file_atomically(report_path(directories, out_path),
                               runs.size() == 1 ? run_report(runs[0]) : comparison_report(runs));
}

}  // namespace cachalot::apps
