// The report of a training run, or of several beside each other: one HTML file that needs nothing
// else, for a screen or a phone, light or dark as the reader's system is. Every text of a run is
// escaped.
#pragma once

#include <string>
#include <vector>

#include "apps/report_run.h"
#include "base/status.h"

namespace cachalot::apps {

std::string run_report(const ReportRun& run);
std::string comparison_report(const std::vector<ReportRun>& runs);

// Where write_report() writes: out_path, or report.html in the directory of the one run.
std::string report_path(const std::vector<std::string>& directories, const std::string& out_path);

// One directory: its report. Several: their comparison.
// Errors  invalid_argument for several runs without out_path; those of read_report_run() and of the
//         file.
Status write_report(const std::vector<std::string>& directories, const std::string& out_path);

}  // namespace cachalot::apps
