// How long a step of so many rows takes, learnt from the steps that were run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace cachalot::engine {

// A point for each power of two of rows: the median of what was last measured there, since a few
// steps that something else held up say nothing of the others. Between points a straight line,
// below the first its value (or down to 0 for none), above the last in proportion. More rows never
// take less time than fewer, nor a row more among many. A plain value.
class StepTimes {
 public:
  // The time that rows add to a step which runs without them too: none takes none. A prompt's rows
  // take ever more as its context grows, and few again as the next one begins: so all points rise
  // and fall together, by what the last few steps took of what the points say.
  static StepTimes of_added_rows();

  void record(int64_t rows, double seconds);
  bool is_known() const { return most_rows() > 0; }
  // Whether steps of about as many rows have been measured often enough to speak of a median.
  bool is_known(int64_t rows) const;
  int64_t most_rows() const { return most_rows_; }  // that were measured
  double seconds(int64_t rows) const;               // 0 where nothing is known
  // The most rows up to `limit` that take at most `seconds`; 0 where one row takes longer.
  int64_t rows_within(double seconds, int64_t limit) const;

 private:
  static constexpr int kKept = 15;  // soon outlived, as a growing context wants it
  struct Point {
    std::array<double, kKept> rows_of{}, seconds_of{};  // the last ones, in a ring
    int64_t count = 0;                                  // ever
    double rows = 0, seconds = 0;                       // their mean, and median
  };
  static constexpr int kLevelOf = 5;  // steps

  double shape(int64_t rows) const;

  std::array<Point, 32> points_{};
  int64_t most_rows_ = 0;
  bool is_added_ = false;
  std::array<double, kLevelOf> ratios_{};  // of measured seconds to the shape's, in a ring
  int64_t num_ratios_ = 0;                 // ever
  double level_ = 1;                       // their median; what is measured is kept without it
};

// What a step costs. Rows: of the main model; of a draft pass, sequences that draft.
struct CostModel {
  StepTimes decode;                              // steps without pieces of prompts
  StepTimes pieces{StepTimes::of_added_rows()};  // what these add beside decoding rows
  StepTimes prompt;                              // pieces alone
  StepTimes draft_pass;
  // Nearly all steps with pieces beside decoding rows take at most this times what was predicted.
  double tail = 1.25;
  int64_t since_decode = 0;     // steps with both, since the last without pieces
  int64_t since_pieces = 0;     // steps without pieces beside decoding rows, since the last with
  int64_t since_draftless = 0;  // steps with drafts, since the last without

  bool is_known() const { return decode.is_known() || prompt.is_known(); }
  // A step of decoded rows and pieces' rows took this long, its drafts apart.
  void record(int64_t decoded_rows, int64_t piece_rows, double seconds);
};

}  // namespace cachalot::engine
