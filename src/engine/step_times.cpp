#include "engine/step_times.h"

#include <algorithm>
#include <bit>

namespace cachalot::engine {
namespace {

constexpr int64_t kFew = 3;  // a median of fewer may be the one that was held up
// What was held up, or lost in the noise of the other rows, moves all points by no more.
constexpr double kMostLevel = 8;

// Of 100 steps one exceeds the tail, as they come: it goes up where one does, and down where none.
constexpr double kTailUp = 0.05;
constexpr double kTailDown = kTailUp / 99;
constexpr double kMostTail = 2;  // beyond, it is the machine that is busy: small pieces help little

// Of the first `kept` values.
template <size_t kSize>
double median_of(std::array<double, kSize> values, int64_t kept) {
  std::nth_element(values.begin(), values.begin() + kept / 2, values.begin() + kept);
  return values[static_cast<size_t>(kept / 2)];
}

size_t bucket_of(int64_t rows) {
  return static_cast<size_t>(std::bit_width(static_cast<uint64_t>(rows)) - 1);
}

}  // namespace

StepTimes StepTimes::of_added_rows() {
  StepTimes times;
  times.is_added_ = true;
  return times;
}

void StepTimes::record(int64_t rows, double seconds) {
  if (rows < 1) return;
  if (is_added_ && is_known(rows) && shape(rows) > 0) {
    ratios_[static_cast<size_t>(num_ratios_++ % kLevelOf)] = std::max(0.0, seconds) / shape(rows);
    const double median = median_of(ratios_, std::min<int64_t>(num_ratios_, kLevelOf));
    if (num_ratios_ >= kFew) level_ = std::clamp(median, 1 / kMostLevel, kMostLevel);
  }
  most_rows_ = std::max(most_rows_, rows);
  Point& point = points_[std::min(bucket_of(rows), points_.size() - 1)];
  const auto at = static_cast<size_t>(point.count++ % kKept);
  point.rows_of[at] = static_cast<double>(rows);
  point.seconds_of[at] = std::max(0.0, seconds) / level_;
  const int64_t kept = std::min<int64_t>(point.count, kKept);
  double total = 0;
  for (int64_t i = 0; i < kept; ++i) total += point.rows_of[static_cast<size_t>(i)];
  point.rows = total / static_cast<double>(kept);
  point.seconds = median_of(point.seconds_of, kept);
}

bool StepTimes::is_known(int64_t rows) const {
  return rows >= 1 && points_[std::min(bucket_of(rows), points_.size() - 1)].count >= kFew;
}

double StepTimes::seconds(int64_t rows) const { return level_ * shape(rows); }

double StepTimes::shape(int64_t rows) const {
  const auto x = static_cast<double>(rows);
  double below_rows = 0, below_seconds = 0, above_rows = 0, above_seconds = 0;
  const size_t end = most_rows_ == 0 ? 0 : std::min(bucket_of(most_rows_) + 1, points_.size());
  for (size_t i = 0; i < end; ++i) {
    const Point& point = points_[i];
    if (point.count == 0) continue;
    double seconds = point.seconds;
    // Measurements may cross, and an old one may stand because it is so high that nobody tries its
    // rows again: more rows take no less time, and a row takes no more among many.
    if (below_rows > 0)
      seconds = std::clamp(seconds, below_seconds, below_seconds * point.rows / below_rows);
    if (point.rows > x) {
      above_rows = point.rows;
      above_seconds = seconds;
      break;
    }
    below_rows = point.rows;
    below_seconds = seconds;
  }
  if (below_rows == 0 && !is_added_) return above_seconds;
  if (above_rows == 0) return below_rows == 0 ? 0 : below_seconds * x / below_rows;
  return below_seconds +
         (above_seconds - below_seconds) * (x - below_rows) / (above_rows - below_rows);
}

int64_t StepTimes::rows_within(double seconds, int64_t limit) const {
  int64_t low = 0, high = limit;  // the answer is in [low, high]
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (this->seconds(middle) <= seconds) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

void CostModel::record(int64_t decoded_rows, int64_t piece_rows, double seconds) {
  if (decoded_rows == 0) return prompt.record(piece_rows, seconds);
  if (piece_rows == 0) {
    since_decode = 0;
    ++since_pieces;
    return decode.record(decoded_rows, seconds);
  }
  ++since_decode;
  since_pieces = 0;
  if (pieces.is_known(piece_rows)) {
    const double predicted = decode.seconds(decoded_rows) + pieces.seconds(piece_rows);
    tail = std::clamp(tail + (seconds > tail * predicted ? kTailUp : -kTailDown), 1.0, kMostTail);
  }
  pieces.record(piece_rows, seconds - decode.seconds(decoded_rows));
}

}  // namespace cachalot::engine
