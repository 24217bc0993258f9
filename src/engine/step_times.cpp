#include "engine/step_times.h"

#include <algorithm>
#include <bit>

namespace cachalot::engine {
namespace {

// The weight of one measurement: slow enough that a neighbour's disturbance passes, fast enough to
// follow a growing context.
constexpr double kWeight = 0.1;

}  // namespace

void StepTimes::record(int64_t rows, double seconds) {
  if (rows < 1) return;
  const auto bucket = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(rows)) - 1);
  Point& point = points_[std::min(bucket, points_.size() - 1)];
  const double weight = point.rows == 0 ? 1.0 : kWeight;
  point.rows += weight * (static_cast<double>(rows) - point.rows);
  point.seconds += weight * (seconds - point.seconds);
}

bool StepTimes::is_known() const {
  return std::any_of(points_.begin(), points_.end(), [](const Point& p) { return p.rows > 0; });
}

double StepTimes::seconds(int64_t rows) const {
  const auto x = static_cast<double>(rows);
  Point below, above;
  for (Point point : points_) {
    if (point.rows == 0) continue;
    // Measurements may cross, and an old one may stand because it is so high that nobody tries its
    // rows again: more rows take no less time, and a row takes no more among many.
    if (below.rows > 0) {
      point.seconds =
          std::clamp(point.seconds, below.seconds, below.seconds * point.rows / below.rows);
    }
    if (point.rows <= x) {
      below = point;
    } else {
      above = point;
      break;
    }
  }
  if (below.rows == 0) return above.seconds;
  if (above.rows == 0) return below.seconds * x / below.rows;
  return below.seconds +
         (above.seconds - below.seconds) * (x - below.rows) / (above.rows - below.rows);
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

}  // namespace cachalot::engine
