// The charts of a report: which metrics stand in which, of one run or of several.
#pragma once

#include <string>
#include <vector>

#include "apps/report_run.h"
#include "apps/svg_chart.h"

namespace cachalot::apps {

struct ReportChart {
  std::string title;
  SvgChart drawing;                // its lines' labels are the legend's, empty: none
  std::vector<std::string> zeros;  // metrics that are 0 throughout, and not drawn
};

// Noisy metrics as faint values under their smoothed course; events as marks. Charts without values
// are left out.
std::vector<ReportChart> charts_of(const ReportRun& run);

// Runs of one group: the same configuration with several seeds. In order of the first run of each.
struct ReportGroup {
  std::string name;
  std::vector<const ReportRun*> runs;
};
std::vector<ReportGroup> groups_of(const std::vector<ReportRun>& runs);

// One chart for each metric: a line for each group, the mean of its runs up to where the shortest
// ends, with a band from their least to their greatest.
std::vector<ReportChart> comparison_charts(const std::vector<ReportGroup>& groups);

// Metrics worth a line in a comparison's table, in order; those of these groups.
std::vector<std::string> compared_metrics(const std::vector<ReportGroup>& groups);

// CSS colour of the i-th line, and of an event.
std::string line_color(size_t i);
std::string event_color(const std::string& event);

}  // namespace cachalot::apps
