// RUN/metrics.jsonl: one JSON object per line, appended as the run goes.
//   {"step": 12, "tokens": 49152, "loss/lm": 2.93, ..., "time/seconds": 0.41}   a step's values;
//   those under "time/" and
//                                                                              "throughput/" alone
//                                                                              differ between equal
//                                                                              runs
//   {"step": 12, "event": "spike", "detail": "..."}                            something that
//   happened after that step
// A number that is not finite is written as null. Floats read back exactly. Nothing else is read:
// no other key or kind, no key twice, no number that a double cannot hold.
// Resume   lines of later steps, and a torn last line, are dropped, so that every step stands there
//          once.
// Errors   io_error; data_loss (a line that is not such an object) with path, line, key and what
//          was found.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"

namespace cachalot::train {

using MetricValues = std::vector<std::pair<std::string, double>>;

struct MetricsLine {
  int64_t step = 0;
  int64_t tokens = 0;
  MetricValues values;
  std::string event;  // empty: a step's values
  std::string detail;
};

// A torn last line is left out.
Result<std::vector<MetricsLine>> read_metrics(const std::string& path);

class MetricsLog {
 public:
  // Goes on after `last_step`: lines of later steps are dropped first, but for events before a line
  // that stays (a rollback's spike).
  static Result<MetricsLog> open(const std::string& path, int64_t last_step);

  Status write(int64_t step, int64_t tokens, const MetricValues& values);
  Status write_event(int64_t step, std::string_view event, std::string_view detail);
  // Drops the values of steps after last_step; events stay.
  Status rewind(int64_t last_step);
  // What was written so far outlives a loss of power.
  Status sync();

 private:
  MetricsLog(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  Status append(const std::string& line);
  std::string path_;
  Fd fd_;
};

}  // namespace cachalot::train
