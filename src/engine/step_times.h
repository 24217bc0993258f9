// How long a step of so many rows takes, learnt from the steps that were run.
#pragma once

#include <array>
#include <cstdint>

namespace cachalot::engine {

// A point for each power of two of rows: the decayed mean of what was measured there. Between
// points a straight line, below the first its value, above the last in proportion. More rows never
// take less time than fewer, nor a row more among many. A plain value.
class StepTimes {
 public:
  void record(int64_t rows, double seconds);
  bool is_known() const;
  double seconds(int64_t rows) const;  // 0 where nothing is known
  // The most rows up to `limit` that take at most `seconds`; 0 where one row takes longer.
  int64_t rows_within(double seconds, int64_t limit) const;

 private:
  struct Point {
    double rows = 0;  // 0: nothing measured
    double seconds = 0;
  };
  std::array<Point, 32> points_{};
};

// What a step costs: the model's rows, and the MTP block's drafts (rows: sequences that draft, a
// pass).
struct CostModel {
  StepTimes step;
  StepTimes draft_pass;
};

}  // namespace cachalot::engine
